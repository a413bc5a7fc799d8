from __future__ import annotations

import json
import math
from dataclasses import fields
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionMismatch
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.search_options import (
    CALL,
    COLLECTION,
    MAX_LIMIT,
    RETRIEVER,
    SearchKeywords,
    SearchOptions,
    kept,
    settle,
)

LEVELS = (COLLECTION, RETRIEVER, CALL)
# Of each option two values, neither of them the default.
VALUES: dict[str, tuple[Any, Any]] = {
    "limit": (3, 4),
    "mode": ("dense", "hybrid"),
    "filter": ({"lang": "en"}, {"lang": "de"}),
    "oversampling": (1.5, 2),
    "rescore": (False, True),
    "exact": (True, False),
    "hnsw_ef": (10, 20),
    "indexed_only": (True, False),
    "score_threshold": (0.0, -1.5),
    "fusion": ("dbsf", "rrf"),
    "rrf_k": (1, 60),
    "weights": ({"dense": 1.0, "sparse": 3.0}, {"dense": 0.0, "sparse": 1.0}),
    "prefetch_limit": (7, 8),
    "diversity": (0.3, 1.0),
    "group_by": ("source", "metadata.year"),
    "group_size": (2, 3),
    "context": (1, 2),
}
DEFAULTS = SearchOptions()


def held(*levels: tuple[str, dict[str, Any]]) -> dict[str, tuple[Any, str]]:
    """Every option that somebody said and that holds, with who said it."""
    settled = settle(*levels)
    return {name: (getattr(settled.options, name), who) for name, who in settled.origins.items()}


def test_the_tables_of_these_tests_have_every_option() -> None:
    names = {field.name for field in fields(SearchOptions)}
    assert names == VALUES.keys() == SearchKeywords.__annotations__.keys()


@pytest.mark.parametrize("name", VALUES)
def test_the_later_level_overrules_the_earlier(name: str) -> None:
    first, second = VALUES[name]
    for i, who in enumerate(LEVELS):
        earlier = [(each, {name: first}) for each in LEVELS[:i]]
        assert held(*earlier, (who, {name: second})) == {name: (second, who)}


@pytest.mark.parametrize("name", VALUES)
def test_none_leaves_an_option_as_the_earlier_level_has_it(name: str) -> None:
    value = VALUES[name][0]
    said = held((COLLECTION, {name: value}), (RETRIEVER, {name: None}), (CALL, {name: None}))
    assert said == {name: (value, COLLECTION)}
    assert settle((CALL, {name: None})).options == DEFAULTS


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_options_that_do_not_contradict_each_other_are_settled_one_by_one(
    data: st.DataObject,
) -> None:
    free = [each for each in VALUES if each not in ("fusion", "diversity", "group_by", "rrf_k")]
    levels = [
        (
            who,
            {
                name: data.draw(st.sampled_from([*VALUES[name], None]))
                for name in data.draw(st.sets(st.sampled_from(free)))
            },
        )
        for who in LEVELS
    ]
    expected: dict[str, tuple[Any, str]] = {}
    for who, said in levels:
        expected |= {name: (value, who) for name, value in said.items() if value is not None}
    assert held(*levels) == expected


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        ({"weights": VALUES["weights"][0]}, {"fusion": "dbsf"}, {"fusion"}),
        ({"fusion": "dbsf"}, {"weights": VALUES["weights"][0]}, {"weights"}),
        ({"diversity": 0.5}, {"group_by": "source"}, {"group_by"}),
        ({"group_by": "source", "group_size": 2}, {"diversity": 0.5}, {"group_size", "diversity"}),
        ({"diversity": 0.5}, {"mode": "sparse"}, {"mode"}),
        ({"mode": "sparse"}, {"diversity": 0.5}, {"diversity"}),
        # Each means something else with the other.
        ({"rrf_k": 60}, {"weights": VALUES["weights"][0]}, {"weights"}),
        ({"weights": VALUES["weights"][0]}, {"rrf_k": 60}, {"rrf_k"}),
        ({}, {"weights": VALUES["weights"][0], "rrf_k": 60}, {"weights", "rrf_k"}),
        # Nothing of this is a contradiction.
        ({"weights": VALUES["weights"][0]}, {"fusion": "rrf"}, {"weights", "fusion"}),
        ({"fusion": "rrf"}, {"weights": VALUES["weights"][0]}, {"weights", "fusion"}),
        ({"mode": "dense"}, {"diversity": 0.5}, {"mode", "diversity"}),
        ({"diversity": 0.5}, {"mode": "hybrid"}, {"mode", "diversity"}),
        ({"group_by": "source"}, {"diversity": 0.0}, {"group_by", "diversity"}),
        ({"diversity": 0.0}, {"mode": "sparse"}, {"mode", "diversity"}),
    ],
)
def test_of_two_that_contradict_each_other_the_later_holds_and_no_other_is_lost(
    earlier: dict[str, Any], later: dict[str, Any], expected: set[str]
) -> None:
    for first, second in ((COLLECTION, RETRIEVER), (COLLECTION, CALL), (RETRIEVER, CALL)):
        said = held((first, earlier), (second, later))
        assert said.keys() == expected
        assert {name for name, (_, who) in said.items() if who == second} == later.keys()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"fusion": "dbsf", "weights": {"dense": 1, "sparse": 1}}, "weights go with fusion='rrf'"),
        ({"diversity": 0.1, "group_by": "source"}, "leave one out"),
        ({"diversity": 0.1, "mode": "sparse"}, "diversity compares dense vectors"),
    ],
)
def test_who_contradicts_himself_is_refused(said: dict[str, Any], message: str) -> None:
    for who in LEVELS:
        with pytest.raises(ValueError, match=message):
            settle((who, said))


@pytest.mark.parametrize("word", ["top_k", "score_treshold", "query", "Limit", ""])
def test_what_is_no_option_is_refused_and_those_that_are_are_listed(word: str) -> None:
    with pytest.raises(TypeError, match=f"there is no search option '{word}'; there are context, "):
        settle((CALL, {word: 1}))
    with pytest.raises(TypeError, match="there is no search option"):
        kept({word: None})  # type: ignore[misc]


WHOLE = ["limit", "group_size", "context", "rrf_k", "hnsw_ef", "prefetch_limit"]
NUMBERS = ["oversampling", "score_threshold", "diversity"]
FLAGS = ["rescore", "exact", "indexed_only"]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "value", ["5", 5.0, math.nan, math.inf, True, [5], Decimal(5), np.float64(5), np.True_, -1]
)
def test_what_is_no_whole_number_in_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"expected {name} to be a whole number from"):
        settle((CALL, {name: value}))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["0.5", math.nan, math.inf, -math.inf, 10**400, True, Decimal(1), [1.0], np.True_]
)
def test_what_is_no_finite_number_in_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"expected {name} to be a number from"):
        settle((CALL, {name: value}))


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "yes", np.int64(1), [True]])
def test_what_is_no_flag_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"expected {name} to be True or False, got"):
        settle((CALL, {name: value}))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"limit": 0}, "from 1 to 10000, got 0"),
        ({"limit": 1_000_000}, "from 1 to 10000, got 1000000"),
        ({"diversity": 1.01}, "from 0 to 1, got 1.01"),
        ({"oversampling": 0.99}, "from 1 to 1000, got 0.99"),
        ({"mode": "Dense"}, "dense, sparse or hybrid, got 'Dense'"),
        ({"mode": 1}, "dense, sparse or hybrid, got 1"),
        ({"fusion": "rank"}, "rrf or dbsf, got 'rank'"),
        ({"filter": "lang = en"}, "a models.Filter or a dict, got 'lang = en'"),
        ({"filter": [("lang", "en")]}, "a models.Filter or a dict"),
        ({"group_by": ""}, "the name of a payload key, got ''"),
        ({"group_by": 7}, "the name of a payload key, got 7"),
        ({"weights": {"dense": 1.0}}, "weights such as"),
        ({"weights": {"dense": 1.0, "sparse": 1.0, "image": 1.0}}, "weights such as"),
        ({"weights": [1.0, 3.0]}, "weights such as"),
        ({"weights": {"dense": 0, "sparse": 0.0}}, "not all of them 0"),
        ({"weights": {"dense": -1, "sparse": 1}}, r"weights\['dense'\] to be a number from 0"),
        ({"weights": {"dense": 1, "sparse": math.nan}}, r"weights\['sparse'\] to be a number"),
        ({"weights": {"dense": "1", "sparse": 1}}, r"weights\['dense'\] to be a number"),
    ],
)
def test_a_refusal_tells_what_was_expected_and_what_came(
    said: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settle((CALL, said))


def test_numbers_of_numpy_are_taken_as_pythons_own() -> None:
    said: dict[str, Any] = {
        "limit": np.int64(5),
        "hnsw_ef": np.uint8(9),
        "oversampling": np.int32(2),
        "score_threshold": np.float32(0.5),
        "diversity": np.float64(0.25),
        "exact": np.True_,
        "mode": np.str_("dense"),
        "weights": {"dense": np.float32(1.5), "sparse": np.int16(2)},
    }
    options = settle((CALL, said)).options
    plain = [options.limit, options.hnsw_ef, options.oversampling, options.score_threshold]
    assert plain == [5, 9, 2, 0.5]
    assert {type(each) for each in plain} == {int, float}
    assert options.exact is True
    assert json.loads(json.dumps(kept(said))) == {  # type: ignore[arg-type]
        "limit": 5,
        "hnsw_ef": 9,
        "oversampling": 2,
        "score_threshold": 0.5,
        "diversity": 0.25,
        "exact": True,
        "mode": "dense",
        "weights": {"dense": 1.5, "sparse": 2},
    }


@pytest.mark.parametrize(
    ("limit", "prefetch_limit", "candidates"),
    [
        (1, None, 50),
        (16, None, 50),
        (17, None, 51),
        (10_000, None, 30_000),
        (100, 5, 100),
        (5, 7, 7),
        (5, 100_000, 100_000),
    ],
)
def test_a_stage_hands_on_three_for_each_hit_and_fifty_at_least_or_what_was_said(
    limit: int, prefetch_limit: int | None, candidates: int
) -> None:
    options = SearchOptions(limit=limit, prefetch_limit=prefetch_limit)
    assert options.candidates == candidates


def test_a_filter_belongs_to_a_question_and_not_to_a_collection() -> None:
    with pytest.raises(ValueError, match="a filter belongs to a question"):
        kept({"filter": models.Filter()})


DOCUMENTS = [
    Document(source=f"{n}.md", title="t", text=f"the walrus number{n} " + "sea " * n)
    for n in range(8)
]


@pytest.fixture
def docs(client: QdrantBase) -> Collection:
    collection = Collection(client, "docs", embedder=HashEmbedder(64))
    Indexer(collection).add(DOCUMENTS)
    return collection


def test_what_a_collection_is_told_holds_for_whoever_opens_it_next(docs: Collection) -> None:
    weights = {"dense": 1.0, "sparse": 3.0}
    said: SearchKeywords = {"limit": 3, "rrf_k": 60, "weights": weights, "exact": True}
    docs.set_search_defaults(**said)
    theirs = Collection(docs.client, "docs", embedder=HashEmbedder(64))
    plan = Retriever(theirs, limit=2).explain("walrus", exact=False)
    assert dict(plan.origins) == {
        "limit": RETRIEVER,
        "rrf_k": COLLECTION,
        "weights": COLLECTION,
        "exact": CALL,
    }
    assert plan.options == SearchOptions(limit=2, rrf_k=60, weights=weights, exact=False)
    assert len(plan.hits) == 2
    assert len(Retriever(docs).search("walrus")) == 3  # who set them has them at once
    docs.set_search_defaults(limit=4)
    assert Retriever(theirs).explain("walrus").options.limit == 3  # opened before
    theirs.open()
    assert dict(Retriever(theirs).explain("walrus").origins) == {"limit": COLLECTION}
    docs.set_search_defaults()
    assert docs.open().search == {}


def test_a_collection_is_told_nothing_that_cannot_be_followed(docs: Collection) -> None:
    for said in ({"limit": 0}, {"filter": {"lang": "en"}}, {"mode": "sparse", "diversity": 0.5}):
        with pytest.raises(ValueError, match=r"expected|belongs|leave it out"):
            docs.set_search_defaults(**said)
    assert docs.open().search == {}


@pytest.mark.parametrize("search", [{"magic": 1}, {"limit": 0}, {"mode": "telepathy"}])
def test_a_manifest_with_options_that_are_none_here_is_refused_with_the_remedy(
    docs: Collection, search: dict[str, Any]
) -> None:
    metadata = docs.open().to_metadata()
    metadata["ragkit"]["search"] = search
    docs.client.update_collection(docs.version, metadata=metadata)
    with pytest.raises(CollectionMismatch, match=r"cannot follow \(.*\(set_search_defaults\)"):
        Retriever(Collection(docs.client, "docs", embedder=HashEmbedder(64))).search("walrus")


@pytest.mark.parametrize(
    "found_best",
    [{"mode": "hybrid"}, {"mode": "dense", "score_threshold": 0.9}, {"diversity": 0.5}],
)
def test_what_was_found_best_with_the_embedder_does_not_bar_those_without(
    docs: Collection, found_best: dict[str, Any]
) -> None:
    docs.set_search_defaults(**found_best)
    without = Retriever(Collection(docs.client, "docs"))
    assert [hit.source for hit in without.search("number5")] == ["5.md"]
    with pytest.raises(CollectionMismatch, match="needs an embedder"):
        without.search("number5", mode="hybrid")
    with pytest.raises(CollectionMismatch, match="diversity compares dense vectors"):
        without.search("number5", diversity=0.5)


def test_the_options_of_a_retriever_are_its_own(docs: Collection) -> None:
    retriever = Retriever(docs, limit=2)
    assert len(retriever.search("walrus", limit=5)) == 5
    assert len(retriever.search("walrus")) == 2
    assert len(Retriever(docs).search("walrus")) == 8
    assert retriever.search("walrus", limit=MAX_LIMIT) == Retriever(docs).search("walrus", limit=8)


def test_passages_are_chosen_from_fifty_hits_unless_the_call_says_otherwise(
    docs: Collection,
) -> None:
    docs.set_search_defaults(limit=1)  # of hits, as the retriever's: what fits counts here
    assert len(Retriever(docs).passages("walrus", token_budget=5_000)) == 8
    assert len(Retriever(docs, limit=3).passages("walrus", token_budget=5_000)) == 8
    assert len(Retriever(docs, limit=3).passages("walrus", token_budget=5_000, limit=2)) == 2
