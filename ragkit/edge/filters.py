"""Filters of qdrant-client become filters of the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from ragkit.edge.points import to_edge_ids
from ragkit.edge.responses import bad_request, unsupported

# A write's filter goes into the write-ahead log, which is read back to some 128 levels of
# structure, up to five for one of these, and the shard does not open again if one is deeper; a
# search's filter overflows the stack, which ends the process, at about 1000.
MAX_DEPTH = 20


def to_edge_filter(filter: models.Filter | None) -> edge.Filter | None:  # noqa: A002
    """The same filter for the engine; None matches everything.

    Raises:
        UnexpectedResponse: A condition that a server refuses (400).
        NotImplementedError: A condition that the engine does not have.
    """
    return None if filter is None else to_edge_condition(filter)


def to_edge_condition(condition: models.Condition) -> Any:
    """The same condition for the engine; raises as `to_edge_filter`."""
    try:
        return _condition(condition, 1)
    # What the engine says to a bad path, date, polygon or number when an object is built.
    except (TypeError, ValueError, OverflowError) as exc:
        raise bad_request(f"Wrong input: the filter is not valid: {exc}") from exc


def _filter(filter: models.Filter, depth: int) -> edge.Filter:  # noqa: A002
    if depth > MAX_DEPTH:
        raise bad_request(
            f"Wrong input: the filter is nested more than {MAX_DEPTH} levels deep: flatten it"
        )
    return edge.Filter(
        must=_conditions(filter.must, depth),
        should=_conditions(filter.should, depth),
        must_not=_conditions(filter.must_not, depth),
        min_should=_min_should(filter.min_should, depth),
    )


def _conditions(conditions: Any, depth: int) -> list[Any] | None:
    if conditions is None:
        return None
    if not isinstance(conditions, list):
        conditions = [conditions]
    return [_condition(condition, depth + 1) for condition in conditions]


def _min_should(min_should: models.MinShould | None, depth: int) -> edge.MinShould | None:
    if min_should is None:
        return None
    return edge.MinShould(_conditions(min_should.conditions, depth) or [], min_should.min_count)


def _condition(condition: Any, depth: int) -> Any:
    if isinstance(condition, models.Filter):
        return _filter(condition, depth)
    if isinstance(condition, models.NestedCondition):
        nested = condition.nested
        return edge.NestedCondition(nested.key, _filter(nested.filter, depth))
    translate = _CONDITIONS.get(type(condition))
    if translate is None:
        raise unsupported(f"the condition {type(condition).__name__}")
    return translate(condition)


def _field(condition: models.FieldCondition) -> edge.FieldCondition:
    if all(value is None for name, value in condition if name != "key"):
        raise bad_request(
            f"Validation error in JSON body: condition on {condition.key!r}: "
            "At least one field condition must be specified"
        )
    return edge.FieldCondition(
        condition.key,
        match=None if condition.match is None else _match(condition.match),
        range=None if condition.range is None else _range(condition.range),
        geo_bounding_box=_optional(_bounding_box, condition.geo_bounding_box),
        geo_radius=_optional(_radius, condition.geo_radius),
        geo_polygon=_optional(_polygon, condition.geo_polygon),
        values_count=_optional(_values_count, condition.values_count),
        is_empty=condition.is_empty,
        is_null=condition.is_null,
    )


def _optional(translate: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else translate(value)


def _match(match: Any) -> Any:
    translate = _MATCHES.get(type(match))
    if translate is None:
        raise unsupported(f"the match {type(match).__name__}")
    return translate(match)


def _match_value(match: models.MatchValue) -> edge.MatchValue:
    value: Any = match.value
    if isinstance(value, bool):
        # The engine takes True and False for 1 and 0, which no boolean equals; but not NumPy's.
        value = np.bool_(value)
    return edge.MatchValue(value)


def _range(bounds: models.RangeInterface) -> edge.RangeFloat | edge.RangeDateTime:
    if isinstance(bounds, models.DatetimeRange):
        return edge.RangeDateTime(
            gte=_optional(rfc3339, bounds.gte),
            gt=_optional(rfc3339, bounds.gt),
            lte=_optional(rfc3339, bounds.lte),
            lt=_optional(rfc3339, bounds.lt),
        )
    for name, value in bounds:
        if value is not None and math.isnan(value):
            raise bad_request(f"Wrong input: the range's {name} is NaN: give a number")
    return edge.RangeFloat(gte=bounds.gte, gt=bounds.gt, lte=bounds.lte, lt=bounds.lt)


def rfc3339(moment: date | datetime) -> str:
    """A date or time as the engine reads it; without a zone it is UTC, as on the server."""
    if isinstance(moment, datetime) and moment.utcoffset() is not None:
        moment = moment.astimezone(UTC)
    return moment.isoformat()


def to_edge_geo_point(point: models.GeoPoint) -> edge.GeoPoint:
    """The same point; raises ValueError off the globe."""
    return edge.GeoPoint(point.lon, point.lat)


def _bounding_box(box: models.GeoBoundingBox) -> edge.GeoBoundingBox:
    return edge.GeoBoundingBox(to_edge_geo_point(box.top_left), to_edge_geo_point(box.bottom_right))


def _radius(circle: models.GeoRadius) -> edge.GeoRadius:
    return edge.GeoRadius(to_edge_geo_point(circle.center), circle.radius)


def _polygon(polygon: models.GeoPolygon) -> edge.GeoPolygon:
    return edge.GeoPolygon(_ring(polygon.exterior), [_ring(r) for r in polygon.interiors or []])


def _ring(line: models.GeoLineString) -> list[edge.GeoPoint]:
    return [to_edge_geo_point(point) for point in line.points]


def _values_count(count: models.ValuesCount) -> edge.ValuesCount:
    return edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte)


_MATCHES: dict[type, Callable[[Any], Any]] = {
    models.MatchValue: _match_value,
    models.MatchText: lambda match: edge.MatchText(match.text),
    models.MatchTextAny: lambda match: edge.MatchTextAny(match.text_any),
    models.MatchPhrase: lambda match: edge.MatchPhrase(match.phrase),
    models.MatchPrefix: lambda match: edge.MatchPrefix(match.prefix),
    models.MatchSubstring: lambda match: edge.MatchSubstring(match.substring),
    models.MatchAny: lambda match: edge.MatchAny(match.any),
    models.MatchExcept: lambda match: edge.MatchExcept(match.except_),
}

_CONDITIONS: dict[type, Callable[[Any], Any]] = {
    models.FieldCondition: _field,
    models.IsEmptyCondition: lambda c: edge.IsEmptyCondition(c.is_empty.key),
    models.IsNullCondition: lambda c: edge.IsNullCondition(c.is_null.key),
    models.HasIdCondition: lambda c: edge.HasIdCondition(set(to_edge_ids(c.has_id))),
    models.HasVectorCondition: lambda c: edge.HasVectorCondition(c.has_vector),
    # The engine has it; its type stubs forget it.
    models.SliceCondition: lambda c: edge.SliceCondition(  # type: ignore[attr-defined]
        c.slice.total, c.slice.index
    ),
}
