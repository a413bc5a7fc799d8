"""Qdrant's conditions from plain values: what `ragkit.filters` puts a filter together from.

Every function refuses, with a ValueError that names the key, what would hold for nothing or for
everything without saying so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeGuard
from uuid import UUID

from qdrant_client import models

_INTEGERS = range(-(2**63), 2**63)
_IDS = range(2**64)
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

# --- what a key can be asked ---------------------------------------------------------------------


def literal(key: str, wanted: Any) -> models.Condition:
    """A value, or one of a list of them, nothing in which is a pattern."""
    if not is_listing(wanted):
        return equal(key, wanted)
    each = some(key, wanted)
    others = [equal(key, value) for value in each if not is_plain(value)]
    return any_of([*matches(key, each), *others])


def equal(key: str, wanted: Any) -> models.Condition:
    """One value."""
    if is_plain(wanted):
        check_plain(key, wanted)
        return models.FieldCondition(key=key, match=models.MatchValue(value=wanted))
    match wanted:
        case None:
            return is_empty(key)
        case bool():
            return models.FieldCondition(key=key, match=models.MatchValue(value=wanted))
        # Qdrant matches no floats; this range is the number itself.
        case float() | date():
            return in_range(key, {"gte": wanted, "lte": wanted})
        case _:
            expected = "a string, number, boolean, date, None, a list of these, or a dict"
            raise wrong(key, expected, wanted)


def matches(key: str, wanted: Iterable[Any]) -> list[models.Condition]:
    """One condition for all strings among the values, and one for all integers."""
    plain = [value for value in wanted if is_plain(value)]
    for value in plain:
        check_plain(key, value)
    kinds = ([v for v in plain if isinstance(v, str)], [v for v in plain if isinstance(v, int)])
    return [
        models.FieldCondition(key=key, match=models.MatchAny(any=values))
        for values in kinds
        if values
    ]


def other_than(key: str, wanted: list[Any]) -> models.Condition:
    """A value other than these strings or integers."""
    if not all(map(is_plain, wanted)) or len({isinstance(each, str) for each in wanted}) > 1:
        raise wrong(f"{key}, 'except'", 'strings alone or integers alone, or {"not": …}', wanted)
    for value in wanted:
        check_plain(key, value)
    return models.FieldCondition(key=key, match=models.MatchExcept(**{"except": wanted}))


def is_empty(key: str) -> models.Condition:
    """No value: the key is absent, null or []."""
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def is_null(key: str) -> models.Condition:
    """The key is there and null."""
    return models.IsNullCondition(is_null=models.PayloadField(key=key))


def has_id(wanted: Any) -> models.Condition:
    """The point has this id, or one of these."""
    ids = some("'has_id'", wanted if is_listing(wanted) else [wanted])
    return models.HasIdCondition(has_id=[_point_id(each) for each in ids])


def _point_id(given: Any) -> int | str:
    if isinstance(given, int) and not isinstance(given, bool) and given in _IDS:
        return given
    if isinstance(given, str | UUID):
        try:
            return str(UUID(str(given)))
        except ValueError:
            pass
    raise wrong("'has_id'", "a UUID or an integer from 0 to 2**64 - 1", given)


# --- ranges --------------------------------------------------------------------------------------


def in_range(key: str, bounds: Mapping[str, Any]) -> models.Condition:
    """A number or a time within bounds, which are gt or gte, lt or lte."""
    given = dict(bounds)
    if {"gt", "gte"} <= bounds.keys() or {"lt", "lte"} <= bounds.keys():
        raise wrong(key, "one lower and one upper bound at most", given)
    ends: dict[str, Any] = dict(_bound(key, *each) for each in bounds.items())
    if len({isinstance(end, datetime) for end in ends.values()}) > 1:
        raise wrong(key, "two numbers or two times as bounds", given)
    if _is_void(ends):
        raise wrong(key, "bounds with something between them", given)
    kind = models.DatetimeRange if datetime in map(type, ends.values()) else models.Range
    return models.FieldCondition(key=key, range=kind(**ends))


def _bound(key: str, operator: str, given: Any) -> tuple[str, float | datetime]:
    """A bound as Qdrant has it; one that is a day becomes one that is its begin or end."""
    name = f"{key}, {operator!r}"
    if isinstance(given, str):
        given = _parsed(name, given)
    if isinstance(given, bool) or not isinstance(given, int | float | date):
        raise wrong(name, "a number, a date, a datetime or an ISO string", given)
    if isinstance(given, int | float):
        return operator, _finite(name, given)
    try:
        if isinstance(given, datetime):
            zoned = given if given.utcoffset() is not None else given.replace(tzinfo=UTC)
            return operator, zoned.astimezone(UTC)
        begin = datetime.combine(given, time(), UTC)
        if operator in ("gte", "lt"):
            return operator, begin
        return {"gt": "gte", "lte": "lt"}[operator], begin + timedelta(days=1)
    except OverflowError as exc:
        raise wrong(name, "a time between the years 1 and 9999", given) from exc


def _finite(name: str, given: float) -> float:
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    # Ranges are of 64 bit floats: an integer that is none would be another one.
    if not math.isfinite(number) or number != given:
        raise wrong(name, "a finite number that a 64 bit float can be", given)
    return number


def _parsed(name: str, given: str) -> date | datetime:
    try:
        if _ISO_DATE.fullmatch(given):
            return date.fromisoformat(given)
        if _ISO_DATE.match(given):
            return datetime.fromisoformat(given)
    except ValueError as exc:
        raise wrong(name, 'a time such as "2024-05-01T12:00:00Z"', given) from exc
    raise wrong(name, "a number or an ISO time (Qdrant has no ranges of other strings)", given)


def _is_void(ends: Mapping[str, Any]) -> bool:
    lower, upper = ends.get("gte", ends.get("gt")), ends.get("lte", ends.get("lt"))
    if lower is None or upper is None:
        return False
    return bool(lower > upper or (lower == upper and ("gt" in ends or "lt" in ends)))


# --- conditions are put together -----------------------------------------------------------------


def all_of(conditions: list[models.Condition]) -> models.Condition:
    """All conditions at once."""
    if len(conditions) == 1:
        return conditions[0]
    # Read as Qdrant's users write it: what must not hold is said once, beside what must.
    denials = [_denied(each) for each in conditions]
    must = [each for each, denied in zip(conditions, denials, strict=True) if denied is None]
    must_not = [denied for denied in denials if denied is not None]
    return models.Filter(must=must or None, must_not=must_not or None)


def any_of(conditions: list[models.Condition]) -> models.Condition:
    """At least one of the conditions."""
    return conditions[0] if len(conditions) == 1 else models.Filter(should=conditions)


def not_(condition: models.Condition) -> models.Condition:
    """The opposite of a condition."""
    denied = _denied(condition)
    return models.Filter(must_not=[condition]) if denied is None else denied


def _denied(condition: models.Condition) -> models.Condition | None:
    """What must not hold, of a filter that says just that of one condition."""
    if not isinstance(condition, models.Filter):
        return None
    said = {clause for clause, value in condition if value is not None}
    denied = listed(condition.must_not)
    return denied[0] if said == {"must_not"} and len(denied) == 1 else None


def as_filter(condition: models.Condition) -> models.Filter:
    """A condition as a whole filter."""
    return condition if isinstance(condition, models.Filter) else models.Filter(must=[condition])


def listed(clause: models.Condition | list[models.Condition] | None) -> list[models.Condition]:
    """A clause of a filter as a list: Qdrant takes one condition for a list of one."""
    if clause is None:
        return []
    return clause if isinstance(clause, list) else [clause]


# --- what is given is checked --------------------------------------------------------------------


def is_plain(value: Any) -> TypeGuard[str | int]:
    """Whether Qdrant matches it in lists as well as alone: a string or an integer."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def is_listing(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]]:
    """Whether it stands for several values."""
    return isinstance(value, list | tuple | set | frozenset)


def some(name: str, given: Any) -> list[Any]:
    """A list with something in it; `name` is what an error calls it."""
    if not is_listing(given):
        raise wrong(name, "a list", given)
    if not given:
        raise wrong(name, "a list with something in it", given)
    # Sets have no order, and the same filter should be the same request.
    return sorted(given, key=repr) if isinstance(given, set | frozenset) else list(given)


def flag(name: str, given: Any) -> bool:
    """True or False."""
    if not isinstance(given, bool):
        raise wrong(name, "True or False", given)
    return given


def words(name: str, given: Any) -> str:
    """A text to look for."""
    if not isinstance(given, str) or not given.strip():
        raise wrong(name, "a string with words in it", given)
    check_plain(name, given)
    return given


def check_plain(name: str, value: str | int) -> None:
    """Refuse strings that cannot be sent and integers that cannot be stored."""
    if isinstance(value, str) and _NOT_TEXT.search(value):
        raise wrong(name, "a string of valid text", value)
    if isinstance(value, int) and value not in _INTEGERS:
        raise wrong(name, "an integer of 64 bits", value)


def wrong(name: str, expected: str, got: Any) -> ValueError:
    """The error that says what was expected and what came."""
    return ValueError(f"{name}: expected {expected}, got {_shown(got)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
