from __future__ import annotations

import re

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.creation import creation
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionMismatch
from ragkit.indexer import Indexer
from ragkit.quantization import Quantization, default_oversampling, pinned
from ragkit.retriever import Retriever

ALL = [
    Quantization.none(),
    Quantization.auto(),
    Quantization.scalar(),
    *(Quantization.binary(bits) for bits in (1, 1.5, 2)),
    Quantization.binary(2, query="scalar8bits"),
    Quantization.binary(query="scalar4bits"),
    *(Quantization.turbo(bits) for bits in (4, 2, 1.5, 1)),
    *(Quantization.product(ratio) for ratio in (4, 8, 16, 32, 64)),
]
CONFIGS = [each.config for each in ALL if each.config is not None]
DOCUMENTS = [
    Document(source=f"d{n}", title=f"Number {n}", text=f"Fruit {n} is a kind of melon {n * n}.")
    for n in range(40)
]


@pytest.mark.parametrize("quantization", ALL, ids=str)
def test_a_name_is_read_back_as_what_it_names(quantization: Quantization) -> None:
    assert Quantization.of(quantization.name) == quantization
    assert Quantization.of(quantization) is quantization


def test_names_are_what_a_person_would_type() -> None:
    assert [each.name for each in ALL] == [
        "none",
        "auto",
        "scalar",
        "binary",
        "binary-1.5bit",
        "binary-2bit",
        "binary-2bit-query-scalar8bits",
        "binary-query-scalar4bits",
        "turbo",
        "turbo-2bit",
        "turbo-1.5bit",
        "turbo-1bit",
        "product-x4",
        "product-x8",
        "product",
        "product-x32",
        "product-x64",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("binry", "expected a quantization of auto, none, binary"),
        ("binary-3bit", "bits of binary quantization to be one of 1, 1.5, 2, got 3.0"),
        ("turbo-8bit", "bits of turbo quantization to be one of 1, 1.5, 2, 4, got 8.0"),
        ("product-x5", "a compression to be one of 4, 8, 16, 32, 64, got 5"),
        ("binary-query-float", "a query encoding of binary, scalar4bits, scalar8bits"),
        ("turbo-x4", "expected a quantization of"),
        ("product-2bit", "expected a quantization of"),
        ("", "expected a quantization of"),
    ],
)
def test_a_name_that_means_nothing_is_refused_with_those_that_do(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Quantization.of(given)


def test_qdrants_own_model_is_taken_as_it_is() -> None:
    own = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=False)
    )
    assert Quantization.of(own) == Quantization("custom", own)
    assert pinned(own) is own  # it says itself where it wants to be


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_on_a_server_codes_are_in_memory_and_originals_on_disk(
    config: models.QuantizationConfig,
) -> None:
    asked = creation(
        embedded=False,
        dim=8,
        quantization=Quantization("custom", config),
        tenancy=None,
        settings={},
    )
    (inner,) = dict(asked["quantization_config"]).values()
    assert (inner.always_ram, inner.memory) == (True, models.Memory.PINNED)
    dense = asked["vectors_config"]["dense"]
    assert (dense.on_disk, dense.memory) == (True, models.Memory.COLD)


def test_without_quantization_a_server_places_vectors_as_it_likes() -> None:
    asked = creation(
        embedded=False, dim=8, quantization=Quantization.auto(), tenancy=None, settings={}
    )
    assert "quantization_config" not in asked
    assert asked["vectors_config"]["dense"].on_disk is None
    assert "hnsw_config" not in asked


def test_the_callers_settings_win() -> None:
    graph = models.HnswConfigDiff(m=32)
    asked = creation(
        embedded=False,
        dim=8,
        quantization=Quantization.none(),
        tenancy="payload",
        settings={"hnsw_config": graph, "shard_number": 6, "replication_factor": 2},
    )
    assert asked["hnsw_config"] is graph
    assert (asked["shard_number"], asked["replication_factor"]) == (6, 2)


def test_binary_is_searched_with_more_candidates() -> None:
    by_name = {each.name: each.config for each in ALL if each.config is not None}
    assert default_oversampling(by_name["binary-2bit"]) == 3.0
    assert default_oversampling(by_name["turbo"]) == 2.0


@pytest.mark.parametrize("quantization", ALL, ids=str)
def test_a_collection_of_each_kind_finds_its_documents(
    edge: QdrantBase, quantization: Quantization
) -> None:
    docs = Collection(edge, "docs", embedder=HashEmbedder(64), quantization=quantization)
    Indexer(docs).add(DOCUMENTS)
    assert docs.manifest.quantization == quantization.name
    best = Retriever(docs).search("fruit 7 melon 49", mode="dense", limit=1)
    assert best[0].source == "d7"
    # By its name an existing collection is recognised.
    assert Collection(edge, "docs", quantization=quantization.name).open()


def test_quantization_of_an_existing_collection_is_changed(client: QdrantBase) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(64), quantization="scalar")
    Indexer(docs).add(DOCUMENTS)
    before = {hit.source for hit in Retriever(docs).search("melon 49", mode="dense", exact=True)}
    seen: list[object] = []
    docs.set_quantization(Quantization.binary(2), progress=seen.append)
    assert isinstance(docs.config.quantization_config, models.BinaryQuantization)
    assert docs.manifest.quantization == "binary-2bit"
    assert bool(seen) is not docs.embedded  # a server is waited for, with progress
    after = {hit.source for hit in Retriever(docs).search("melon 49", mode="dense", exact=True)}
    assert after == before
    assert Retriever(docs).search("fruit 7 melon 49", mode="dense", limit=1)[0].source == "d7"
    # A second process finds it so, and asking for what it was is refused with the way to it.
    with pytest.raises(CollectionMismatch, match="ragkit rebuild docs --quantization scalar"):
        Collection(client, "docs", quantization="scalar").open()
    assert Collection(client, "docs", quantization="binary-2bit").open()


def test_quantization_is_taken_away_again_on_a_server_only(client: QdrantBase) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(64), quantization="binary")
    Indexer(docs).add(DOCUMENTS)
    if docs.embedded:
        with pytest.raises(ValueError, match="ragkit rebuild docs --quantization none"):
            docs.set_quantization("none")
        assert docs.open().quantization == "binary"
        return
    docs.set_quantization("none")
    assert docs.config.quantization_config is None
    assert Retriever(docs).search("fruit 7 melon 49", mode="dense", limit=1)[0].source == "d7"


def test_keywords_cannot_be_quantized(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add(DOCUMENTS)
    with pytest.raises(ValueError, match="'docs' has no vectors to quantize"):
        docs.set_quantization("binary")
