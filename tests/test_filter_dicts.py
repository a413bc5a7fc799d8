"""Dicts become Qdrant's filters, and these find what the dicts say."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunk
from ragkit.edge import EdgeClient
from ragkit.filters import FIELDS, filter_keys, globs, to_filter
from ragkit.schema import payload

_BERLIN = timezone(timedelta(hours=2))
_UUID = "5b1f6a3e-3c0c-5d5e-9a54-6f2a1c8a7b10"


def _field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


def _is(key: str, value: str | int) -> models.FieldCondition:
    return _field(key, match=models.MatchValue(value=value))


def _one_of(key: str, *values: str | int) -> models.FieldCondition:
    return _field(key, match=models.MatchAny(any=list(values)))


def _range(key: str, **bounds: float) -> models.FieldCondition:
    return _field(key, range=models.Range(**bounds))


def _times(key: str, **bounds: datetime) -> models.FieldCondition:
    return _field(key, range=models.DatetimeRange(**bounds))


def _empty(key: str) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def _null(key: str) -> models.IsNullCondition:
    return models.IsNullCondition(is_null=models.PayloadField(key=key))


def _must(*conditions: Any) -> models.Filter:
    return models.Filter(must=list(conditions))


def _must_not(*conditions: Any) -> models.Filter:
    return models.Filter(must_not=list(conditions))


def _should(*conditions: Any) -> models.Filter:
    return models.Filter(should=list(conditions))


# --- what is written becomes ---------------------------------------------------------------------

_MAY = datetime(2024, 5, 1, tzinfo=UTC)
_NEXT = datetime(2024, 5, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        ("en", _is("k", "en")),
        (7, _is("k", 7)),
        (True, _is("k", True)),
        (0.5, _range("k", gte=0.5, lte=0.5)),
        (None, _empty("k")),
        ("*", _must_not(_empty("k"))),
        ("**", _must_not(_empty("k"))),
        (["en", "de"], _one_of("k", "en", "de")),
        (("en",), _one_of("k", "en")),
        ({"b", "a", "c"}, _one_of("k", "a", "b", "c")),
        (
            ["en", 7, True, None, 0.5],
            _should(
                _one_of("k", "en"),
                _one_of("k", 7),
                _is("k", True),
                _empty("k"),
                _range("k", gte=0.5, lte=0.5),
            ),
        ),
        ([1, True], _should(_one_of("k", 1), _is("k", True))),
        ({"gte": 2024, "lt": 2026}, _range("k", gte=2024, lt=2026)),
        ({"gt": 0.5}, _range("k", gt=0.5)),
        (date(2024, 5, 1), _times("k", gte=_MAY, lt=_NEXT)),
        (datetime(2024, 5, 1), _times("k", gte=_MAY, lte=_MAY)),
        (datetime(2024, 5, 1, 2, tzinfo=_BERLIN), _times("k", gte=_MAY, lte=_MAY)),
        ({"gte": date(2024, 5, 1)}, _times("k", gte=_MAY)),
        ({"lt": date(2024, 5, 1)}, _times("k", lt=_MAY)),
        ({"gt": date(2024, 5, 1)}, _times("k", gte=_NEXT)),
        ({"lte": "2024-05-01"}, _times("k", lt=_NEXT)),
        ({"lte": "2024-05-01T02:00:00+02:00"}, _times("k", lte=_MAY)),
        ({"gt": "2024-05-01 00:00"}, _times("k", gt=_MAY)),
        ("2024-05-01", _is("k", "2024-05-01")),
        ({"is": "a*b"}, _is("k", "a*b")),
        ({"is": ["a*b", "c"]}, _one_of("k", "a*b", "c")),
        ({"is": [None, "*"]}, _should(_one_of("k", "*"), _empty("k"))),
        ({"text": "red fox"}, _field("k", match=models.MatchText(text="red fox"))),
        ({"phrase": "red fox"}, _field("k", match=models.MatchPhrase(phrase="red fox"))),
        ({"exists": True}, _must_not(_empty("k"))),
        ({"exists": False}, _empty("k")),
        ({"is_null": True}, _null("k")),
        ({"is_null": False}, _must_not(_null("k"))),
        ({"except": ["a*", "b"]}, _field("k", match=models.MatchExcept(**{"except": ["a*", "b"]}))),
        ({"not": "en"}, _must_not(_is("k", "en"))),
        ({"not": ["en", "de"]}, _must_not(_one_of("k", "en", "de"))),
        ({"not": "*"}, _empty("k")),
        ({"not": {"lt": 5}}, _must_not(_range("k", lt=5))),
        ({"any": [{"lt": 5}, {"gt": 7}]}, _should(_range("k", lt=5), _range("k", gt=7))),
        ({"all": ["a", ["b", "c"]]}, _must(_is("k", "a"), _one_of("k", "b", "c"))),
        (
            {"gte": 5, "not": 7, "exists": True},
            models.Filter(must=[_range("k", gte=5)], must_not=[_is("k", 7), _empty("k")]),
        ),
    ],
)
def test_what_is_asked_of_a_key_becomes_a_condition_of_qdrants(
    wanted: Any, condition: models.Condition
) -> None:
    whole = condition if isinstance(condition, models.Filter) else _must(condition)
    assert to_filter({"k": wanted}, bare=True) == whole


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": 1, "b": 2}, _must(_is("a", 1), _is("b", 2))),
        ({"a": 1, "not": {"b": 2}}, models.Filter(must=[_is("a", 1)], must_not=[_is("b", 2)])),
        ({"not": {"a": 1, "b": 2}}, _must_not(_must(_is("a", 1), _is("b", 2)))),
        ({"not": {"not": {"a": 1}}}, _must(_is("a", 1))),
        (
            {"not": {"a": 1, "not": {"b": 2}}},
            _must_not(models.Filter(must=[_is("a", 1)], must_not=[_is("b", 2)])),
        ),
        (
            {"a": 1, "not": _must_not(_is("b", 2), _is("c", 3))},
            models.Filter(must=[_is("a", 1)], must_not=[_must_not(_is("b", 2), _is("c", 3))]),
        ),
        (
            {"c": 0, "all": [{"a": 1, "not": {"b": 2}}]},
            _must(_is("c", 0), models.Filter(must=[_is("a", 1)], must_not=[_is("b", 2)])),
        ),
        ({"any": [{"a": 1}, {"b": 2}]}, _should(_is("a", 1), _is("b", 2))),
        ({"any": [{"a": 1}]}, _must(_is("a", 1))),
        ({"all": [{"a": 1}, {"a": 2}]}, _must(_is("a", 1), _is("a", 2))),
        (
            {"c": 0, "any": [{"a": 1, "b": 2}, {"not": {"a": 1}}]},
            _must(_is("c", 0), _should(_must(_is("a", 1), _is("b", 2)), _must_not(_is("a", 1)))),
        ),
        (
            {"a": 1, "all": [_should(_is("b", 2))]},
            _must(_is("a", 1), _should(_is("b", 2))),
        ),
        ({"has_id": 7}, _must(models.HasIdCondition(has_id=[7]))),
        (
            {"has_id": [7, _UUID.upper(), UUID(_UUID)]},
            _must(models.HasIdCondition(has_id=[7, _UUID, _UUID])),
        ),
    ],
)
def test_whole_dicts_are_combined(given: dict[str, Any], expected: models.Filter) -> None:
    assert to_filter(given, bare=True) == expected


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("source", "source"),
        ("headings[]", "headings[]"),
        ("headings[0]", "headings[0]"),
        ("lang", "metadata.lang"),
        ("metadata.lang", "metadata.lang"),
        ("metadata.title", "metadata.title"),
        ("metadata.not", "metadata.not"),
        ("metadata.metadata", "metadata.metadata"),
        ("author.name", "metadata.author.name"),
        ("authors[].name", "metadata.authors[].name"),
        ("last edited by", 'metadata."last edited by"'),
        ("größe", "metadata.größe"),
        ('metadata."dc.title"', 'metadata."dc.title"'),
        ('"dc.title"', 'metadata."dc.title"'),
        ('"source"', '"source"'),
        ("sources", "metadata.sources"),
    ],
)
def test_keys_that_are_no_fields_of_ragkits_are_metadata(key: str, path: str) -> None:
    assert to_filter({key: 1}) == _must(_is(path, 1))


def test_in_a_foreign_collection_keys_mean_themselves() -> None:
    for key in ("lang", "author.name", "source", '"not"'):
        assert to_filter({key: 1}, bare=True) == _must(_is(key, 1))
    assert to_filter({"two words": 1}, bare=True) == _must(_is('"two words"', 1))


def test_the_fields_are_those_of_a_points_payload() -> None:
    chunk = Chunk(source="a", ordinal=0, text="t", start=0, end=1, headings=(), title="A", line=1)
    written = payload(
        chunk,
        corpus="c",
        chunk_count=1,
        document_hash="d",
        chunk_hash="e",
        metadata={},
        tenant="t",
    )
    assert written.keys() <= FIELDS
    assert FIELDS - written.keys() <= {"page", "last_page"}


def test_qdrants_own_filters_and_none_stay_as_they_are() -> None:
    own = _must(_is("lang", "docs/*"))
    assert to_filter(own) is own
    assert to_filter(None) is None
    assert globs(own) == globs(None) == {}


def test_a_time_without_a_zone_is_utc_wherever_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        made = to_filter({"k": {"gte": "2024-05-01 00:00", "lt": date(2024, 5, 2)}}, bare=True)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert made == _must(_times("k", gte=_MAY, lt=_NEXT))


def test_a_dict_is_not_changed() -> None:
    wanted = {"lang": ["en", {"gte": 1}], "not": {"a": {"all": [1, 2]}}}
    to_filter(wanted)
    assert wanted == {"lang": ["en", {"gte": 1}], "not": {"a": {"all": [1, 2]}}}


# --- globs ---------------------------------------------------------------------------------------

_SOURCES = ["docs/a.md", "docs/sub/b.md", "docs", "src/docs/c.py", "a*b", "axb", "DOCS/d.md", ""]


@pytest.mark.parametrize(
    ("pattern", "like"),
    [
        ("docs/*", ["docs/a.md", "docs/sub/b.md"]),
        ("docs/*.md", ["docs/a.md", "docs/sub/b.md"]),
        ("docs/**/*.md", ["docs/sub/b.md"]),
        ("*docs*", ["docs/a.md", "docs/sub/b.md", "docs", "src/docs/c.py"]),
        ("a*b", ["a*b", "axb"]),
        ("a?b*", []),
        ("docs/a.md*", ["docs/a.md"]),
        ("*.md", ["docs/a.md", "docs/sub/b.md", "DOCS/d.md"]),
    ],
)
def test_a_glob_is_the_list_of_strings_like_it(pattern: str, like: list[str]) -> None:
    made = to_filter({"source": pattern}, values={"source": _SOURCES})
    assert made == _must(_one_of("source", *like))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab\n", max_size=3), min_size=2, max_size=4).map("*".join),
    st.text("ab\n", max_size=8),
)
@example("ab*ba", "aba")  # the ends would overlap
@example("a*ba*a", "aba")  # the middle would overlap the end
@example("a*b*b*", "ab")  # the middles would overlap
def test_globs_are_like_regular_expressions(pattern: str, text: str) -> None:
    assume(pattern.strip("*"))
    made = to_filter({"k": pattern}, values={"k": [text]}, bare=True)
    expression = ".*".join(map(re.escape, pattern.split("*")))
    fits = re.fullmatch(expression, text, re.DOTALL) is not None
    assert made == _must(_one_of("k", *[text] * fits))


def test_a_glob_with_many_stars_takes_no_longer() -> None:
    # A regular expression would try some 10^20 ways to divide the text.
    made = to_filter({"source": "*a" * 12 + "*b"}, values={"source": ["a" * 2_000]})
    assert made == _must(_one_of("source"))


def test_globs_tells_which_values_are_needed() -> None:
    wanted = {
        "source": ["docs/*", "*.py", "plain"],
        "lang": "*",
        "not": {"any": [{"tag": {"all": ["x*", {"not": "*y"}]}}, {"title": {"is": "a*"}}]},
    }
    assert globs(wanted) == {"source": {"docs/*", "*.py"}, "metadata.tag": {"x*", "*y"}}
    assert globs(wanted, prefix=True) == {"source": {"*.py"}, "metadata.tag": {"*y"}}
    assert globs({"tag": "*y"}, bare=True) == {"tag": {"*y"}}


def test_missing_values_are_said_to_be_missing() -> None:
    with pytest.raises(ValueError, match=r"metadata\.lang: .*'e\*n'.*\['source'\].*`globs`"):
        to_filter({"lang": "e*n"}, values={"source": ["a"]})


def test_where_the_store_knows_prefixes_a_glob_becomes_one() -> None:
    prefix = _field("source", match=models.MatchPrefix(prefix="docs/"))
    assert to_filter({"source": "docs/*"}, prefix=True) == _must(prefix)
    mixed = to_filter({"source": ["docs/*", "*.py", "a"]}, values={"source": ["b.py"]}, prefix=True)
    assert mixed == _should(_one_of("source", "a"), prefix, _one_of("source", "b.py"))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, r"the filter: expected at least one key.*filter=None"),
        ([("a", 1)], r"the filter: expected a dict or a models.Filter, got \[\('a', 1\)\]"),
        ("a=1", "the filter: expected a dict"),
        ({"not": {}}, "'not': expected at least one key"),
        ({"not": [{"a": 1}]}, "'not': expected a dict"),
        ({"any": []}, "'any': expected a list with something in it"),
        ({"any": {"a": 1}}, "'any': expected a list, got"),
        ({"all": [{}]}, "'all': expected at least one key"),
        ({"any": ["a"]}, "'any': expected a dict"),
        ({"has_id": []}, "'has_id': expected a list with something in it"),
        ({"has_id": "seven"}, "'has_id': expected a UUID or an integer.*got 'seven'"),
        ({"has_id": -1}, "'has_id'.*got -1"),
        ({"has_id": True}, "'has_id'.*got True"),
        ({"": 1}, "expected keys that are non-empty strings, got ''"),
        ({7: 1}, "expected keys that are non-empty strings, got 7"),
        ({"a.": 1}, "expected a key such as.*got 'a.'"),
        ({"a..b": 1}, "expected a key such as.*got 'a..b'"),
        ({"a[x]": 1}, "expected a key such as"),
        ({"a.two words": 1}, "in double quotes"),
        ({"a\ud800": 1}, "valid text"),
        ({"lang": []}, r"metadata\.lang: expected a list with something in it, got \[\]"),
        ({"lang": set()}, "metadata.lang: expected a list with something in it"),
        ({"lang": {}}, "metadata.lang: expected an operator .*got {}"),
        ({"lang": {"$eq": 1}}, r"metadata\.lang: expected operators \(gt, .*got '\$eq'"),
        ({"author": {"name": "Bob"}}, r"got 'name': .*'metadata\.author\.name'"),
        ({"a": b"x"}, r"metadata\.a: expected a string, number.*got b'x'"),
        ({"a": 1j}, "metadata.a: expected a string"),
        ({"a": [object]}, "metadata.a: expected a string"),
        ({"a": {"is": [[1]]}}, "metadata.a: expected a string"),
        ({"a": {"is": {"gte": 1}}}, "metadata.a: expected a string"),
        ({"a": math.nan}, "metadata.a.*finite number.*got nan"),
        ({"a": [math.inf]}, "metadata.a.*finite number.*got inf"),
        ({"a": {"gte": 10**400}}, r"'gte': expected a finite number.*got 1000.*…"),
        ({"a": {"gte": 2**53 + 1}}, "64 bit float.*got 9007199254740993"),
        ({"a": 2**63}, "metadata.a: expected an integer of 64 bits"),
        ({"a": ["b", 2**63]}, "metadata.a: expected an integer of 64 bits"),
        ({"a": "\ud800"}, "metadata.a: expected a string of valid text"),
        ({"a": "\ud800*"}, "metadata.a: expected a string of valid text"),
        ({"a": {"text": "\ud800"}}, "valid text"),
        ({"a": {"gte": True}}, "metadata.a, 'gte': expected a number, a date.*got True"),
        ({"a": {"gte": None}}, "metadata.a, 'gte': expected a number"),
        ({"a": {"gte": [1]}}, "metadata.a, 'gte': expected a number"),
        ({"a": {"gte": "b"}}, "metadata.a, 'gte': expected a number or an ISO time"),
        ({"a": {"gte": "2024"}}, "ISO time"),
        ({"a": {"gte": "2024-13-01"}}, "a time such as"),
        ({"a": {"gte": "2024-05-01 nine"}}, "a time such as"),
        ({"a": {"gt": date.max}}, "between the years 1 and 9999"),
        ({"a": {"gt": datetime.min.replace(tzinfo=_BERLIN)}}, "between the years 1 and 9999"),
        ({"a": {"gt": 1, "gte": 2}}, "metadata.a: expected one lower and one upper bound"),
        ({"a": {"lt": 1, "lte": 2}}, "one lower and one upper bound"),
        ({"a": {"gte": 1, "lt": date(2024, 5, 1)}}, "two numbers or two times"),
        ({"a": {"gte": 2, "lte": 1}}, "something between them"),
        ({"a": {"gt": 1, "lte": 1}}, "something between them"),
        ({"a": {"gt": date(2024, 5, 1), "lt": date(2024, 5, 2)}}, "something between them"),
        ({"a": {"text": ""}}, "metadata.a, 'text': expected a string with words"),
        ({"a": {"phrase": 7}}, "metadata.a, 'phrase': expected a string with words"),
        ({"a": {"exists": 1}}, "metadata.a, 'exists': expected True or False, got 1"),
        ({"a": {"is_null": "no"}}, "metadata.a, 'is_null': expected True or False"),
        ({"a": {"except": "b"}}, "metadata.a, 'except': expected a list"),
        ({"a": {"except": ["b", 1]}}, "strings alone or integers alone"),
        ({"a": {"except": [True]}}, "strings alone or integers alone"),
        ({"a": {"any": "b"}}, "metadata.a, 'any': expected a list"),
        ({"a": {"all": []}}, "metadata.a, 'all': expected a list with something in it"),
    ],
)
def test_what_is_not_of_the_language_is_refused(given: Any, says: str) -> None:
    for refusing in (to_filter, globs):
        with pytest.raises(ValueError, match=says):
            refusing(given)


def test_a_filter_nested_without_end_is_refused() -> None:
    wanted: dict[str, Any] = {"a": 1}
    for _ in range(5_000):
        wanted = {"all": [wanted, {"b": 1}]}
    with pytest.raises(ValueError, match="nested too deeply"):
        to_filter(wanted)


# --- keys ----------------------------------------------------------------------------------------


def test_the_keys_of_a_filter_are_all_that_it_reads() -> None:
    nested = models.NestedCondition(
        nested=models.Nested(key="rows", filter=_must(_is("x", 1), _should(_empty("y"))))
    )
    inner = models.NestedCondition(nested=models.Nested(key="more[]", filter=_must_not(nested)))
    whole = models.Filter(
        must=_is("a", 1),
        must_not=[_empty("b"), _null("c"), models.HasIdCondition(has_id=[1])],
        should=[_should(_range("d", gte=1), inner), models.HasVectorCondition(has_vector="v")],
        min_should=models.MinShould(conditions=[_one_of("e", "x")], min_count=1),
    )
    assert filter_keys(whole) == {"a", "b", "c", "d", "e", "more[].rows[].x", "more[].rows[].y"}
    assert filter_keys(None) == filter_keys(models.Filter()) == set()


# --- what is found -------------------------------------------------------------------------------

_ABSENT = object()
_STORED: list[Any] = [
    _ABSENT,  # 0
    None,
    [],
    [None],
    "en",  # 4
    ["en", "fr"],
    "docs/sub/a.md",
    "a*b",
    2024,  # 8
    2024.0,
    "2024",
    [2020, 2026],
    True,  # 12
    1,
    "2024-05-01",
    "2024-05-01T12:00:00+02:00",
    "The red, red fox",  # 16
    {"name": "Bob"},
    "",
]
_PRESENT = set(range(3, len(_STORED)))

_FOUND: list[tuple[dict[str, Any], set[int]]] = [
    ({"k": "en"}, {4, 5}),
    ({"k": "EN"}, set()),
    ({"k": ""}, {18}),
    ({"k": ["fr", 2024, True]}, {5, 8, 12}),
    ({"k": 2024}, {8}),
    ({"k": 2024.0}, {8, 9}),
    ({"k": "2024"}, {10}),
    ({"k": 1}, {13}),
    ({"k": True}, {12}),
    ({"k": None}, {0, 1, 2}),
    ({"k": [None, 1]}, {0, 1, 2, 13}),
    ({"k": "*"}, _PRESENT),
    ({"k": "docs/*"}, {6}),
    ({"k": "e*"}, {4, 5}),
    ({"k": {"is": "a*b"}}, {7}),
    ({"k": {"exists": True}}, _PRESENT),
    ({"k": {"exists": False}}, {0, 1, 2}),
    ({"k": {"is_null": True}}, {1, 3}),
    ({"k": {"is_null": False}}, {0, 2} | _PRESENT - {3}),
    ({"k": {"gte": 2021, "lte": 2025}}, {8, 9}),
    ({"k": {"gt": 2020}}, {8, 9, 11}),
    ({"k": {"all": [{"lt": 2021}, {"gt": 2025}]}}, {11}),
    ({"k": date(2024, 5, 1)}, {14, 15}),
    ({"k": datetime(2024, 5, 1, 10)}, {15}),
    ({"k": {"lte": "2024-05-01"}}, {14, 15}),
    ({"k": {"gt": "2024-05-01"}}, set()),
    ({"k": {"text": "fox red"}}, {16}),
    ({"k": {"phrase": "red fox"}}, {16}),
    ({"k": {"not": "en"}}, {*range(len(_STORED))} - {4, 5}),
    ({"k": {"not": {"is": "fr"}}}, {*range(len(_STORED))} - {5}),
    ({"k": {"except": ["en"]}}, _PRESENT - {3, 4}),
    ({"k": {"not": ["en", None]}}, _PRESENT - {4, 5}),
    ({"k": {"all": ["en", "fr"]}}, {5}),
    ({"k.name": "Bob"}, {17}),
    ({"has_id": [4, 7, 99]}, {4, 7}),
    ({"any": [{"k": "fr"}, {"k": 1}], "not": {"has_id": 5}}, {13}),
    ({"not": {"k": "*", "corpus": "c"}}, {0, 1, 2}),
    ({"corpus": "c", "title": {"exists": False}}, {*range(len(_STORED))}),
    ({"two words": 4}, {4}),
    ({'"dotted.key"': 5}, {5}),
    ({"metadata.not": 6}, {6}),
]


def _filled(client: QdrantBase, name: str) -> None:
    client.create_collection(
        name, vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT)
    )
    client.upsert(
        name,
        [
            models.PointStruct(id=at, vector=[1.0], payload={"corpus": "c", "metadata": metadata})
            for at, value in enumerate(_STORED)
            for metadata in [
                {"two words": at, "dotted.key": at, "not": at}
                | ({} if value is _ABSENT else {"k": value})
            ]
        ],
        wait=True,
    )


def _search(client: QdrantBase, name: str, wanted: models.Filter | None) -> set[Any]:
    return {record.id for record in client.scroll(name, wanted, limit=100)[0]}


_STRINGS = [each for each in _STORED if isinstance(each, str)] + ["en", "fr"]


def test_filters_find_what_they_say(client: QdrantBase) -> None:
    _filled(client, "c")
    for wanted, expected in _FOUND:
        made = to_filter(wanted, values={"metadata.k": _STRINGS})
        assert _search(client, "c", made) == expected, wanted


# What an index changes, and only where types do not fit it: the module's docstring says the rule.
_INDEXED: dict[str, list[tuple[dict[str, Any], set[int]]]] = {
    "keyword": [({"k": {"except": ["en"]}}, {5, 6, 7, 10, 14, 15, 16, 18})],
    "integer": [
        ({"k": 2024}, {8, 9}),
        ({"k": ["fr", 2024, True]}, {5, 8, 9, 12}),
        ({"k": date(2024, 5, 1)}, set()),
        ({"k": datetime(2024, 5, 1, 10)}, set()),
        ({"k": {"lte": "2024-05-01"}}, {8, 9, 11, 13}),
    ],
    "float": [
        ({"k": date(2024, 5, 1)}, set()),
        ({"k": datetime(2024, 5, 1, 10)}, set()),
        ({"k": {"lte": "2024-05-01"}}, {8, 9, 11, 13}),
    ],
    "bool": [],
    "datetime": [
        ({"k": 2024.0}, set()),
        ({"k": {"gte": 2021, "lte": 2025}}, set()),
        ({"k": {"gt": 2020}}, {14, 15}),
        ({"k": {"all": [{"lt": 2021}, {"gt": 2025}]}}, set()),
    ],
    "text": [({"k": {"phrase": "red fox"}}, set())],
}


@pytest.mark.parametrize("kind", _INDEXED)
def test_a_payload_index_changes_only_what_does_not_fit_its_type(
    edge: EdgeClient, kind: str
) -> None:
    _filled(edge, "c")
    edge.create_payload_index("c", "metadata.k", models.PayloadSchemaType(kind), wait=True)
    changed = _INDEXED[kind]
    same = [each for each in _FOUND if each[0] not in [wanted for wanted, _ in changed]]
    for wanted, expected in [*changed, *same]:
        made = to_filter(wanted, values={"metadata.k": _STRINGS})
        assert _search(edge, "c", made) == expected, wanted


def test_a_phrase_is_found_through_an_index_that_knows_phrases(edge: EdgeClient) -> None:
    _filled(edge, "c")
    phrases = models.TextIndexParams(type=models.TextIndexType.TEXT, phrase_matching=True)
    edge.create_payload_index("c", "metadata.k", phrases, wait=True)
    assert _search(edge, "c", to_filter({"k": {"phrase": "red fox"}})) == {16}
    assert _search(edge, "c", to_filter({"k": {"phrase": "fox red"}})) == set()


@pytest.mark.parametrize("pattern", ["docs/*", "*a*", "*.md", "e*", "2024*"])
def test_values_by_facet_and_prefixes_find_the_same(edge: EdgeClient, pattern: str) -> None:
    _filled(edge, "c")
    edge.create_payload_index("c", "metadata.k", models.PayloadSchemaType.KEYWORD, wait=True)
    hits = edge.facet("c", "metadata.k", limit=100).hits
    values = {"metadata.k": [str(hit.value) for hit in hits]}
    by_values = _search(edge, "c", to_filter({"k": pattern}, values=values))
    by_prefix = _search(edge, "c", to_filter({"k": pattern}, values=values, prefix=True))
    assert by_values == by_prefix != set()


# --- against a predicate in Python, on random payloads -------------------------------------------


def _holds(wanted: Any, stored: Any) -> bool:
    """What the module's docstring says, in Python."""
    each = [] if stored is _ABSENT else stored if isinstance(stored, list) else [stored]
    is_empty = stored is _ABSENT or stored is None or stored == []
    match wanted:
        case None:
            return is_empty
        case "*":
            return not is_empty
        case str() if "*" in wanted:
            expression = ".*".join(map(re.escape, wanted.split("*")))
            return any(isinstance(e, str) and re.fullmatch(expression, e, re.S) for e in each)
        case str() | bool() | int():
            return any(type(e) is type(wanted) and e == wanted for e in each)
        case float():
            return any(type(e) in (int, float) and e == wanted for e in each)
        case datetime() | date():
            return any(_operator("gte", wanted, e) and _operator("lte", wanted, e) for e in each)
        case list():
            return any(_holds(one, stored) for one in wanted)
    bounds = {name: wanted[name] for name in wanted if name in ("gt", "gte", "lt", "lte")}
    ranged = any(all(_operator(name, end, e) for name, end in bounds.items()) for e in each)
    rest = all(_asked(name, wanted[name], stored, each) for name in wanted.keys() - bounds.keys())
    return (ranged or not bounds) and rest


def _asked(name: str, value: Any, stored: Any, each: list[Any]) -> bool:
    match name:
        case "is":
            return any(
                _holds(one, stored) for one in (value if isinstance(value, list) else [value])
            )
        case "not":
            return not _holds(value, stored)
        case "any":
            return any(_holds(one, stored) for one in value)
        case "all":
            return all(_holds(one, stored) for one in value)
        case "exists":
            return value is not _holds(None, stored)
        case "is_null":
            return value is (stored is None or None in each)
        case "except":
            return any(e is not None and not any(_holds(v, e) for v in value) for e in each)
    raise AssertionError(name)


def _operator(name: str, end: Any, stored: Any) -> bool:
    if isinstance(end, date):
        moment = _moment(stored)
        if moment is None:
            return False
        if isinstance(end, datetime):
            pair = moment, end if end.tzinfo else end.replace(tzinfo=UTC)
        else:
            pair = moment.astimezone(UTC).date(), end
    elif type(stored) in (int, float):
        pair = stored, end
    else:
        return False
    sign = (pair[0] > pair[1]) - (pair[0] < pair[1])
    return {"gt": sign > 0, "gte": sign >= 0, "lt": sign < 0, "lte": sign <= 0}[name]


def _moment(stored: Any) -> datetime | None:
    if not isinstance(stored, str) or not stored.startswith("20"):
        return None
    read = datetime.fromisoformat(stored)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


_TIMES = [
    "2024-05-01",
    "2024-04-30T23:30:00Z",
    "2024-05-01 12:00:00",
    "2024-05-02T01:00:00+02:00",
    "2024-05-02T00:00:00Z",
]
_TEXTS = ["en", "EN", "docs/a.md", "docs/b/c.md", "a", "", "é", *_TIMES]
_MOMENTS = st.sampled_from(
    [
        date(2024, 4, 30),
        date(2024, 5, 1),
        date(2024, 5, 2),
        datetime(2024, 5, 1, 12),
        datetime(2024, 5, 1, 14, tzinfo=_BERLIN),
        datetime(2024, 5, 1, 23, tzinfo=UTC),
    ]
)
_GLOBS = st.sampled_from(["*", "docs/*", "*.md", "*/*", "e*", "E*n", "2024*", "é*", "x*"])


def _bounds(ends: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    lower = st.dictionaries(st.sampled_from(["gt", "gte"]), ends, min_size=1, max_size=1)
    upper = st.dictionaries(st.sampled_from(["lt", "lte"]), ends, min_size=1, max_size=1)
    both = st.builds(lambda low, high: low | high, lower, upper).filter(_is_open)
    return st.one_of(lower, upper, both)


def _is_open(bounds: dict[str, Any]) -> bool:
    try:
        to_filter({"k": bounds})
    except ValueError:
        return False
    return True


_ENDS = st.integers(-2, 2) | st.sampled_from([-0.5, 0.5])


def _questions(
    literals: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    some = st.lists(literals, min_size=1, max_size=3)
    bases = st.one_of(
        literals,
        some,
        st.fixed_dictionaries({"is": literals | some}),
        st.fixed_dictionaries({"exists": st.booleans()}),
        st.fixed_dictionaries({"is_null": st.booleans()}),
        *others,
    )
    return st.recursive(
        bases,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"not": inner}),
            st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"not": inner, "exists": st.booleans()}),
        ),
        max_leaves=4,
    )


def _values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    each = st.none() | scalars
    return st.one_of(st.just(_ABSENT), each, st.lists(each, max_size=3))


def _except(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"except": st.lists(values, min_size=1, max_size=3)})


_INTS = st.integers(-2, 2)
_WORDS = st.sampled_from(_TEXTS)
_SCALARS = st.one_of(st.booleans(), _WORDS, _INTS, st.sampled_from([-1.5, -1.0, 0.0, 0.5, 2.0]))
# Under "any" is everything, without an index; under the others what fits theirs.
_STORES = {
    "any": _values(_SCALARS),
    "keyword": _values(_WORDS),
    "integer": _values(_INTS),
    "datetime": _values(st.sampled_from(_TIMES)),
}
_ASKED = {
    "any": _questions(
        st.one_of(st.none(), _SCALARS, _MOMENTS),
        _GLOBS,
        st.lists(_GLOBS | _INTS | _WORDS, min_size=1),
        _bounds(_ENDS),
        _bounds(_MOMENTS),
        _except(_WORDS),
        _except(_INTS),
    ),
    "keyword": _questions(st.none() | _WORDS, _GLOBS, _except(_WORDS)),
    "integer": _questions(st.none() | _INTS | st.just(0.5), _bounds(_ENDS), _except(_INTS)),
    "datetime": _questions(st.none() | _MOMENTS, _bounds(_MOMENTS)),
}
_ROWS = st.lists(st.fixed_dictionaries(_STORES), min_size=10, max_size=10)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeClient]:
    """A collection with a payload index on each key but "any"."""
    with EdgeClient(tmp_path_factory.mktemp("filters")) as client:
        size = models.VectorParams(size=1, distance=models.Distance.DOT)
        client.create_collection("c", vectors_config=size)
        for kind in _STORES.keys() - {"any"}:
            schema = models.PayloadSchemaType(kind)
            client.create_payload_index("c", f"metadata.{kind}", schema, wait=True)
        yield client


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=_ROWS,
    asked=st.lists(st.fixed_dictionaries(_ASKED), min_size=4, max_size=4),
    prefix=st.booleans(),
)
def test_filters_find_what_a_predicate_in_python_finds(
    engine: EdgeClient, rows: list[dict[str, Any]], asked: list[dict[str, Any]], prefix: bool
) -> None:
    points = [
        models.PointStruct(
            id=at,
            vector=[1.0],
            payload={"metadata": {k: v for k, v in row.items() if v is not _ABSENT}},
        )
        for at, row in enumerate(rows)
    ]
    engine.upsert("c", points, wait=True)
    values = {f"metadata.{key}": _TEXTS for key in _STORES}
    for each in asked:
        alone = [{f"metadata.{key}": value} for key, value in each.items()]
        one, two, three, four = alone
        together = {"any": [one | two, {"not": three, **four}, {"not": {"all": [one, four]}}]}
        for question in [*alone, together]:
            made = to_filter(question, values=values, prefix=prefix)
            expected = {at for at, row in enumerate(rows) if _whole(question, row)}
            found = _search(engine, "c", made)
            event("some" if 0 < len(found) < len(rows) else "all or none")
            assert found == expected, question


def _whole(wanted: dict[str, Any], row: dict[str, Any]) -> bool:
    return all(_entry(key, value, row) for key, value in wanted.items())


def _entry(key: str, value: Any, row: dict[str, Any]) -> bool:
    match key:
        case "any":
            return any(_whole(one, row) for one in value)
        case "all":
            return all(_whole(one, row) for one in value)
        case "not":
            return not _whole(value, row)
        case _:
            return _holds(value, row[key.removeprefix("metadata.")])
