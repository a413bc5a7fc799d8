"""Score formulas: qdrant-client's expressions become the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from ragkit.edge.filters import to_edge_condition, to_edge_geo_point
from ragkit.edge.responses import bad_request, unsupported

_Expression = edge.Expression


def to_edge_formula(query: models.FormulaQuery) -> edge.Formula:
    """The same formula for the engine.

    Raises:
        UnexpectedResponse: A variable, date or place that a server refuses (400).
        NotImplementedError: An expression that the engine does not have.
    """
    try:
        return edge.Formula(to_edge_expression(query.formula), query.defaults or {})
    except RecursionError as exc:
        raise bad_request("Wrong input: the formula is nested too deeply: flatten it") from exc
    # What the engine says to a bad path, date or place when an expression is built.
    except (TypeError, ValueError, OverflowError) as exc:
        raise bad_request(f"Wrong input: the formula is not valid: {exc}") from exc


def to_edge_expression(expression: Any) -> edge.Expression:
    """One node of a formula: a number, a variable such as `$score`, a condition or an operation."""
    if isinstance(expression, int | float):
        return _Expression.Constant(float(expression))
    if isinstance(expression, str):
        return _Expression.Variable(expression)
    translate = _EXPRESSIONS.get(type(expression))
    if translate is not None:
        return translate(expression)
    if type(expression).__name__.endswith("Expression"):
        raise unsupported(f"the expression {type(expression).__name__}")
    return _Expression.Condition(to_edge_condition(expression))


def _all(expressions: list[Any]) -> list[edge.Expression]:
    return [to_edge_expression(expression) for expression in expressions]


def _div(expression: models.DivExpression) -> edge.Expression:
    div = expression.div
    left, right = to_edge_expression(div.left), to_edge_expression(div.right)
    return _Expression.Div(left, right, div.by_zero_default)


def _pow(expression: models.PowExpression) -> edge.Expression:
    base, exponent = expression.pow.base, expression.pow.exponent
    return _Expression.Pow(to_edge_expression(base), to_edge_expression(exponent))


def _geo_distance(expression: models.GeoDistance) -> edge.Expression:
    distance = expression.geo_distance
    return _Expression.GeoDistance(to_edge_geo_point(distance.origin), distance.to)


def _decay(kind: edge.DecayKind, params: models.DecayParamsExpression) -> edge.Expression:
    target = None if params.target is None else to_edge_expression(params.target)
    x = to_edge_expression(params.x)
    return _Expression.Decay(kind, x, target, params.midpoint, params.scale)


_EXPRESSIONS: dict[type, Callable[[Any], edge.Expression]] = {
    models.GeoDistance: _geo_distance,
    models.DatetimeExpression: lambda e: _Expression.Datetime(e.datetime),
    models.DatetimeKeyExpression: lambda e: _Expression.DatetimeKey(e.datetime_key),
    models.MultExpression: lambda e: _Expression.Mult(_all(e.mult)),
    models.SumExpression: lambda e: _Expression.Sum(_all(e.sum)),
    models.MaxExpression: lambda e: _Expression.Max(_all(e.max)),
    models.MinExpression: lambda e: _Expression.Min(_all(e.min)),
    models.NegExpression: lambda e: _Expression.Neg(to_edge_expression(e.neg)),
    models.AbsExpression: lambda e: _Expression.Abs(to_edge_expression(e.abs)),
    models.DivExpression: _div,
    models.SqrtExpression: lambda e: _Expression.Sqrt(to_edge_expression(e.sqrt)),
    models.PowExpression: _pow,
    models.ExpExpression: lambda e: _Expression.Exp(to_edge_expression(e.exp)),
    models.Log10Expression: lambda e: _Expression.Log10(to_edge_expression(e.log10)),
    models.LnExpression: lambda e: _Expression.Ln(to_edge_expression(e.ln)),
    models.AcoshExpression: lambda e: _Expression.Acosh(to_edge_expression(e.acosh)),
    models.LinDecayExpression: lambda e: _decay(edge.DecayKind.Lin, e.lin_decay),
    models.ExpDecayExpression: lambda e: _decay(edge.DecayKind.Exp, e.exp_decay),
    models.GaussDecayExpression: lambda e: _decay(edge.DecayKind.Gauss, e.gauss_decay),
}
