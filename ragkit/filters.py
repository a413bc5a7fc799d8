"""A dict in place of Qdrant's filter, and what a filter reads.

    {"source": "docs/*", "lang": ["en", "de"], "year": {"gte": 2024}, "not": {"draft": True}}

becomes, by `to_filter` and without any I/O, the `models.Filter` that says the same. All entries of
a dict must hold. A whole dict can also be combined:

    "all": [{…}, …]      all hold
    "any": [{…}, …]      at least one holds
    "not": {…}           it does not hold as a whole (one of its entries does not)
    "has_id": [7, "…"]   the point has one of these ids

Wherever a dict `{…}` stands among these, a `models.Filter` may stand too.

**Keys.** The fields of ragkit's payload (`FIELDS`: source, title, page, …) mean themselves. All
others are the document's metadata: "lang" is `metadata.lang`, "author.name" `metadata.author.name`.
Of a metadata key that is called like a field or like one of the four words above, say so:
"metadata.title", "metadata.not". With `bare=True`, for collections that ragkit did not make, every
key means itself, and `'"not"'` is the key called like the word. Keys are Qdrant's paths:
"authors[].name" is the name of any author, "authors[0]" the first, and what is neither letter,
digit, `_` nor `-` is quoted, `'metadata."dc.title"'`; a key that is only words and spaces need not.

**Values.** What a key can be asked:

    ================================  ===========================================================
    "en", "2024-05-01"                has this very string
    "docs/*"                          has a string like this: `*` is any run of characters, also
                                      empty, also with "/" in it; `?` and `[` are themselves
    "*"                               has a value, as {"exists": True}
    7, True                           has this integer or boolean, and of this type: 7 is not 7.0
    0.5                               has this number: 2.0 is the integer 2, too
    None                              has no value, as {"exists": False}
    date(2024, 5, 1)                  has a time on this day (UTC)
    datetime(2024, 5, 1, 12)          has this moment; without a zone it is UTC
    ["en", "de", None]                any of these; each may be anything in this table
    {"gte": 2024, "lt": 2026}         has a number in between: gt, gte, lt, lte
    {"gte": "2024-05-01"}             the same of times: a date, a datetime or an ISO string. A date
                                      is its whole day: "lte" includes it, "gt" begins the day after
    {"is": "a*b"}                     has this very value, or one of these: nothing is special in it
    {"text": "red fox"}               has a text with these words
    {"phrase": "red fox"}             has a text with these words, one after the other
    {"exists": True}                  has a value; False: the key is absent, null or []
    {"is_null": True}                 the key is there and null, or has null in its list; False: all
                                      else
    {"except": ["en", "de"]}          has a value other than these
    {"not": …}                        does not hold, whatever this table has
    {"any": […]}, {"all": […]}        at least one holds; all hold
    ================================  ===========================================================

Several operators in one dict must all hold.

**What Qdrant makes of it** (tried on the embedded engine, read in the sources of server 1.19):

- A key that is absent, null or [] holds only for None, {"exists": False} and {"not": …} of what it
  does not hold for; {"is_null": True} tells null from the other two.
- Of a list, one element is enough: "en" holds for ["en", "fr"], so do {"except": ["en"]} and
  {"not": "de"}, but {"not": "en"} does not. Both ends of a range hold for one and the same element.
  [null] has a value and is null, both at once.
- Types are never converted: "2024" is not 2024, no range of numbers has it, and 1 is not True. Of
  strings, only times are in a range of times: "2024-05-01", "2024-05-01 12:00" (UTC),
  "2024-05-01T12:00:00+02:00".
- But a payload index answers in its own type. One of integers takes 2024.0 for 2024; one of numbers
  compares times, and one of times numbers, as microseconds since 1970; through a keyword index
  "except" finds strings alone. So index a key as what it is asked for.
- Strings are compared by case, except in "text" and "phrase", where the key's full-text index says
  how; "phrase" finds nothing through one made without `phrase_matching`. Without an index the
  embedded engine compares words without case, a server the whole text as it is written.

**Refused** with a ValueError, rather than finding everything or nothing in silence: empty dicts and
lists, unknown operators and types, NaN and infinity, integers beyond 64 bits, bounds that leave
nothing between them, strings that are not valid text. A glob that no string is like finds nothing,
as a string does that does not occur. What comes from others may carry a `*`: hand it on as
{"is": value}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from qdrant_client import models

from ragkit.conditions import (
    all_of,
    any_of,
    as_filter,
    check_plain,
    equal,
    flag,
    has_id,
    in_range,
    is_empty,
    is_listing,
    is_null,
    is_plain,
    listed,
    literal,
    matches,
    not_,
    other_than,
    some,
    words,
    wrong,
)

FIELDS = frozenset(
    {
        "chunk_count",
        "chunk_hash",
        "corpus",
        "document_hash",
        "end",
        "headings",
        "last_page",
        "line",
        "metadata",
        "ordinal",
        "page",
        "source",
        "start",
        "tenant",
        "text",
        "title",
    }
)
"""The keys of a point's payload in a collection of ragkit's."""

RESERVED = frozenset({"all", "any", "has_id", "not"})
"""What is no key but a word of the language, where a key could stand."""

_BOUNDS = ("gt", "gte", "lt", "lte")
_OPERATORS = (*_BOUNDS, "all", "any", "except", "exists", "is", "is_null", "not", "phrase", "text")
# The grammar of lib/segment/src/json_path/parse.rs in Qdrant.
_SEGMENT = r'(?:[\w-]+|"[^"\\]*")'
_PATH = re.compile(rf"(?P<root>{_SEGMENT})(?:\.{_SEGMENT}|\[[0-9]*\])*")
_NOT_A_NAME = re.compile(r'[."\\\[\]]')

_Glob: TypeAlias = Callable[[str, str], models.Condition]


def to_filter(
    given: models.Filter | Mapping[str, Any] | None,
    *,
    values: Mapping[str, Sequence[str]] | None = None,
    bare: bool = False,
    prefix: bool = False,
) -> models.Filter | None:
    """The filter that a dict stands for; a `models.Filter` and None are returned as they are.

    Args:
        given: What the module's docstring describes.
        values: The strings that occur under the keys that `globs` names. A glob becomes the list
            of those that are like it, which may be empty: then it holds for no point.
        bare: Whether keys mean themselves, in a collection that ragkit did not make.
        prefix: Whether the store has `models.MatchPrefix` (the embedded engine, and servers from
            1.19 on), which is what a glob such as "docs/*" then becomes.

    Raises:
        ValueError: Something in it is not of the language, or the values of a key are missing.
    """
    if given is None or isinstance(given, models.Filter):
        return given
    known = values or {}

    def resolved(key: str, pattern: str) -> models.Condition:
        if key not in known:
            raise ValueError(
                f"{key}: expected its strings in `values`, to compare them with {pattern!r}, got "
                f"those of {sorted(known)}: `globs` tells which are needed"
            )
        matching = [value for value in known[key] if _is_like(value, pattern)]
        return models.FieldCondition(key=key, match=models.MatchAny(any=matching))

    return _translated(given, _Translator(bare=bare, prefix=prefix, glob=resolved))


def globs(
    given: models.Filter | Mapping[str, Any] | None, *, bare: bool = False, prefix: bool = False
) -> dict[str, set[str]]:
    """The payload keys whose values `to_filter` needs, and the patterns they are compared with.

    Raises:
        ValueError: Something in it is not of the language.
    """
    found: dict[str, set[str]] = {}
    if given is None or isinstance(given, models.Filter):
        return found

    def noted(key: str, pattern: str) -> models.Condition:
        found.setdefault(key, set()).add(pattern)
        return models.FieldCondition(key=key, match=models.MatchAny(any=[]))

    _translated(given, _Translator(bare=bare, prefix=prefix, glob=noted))
    return found


def payload_key(key: str, *, bare: bool = False, name: str = "the filter") -> str:
    """Where in the payload a key of the language points to; `name` is what an error is about.

    Raises:
        ValueError: It is no key.
    """
    if not isinstance(key, str) or not key:
        raise wrong(name, "keys that are non-empty strings", key)
    check_plain(name, key)
    path = key if _NOT_A_NAME.search(key) else f'"{key}"'
    found = _PATH.fullmatch(key) or _PATH.fullmatch(path)
    if found is None:
        raise ValueError(
            f"{name}: expected a key such as 'lang', 'authors[].name' or "
            f"'metadata.\"dc.title\"', got {key!r}: put a name with other characters than "
            "letters, digits, _ and - in double quotes"
        )
    if bare or found["root"].strip('"') in FIELDS:
        return found[0]
    return f"metadata.{found[0]}"


def filter_keys(filter: models.Filter | None) -> set[str]:  # noqa: A002
    """Every payload key that a filter reads, as a payload index on it would be called.

    Ids, vectors and slices have no key. What a nested filter reads of the objects in `rows` is
    `rows[].x`.
    """
    if filter is None:
        return set()
    least = filter.min_should.conditions if filter.min_should else None
    clauses = (filter.must, filter.should, filter.must_not, least)
    return {key for clause in clauses for each in listed(clause) for key in _keys(each)}


def _keys(condition: models.Condition) -> set[str]:
    match condition:
        case models.Filter():
            return filter_keys(condition)
        case models.FieldCondition():
            return {condition.key}
        case models.IsEmptyCondition():
            return {condition.is_empty.key}
        case models.IsNullCondition():
            return {condition.is_null.key}
        case models.NestedCondition():
            rows = condition.nested.key.removesuffix("[]")
            return {f"{rows}[].{key}" for key in filter_keys(condition.nested.filter)}
        case _:
            return set()


def _translated(given: Mapping[str, Any], translator: _Translator) -> models.Filter:
    try:
        return as_filter(translator.whole(given, "the filter"))
    except RecursionError as exc:
        raise ValueError("expected a filter of a few levels, got one nested too deeply") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Translator:
    """Dicts become conditions.

    Attributes:
        bare: Whether keys mean themselves.
        prefix: Whether the store has `models.MatchPrefix`.
        glob: The condition that a key has a string like a pattern.
    """

    bare: bool
    prefix: bool
    glob: _Glob

    def whole(self, given: Any, name: str) -> models.Condition:
        """A dict, all entries of which must hold; `name` is what an error calls it."""
        if isinstance(given, models.Filter):
            return given
        if not isinstance(given, Mapping):
            raise wrong(name, "a dict or a models.Filter", given)
        if not given:
            raise ValueError(
                f"{name}: expected at least one key, got {{}}, which would hold for everything: "
                "leave it out (filter=None) if that is meant"
            )
        return all_of([self._entry(key, wanted) for key, wanted in given.items()])

    def _entry(self, key: Any, wanted: Any) -> models.Condition:
        match key:
            case "has_id":
                return has_id(wanted)
            case "not":
                return not_(self.whole(wanted, "'not'"))
            case "any":
                return any_of([self.whole(each, "'any'") for each in some("'any'", wanted)])
            case "all":
                return all_of([self.whole(each, "'all'") for each in some("'all'", wanted)])
            case _:
                return self._wanted(payload_key(key, bare=self.bare), wanted)

    def _wanted(self, key: str, wanted: Any) -> models.Condition:
        if isinstance(wanted, Mapping):
            return self._operators(key, wanted)
        if is_listing(wanted):
            return self._any_of(key, some(key, wanted))
        if _is_glob(wanted):
            return self._like(key, wanted)
        return equal(key, wanted)

    def _any_of(self, key: str, wanted: list[Any]) -> models.Condition:
        exact = [each for each in wanted if is_plain(each) and not _is_glob(each)]
        others = [each for each in wanted if not is_plain(each) or _is_glob(each)]
        return any_of([*matches(key, exact), *(self._wanted(key, each) for each in others)])

    def _like(self, key: str, pattern: str) -> models.Condition:
        check_plain(key, pattern)
        start = pattern.rstrip("*")
        if not start:
            return not_(is_empty(key))
        if self.prefix and "*" not in start:
            return models.FieldCondition(key=key, match=models.MatchPrefix(prefix=start))
        return self.glob(key, pattern)

    def _operators(self, key: str, wanted: Mapping[Any, Any]) -> models.Condition:
        unknown = [each for each in wanted if each not in _OPERATORS]
        if unknown:
            raise ValueError(
                f"{key}: expected operators ({', '.join(_OPERATORS)}), got {unknown[0]!r}: a field "
                f"within is a key of its own, '{key}.{unknown[0]}'"
            )
        if not wanted:
            raise wrong(key, f"an operator ({', '.join(_OPERATORS)})", wanted)
        bounds = {each: wanted[each] for each in _BOUNDS if each in wanted}
        rest = [self._operator(key, *each) for each in wanted.items() if each[0] not in bounds]
        return all_of([in_range(key, bounds), *rest] if bounds else rest)

    def _operator(self, key: str, operator: str, wanted: Any) -> models.Condition:
        name = f"{key}, {operator!r}"
        match operator:
            case "is":
                return literal(key, wanted)
            case "not":
                return not_(self._wanted(key, wanted))
            case "any":
                return self._any_of(key, some(name, wanted))
            case "all":
                return all_of([self._wanted(key, each) for each in some(name, wanted)])
            case "except":
                return other_than(key, some(name, wanted))
            case "exists":
                return not_(is_empty(key)) if flag(name, wanted) else is_empty(key)
            case "is_null":
                return is_null(key) if flag(name, wanted) else not_(is_null(key))
            case "text":
                match_text = models.MatchText(text=words(name, wanted))
                return models.FieldCondition(key=key, match=match_text)
            case _:
                match_phrase = models.MatchPhrase(phrase=words(name, wanted))
                return models.FieldCondition(key=key, match=match_phrase)


def _is_glob(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and "*" in value


def _is_like(text: str, pattern: str) -> bool:
    """Whether a text is like a pattern, in time that grows with their lengths alone."""
    first, *middle, last = pattern.split("*")
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
