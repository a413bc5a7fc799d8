"""Clauses of the command line become the dicts that `ragkit.filters` understands."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models

from ragkit.edge import EdgeClient
from ragkit.filters import to_filter
from ragkit.where import parse_where


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("lang=en", {"lang": "en"}),
        ("lang = en ", {"lang": "en"}),
        ("lang=en,de", {"lang": ["en", "de"]}),
        ("lang= en , de", {"lang": ["en", "de"]}),
        ("lang!=fr", {"lang": {"not": "fr"}}),
        ("lang!=fr,de", {"lang": {"not": ["fr", "de"]}}),
        ("lang=*", {"lang": "*"}),
        ("lang=null", {"lang": None}),
        ("lang=en,null", {"lang": ["en", None]}),
        ("source=docs/*", {"source": "docs/*"}),
        ("draft=true", {"draft": True}),
        ("draft!=false", {"draft": {"not": False}}),
        ("draft=True", {"draft": "True"}),
        ("year=2024", {"year": 2024}),
        ("year=-5", {"year": -5}),
        ("score=0.5", {"score": 0.5}),
        ("score=-1.5e3", {"score": -1500.0}),
        ("zip=00501", {"zip": "00501"}),
        ("commit=12e5", {"commit": "12e5"}),
        ("version=1.2.3", {"version": "1.2.3"}),
        ('version="1.10"', {"version": "1.10"}),
        ("year='2024'", {"year": "2024"}),
        ("year='2024',2024", {"year": ["2024", 2024]}),
        ('x="true"', {"x": "true"}),
        ('x=""', {"x": ""}),
        ('author="Dole, Bob",Eve', {"author": ["Dole, Bob", "Eve"]}),
        ("author=Dole Bob", {"author": "Dole Bob"}),
        ("name=O'Brien", {"name": "O'Brien"}),
        (r'name="a \"b\" \\ c"', {"name": r'a "b" \ c'}),
        (r"name='it\'s'", {"name": "it's"}),
        (r"path=a\b", {"path": r"a\b"}),
        ('name="a*b"', {"name": {"is": "a*b"}}),
        ('name="a*b",c*', {"name": [{"is": "a*b"}, "c*"]}),
        ("url=https://x.org/?a=b&c>d", {"url": "https://x.org/?a=b&c>d"}),
        ("year>=2024", {"year": {"gte": 2024}}),
        ("year > 2024", {"year": {"gt": 2024}}),
        ("year<=-2.5", {"year": {"lte": -2.5}}),
        ("year<2024", {"year": {"lt": 2024}}),
        ("published>=2024-05-01", {"published": {"gte": date(2024, 5, 1)}}),
        ("published=2024-05-01", {"published": date(2024, 5, 1)}),
        ("at<2024-05-01 12:30", {"at": {"lt": datetime(2024, 5, 1, 12, 30)}}),
        ("at=2024-05-01T12:30:00Z", {"at": datetime(2024, 5, 1, 12, 30, tzinfo=UTC)}),
        ('title~"some words"', {"title": {"text": "some words"}}),
        ("title~some words", {"title": {"text": "some words"}}),
        ("title~'x', y", {"title": {"text": "'x', y"}}),
        ("title~a*b = c", {"title": {"text": "a*b = c"}}),
        ("author.name=Bob", {"author.name": "Bob"}),
        ("authors[].name=Bob", {"authors[].name": "Bob"}),
        ("metadata.not=1", {"metadata.not": 1}),
        ('metadata."a=b"=1', {'metadata."a=b"': 1}),
        ("two words=1", {"two words": 1}),
    ],
)
def test_a_clause_is_read_as_it_is_meant(clause: str, expected: dict[str, Any]) -> None:
    read = parse_where([clause])
    assert read == expected
    assert [*map(repr, read.values())] == [*map(repr, expected.values())]  # 1 is not True
    to_filter(read, values={"source": [], "metadata.name": []})


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        (["year>=2020", "year<2024"], {"year": {"gte": 2020, "lt": 2024}}),
        (["year>=2020", "lang=en"], {"year": {"gte": 2020}, "lang": "en"}),
        (["lang!=fr", "lang~a"], {"lang": {"not": "fr", "text": "a"}}),
        (["year>=2020", "year!=2022"], {"year": {"gte": 2020, "not": 2022}}),
        (["tag=a", "tag=b"], {"tag": {"all": ["a", "b"]}}),
        (["tag=a,b", "tag!=c"], {"tag": {"all": [["a", "b"], {"not": "c"}]}}),
        (["tag!=a", "tag!=b"], {"tag": {"all": [{"not": "a"}, {"not": "b"}]}}),
        (["year>=2020", "year>2021"], {"year": {"all": [{"gte": 2020}, {"gt": 2021}]}}),
        (["year>1", "year>1"], {"year": {"all": [{"gt": 1}, {"gt": 1}]}}),
    ],
)
def test_all_clauses_hold_together(clauses: list[str], expected: dict[str, Any]) -> None:
    read = parse_where(clauses)
    assert read == expected
    to_filter(read)


@pytest.mark.parametrize(
    ("clause", "says"),
    [
        ("lang", "expected a key, one of ="),
        ("", "expected a key, one of ="),
        ("=en", "expected a key, one of ="),
        (" =en", "expected a key before the operator"),
        ("!lang", "expected a key, one of ="),
        ('"lang=en', "expected a key, one of ="),
        ("lang=", "expected a value"),
        ("lang= ", "expected a value"),
        ("lang=,", "expected a value"),
        ("lang=en,", "expected a value"),
        ("lang=en,,de", "expected a value"),
        ('lang="en', "expected a value"),
        ('lang="en"x', "expected a value"),
        ("year>", "expected a value"),
        ("year>=abc", "expected one number or time, unquoted"),
        ("year>='2024'", "expected one number or time, unquoted"),
        ("year>=2024,2025", "expected one number or time"),
        ("year>true", "expected one number or time"),
        ("year>null", "expected one number or time"),
        ("year>2024-05", "expected one number or time"),
        ("at=2024-13-01", "expected a time that there is"),
        ("at>2024-02-30", "expected a time that there is"),
        ("at=2024-05-01 12:30 noon", "expected a time that there is"),
        ("title~", "expected words after ~"),
        ("title~''", "expected words after ~"),
        ("not=en", "'metadata.not'"),
        ("has_id=7", "'metadata.has_id'"),
    ],
)
def test_what_is_no_clause_is_refused_with_an_example(clause: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        parse_where(["a=1", clause])
    assert repr(clause) in str(refused.value)
    assert "for example 'year>=2024'" in str(refused.value)


def test_clauses_come_as_a_list() -> None:
    for given_ in ([], "a=1"):
        with pytest.raises(ValueError, match="expected a list of clauses such as"):
            parse_where(given_)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.sampled_from("\"'"))
def test_any_string_can_be_meant_by_quoting_it(text: str, quote: str) -> None:
    quoted = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    read = parse_where([f"k={quote}{quoted}{quote}"])
    assert read == {"k": {"is": text} if "*" in text else text}


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1.,-=<>!~\"'*\\ []T:", max_size=14))
def test_anything_typed_is_one_condition_or_refused_by_name(clause: str) -> None:
    try:
        keys, said = len(parse_where([clause])), repr(clause)
    except ValueError as refused:
        keys, said = 1, str(refused)
    assert keys == 1
    assert repr(clause) in said


def test_clauses_find_what_they_say(edge: EdgeClient) -> None:
    size = models.VectorParams(size=1, distance=models.Distance.DOT)
    edge.create_collection("c", vectors_config=size)
    found: list[dict[str, Any]] = [
        {"year": 2023, "lang": "en", "at": "2024-05-01T09:00:00Z"},
        {"year": 2024, "lang": "de", "tags": ["a", "b"]},
        {"year": "2024", "tags": ["a"], "title": "Some more words"},
    ]
    points = [
        models.PointStruct(id=at, vector=[1.0], payload={"metadata": metadata})
        for at, metadata in enumerate(found)
    ]
    edge.upsert("c", points, wait=True)
    for clauses, expected in [
        (["year>=2023", "year<2024"], {0}),
        (["year=2024"], {1}),
        (["year='2024'"], {2}),
        (["lang=en,de"], {0, 1}),
        (["lang!=en"], {1, 2}),
        (["lang=*", "lang!=en"], {1}),
        (["lang=null"], {2}),
        (["tags=a", "tags=b"], {1}),
        (["at<=2024-05-01"], {0}),
        (["metadata.title~'words some'"], {2}),
    ]:
        records = edge.scroll("c", to_filter(parse_where(clauses)), limit=10)[0]
        assert {record.id for record in records} == expected, clauses


@pytest.mark.parametrize(
    "clause", ["year==2024", "year=>2024", "year>=>2024", "year!==2024", "title~~x", "a=<3"]
)
def test_an_operator_that_is_none_is_refused_and_not_taken_for_a_value(clause: str) -> None:
    with pytest.raises(ValueError, match="a value that begins like one goes in quotes"):
        parse_where([clause])


def test_in_quotes_a_value_may_begin_like_an_operator() -> None:
    assert parse_where(['version=">=2"']) == {"version": ">=2"}
