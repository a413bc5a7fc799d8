"""Filters as they are typed on a command line: `--where 'year>=2024' --where 'lang=en,de'`.

A clause is a key, an operator and a value; all clauses must hold.

    ===================================  ==========================================================
    lang=en                              has this value
    lang=en,de                           has one of these
    lang!=en,de                          has none of these (and may have no value at all)
    source=docs/*                        is like this: `*` is any run of characters, "/" too
    lang=*  lang=null                    has a value; has none
    year>=2024  year<2026                compares numbers; the operators are >, >=, <, <=
    published>=2024-05-01                compares times; a date is its whole day (UTC)
    title~"some words"                   has these words
    ===================================  ==========================================================

Keys are those of `ragkit.filters`. Values are read as JSON would be: 2024 and 0.5 are numbers, true
and false booleans, null no value; besides, 2024-05-01 and 2024-05-01T12:00 are times. Everything
else is a string, 007 as well. Quotes, single or double, make a string of anything, and nothing in
them is special but a backslash, which takes the next character as it is: version="1.10",
author="Dole, Bob", name="a*b".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from ragkit.filters import RESERVED

_CLAUSE = re.compile(
    r"""(?P<key>(?:[^"<>=!~]|"[^"]*")+?)\s*(?P<operator>>=|<=|!=|=|>|<|~)(?P<value>.*)""", re.DOTALL
)
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_SIDES = {"gt": "lower", "gte": "lower", "lt": "upper", "lte": "upper"}
_VALUE = re.compile(
    r"""\s*(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'|(?P<bare>[^,"'][^,]*))"""
    r"""\s*(?P<more>,|$)""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][+-]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(_DATE.pattern + r"[T ][0-9]{2}:[0-9]{2}.*")


def parse_where(clauses: Sequence[str]) -> dict[str, Any]:
    """The filter, in the language of `ragkit.filters`, that holds where all clauses hold.

    Clauses on one key become one condition where they can (`year>=2020` and `year<2024` one range),
    else `{"all": […]}`.

    Raises:
        ValueError: A clause is not a key, an operator and a value, or there is no clause.
    """
    if isinstance(clauses, str) or not clauses:
        raise ValueError(f"expected a list of clauses such as 'year>=2024', got {clauses!r}")
    asked: dict[str, list[Any]] = {}
    for clause in clauses:
        key, wanted = _parsed(clause)
        asked.setdefault(key, []).append(wanted)
    return {key: _together(each) for key, each in asked.items()}


def _together(wanted: list[Any]) -> Any:
    """Several conditions on one key as one."""
    if len(wanted) == 1:
        return wanted[0]
    if all(isinstance(each, dict) for each in wanted):
        operators = {name: value for each in wanted for name, value in each.items()}
        # A range has one bound on either side; what it says twice are two conditions.
        if len({_SIDES.get(name, name) for name in operators}) == sum(map(len, wanted)):
            return operators
    return {"all": wanted}


def _parsed(clause: str) -> tuple[str, Any]:
    parts = _CLAUSE.fullmatch(clause)
    if parts is None:
        raise _wrong(clause, "a key, one of = != > >= < <= ~, and a value")
    key, operator, value = parts["key"].strip(), parts["operator"], parts["value"].strip()
    if not key:
        raise _wrong(clause, "a key before the operator")
    if key in RESERVED:
        raise _wrong(clause, f"a key that is no word of the language: try 'metadata.{key}'")
    if value[:1] in ("=", "<", ">", "!", "~"):
        raise _wrong(clause, "one of = != > >= < <= ~; a value that begins like one goes in quotes")
    if operator in _BOUNDS:
        return key, {_BOUNDS[operator]: _bound(clause, value)}
    if operator == "~":
        return key, {"text": _text(clause, value)}
    wanted = _equal(clause, value)
    return key, {"not": wanted} if operator == "!=" else wanted


def _equal(clause: str, written: str) -> Any:
    values = _values(clause, written)
    return values[0] if len(values) == 1 else values


def _values(clause: str, written: str) -> list[Any]:
    values: list[Any] = []
    at, more = 0, True
    while more:
        found = _VALUE.match(written, at)
        if found is None:
            raise _wrong(
                clause, "a value, or several with commas between, a value with a comma quoted"
            )
        values.append(_value(clause, found))
        at, more = found.end(), found["more"] == ","
    return values


def _value(clause: str, found: re.Match[str]) -> Any:
    quoted = found["double"] if found["double"] is not None else found["single"]
    if quoted is not None:
        text = _ESCAPE.sub(r"\1", quoted)
        return {"is": text} if "*" in text else text
    return _bare(clause, found["bare"].strip())


def _bare(clause: str, text: str) -> Any:
    """What an unquoted value is."""
    try:
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            return float(text)
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError as exc:
        raise _wrong(clause, f"a time that there is ({exc}), or a string in quotes") from exc
    return text


def _bound(clause: str, written: str) -> Any:
    values = _values(clause, written)
    value = values[0]
    if len(values) > 1 or isinstance(value, bool) or not isinstance(value, int | float | date):
        raise _wrong(clause, "one number or time, unquoted, after a comparison")
    return value


def _text(clause: str, written: str) -> str:
    found = _VALUE.fullmatch(written)
    quoted = found and (found["double"] or found["single"])
    text = _ESCAPE.sub(r"\1", quoted) if quoted else written
    if not text.strip(" \"'"):
        raise _wrong(clause, "words after ~")
    return text


def _wrong(clause: str, expected: str) -> ValueError:
    return ValueError(
        f"where {clause!r}: expected {expected}; for example 'year>=2024', 'lang=en,de', "
        "'source=docs/*', 'version=\"1.10\"'"
    )
