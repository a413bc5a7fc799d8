"""Collection settings and payload indexes reach the engine as they were meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge.settings import (
    from_edge_index,
    refuse_server_settings,
    to_edge_config,
    to_edge_index,
)

_DENSE = models.VectorParams(size=16, distance=models.Distance.COSINE)
_BINARY = models.BinaryQuantization(
    binary=models.BinaryQuantizationConfig(
        encoding=models.BinaryQuantizationEncoding.ONE_AND_HALF_BITS,
        query_encoding=models.BinaryQuantizationQueryEncoding.SCALAR8BITS,
        memory=models.Memory.PINNED,
    )
)
_SCALAR = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(
        type=models.ScalarType.INT8, quantile=0.99, always_ram=True
    )
)
_PRODUCT = models.ProductQuantization(
    product=models.ProductQuantizationConfig(
        compression=models.CompressionRatio.X16, memory=models.Memory.COLD
    )
)


def _turbo(bits: models.TurboQuantBitSize | None = None) -> models.TurboQuantization:
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits))


def test_a_single_vector_is_the_unnamed_one() -> None:
    params = to_edge_config(_DENSE).vectors[""]
    assert (params.size, params.distance) == (16, edge.Distance.Cosine)


def test_every_setting_of_a_vector_reaches_the_engine() -> None:
    config = to_edge_config(
        {
            "plain": _DENSE,
            "rich": models.VectorParams(
                size=3,
                distance=models.Distance.MANHATTAN,
                datatype=models.Datatype.FLOAT16,
                memory=models.Memory.COLD,
                on_disk=True,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                quantization_config=_SCALAR,
                hnsw_config=models.HnswConfigDiff(m=4, memory=models.Memory.CACHED),
            ),
        },
        hnsw_config=models.HnswConfigDiff(ef_construct=50, payload_m=8),
    )
    plain, rich = config.vectors["plain"], config.vectors["rich"]
    assert (plain.hnsw_config, plain.quantization_config, plain.memory) == (None, None, None)
    assert (rich.size, rich.distance, rich.on_disk) == (3, edge.Distance.Manhattan, True)
    assert (rich.datatype, rich.memory) == (edge.VectorStorageDatatype.Float16, edge.Memory.Cold)
    assert rich.multivector_config.comparator == edge.MultiVectorComparator.MaxSim
    quantization = rich.quantization_config
    assert isinstance(quantization, edge.ScalarQuantizationConfig)
    assert quantization.quantile == pytest.approx(0.99)
    assert quantization.always_ram
    hnsw = rich.hnsw_config
    assert (hnsw.m, hnsw.ef_construct, hnsw.payload_m) == (4, 50, 8)
    assert (hnsw.full_scan_threshold, hnsw.memory) == (10_000, edge.Memory.Cached)


def test_the_graph_has_the_servers_defaults_under_what_is_given() -> None:
    plain = to_edge_config(_DENSE).hnsw_config
    assert (plain.m, plain.ef_construct, plain.full_scan_threshold) == (16, 100, 10_000)
    given = models.HnswConfigDiff(m=0, max_indexing_threads=1, inline_storage=False)
    merged = to_edge_config(_DENSE, hnsw_config=given).hnsw_config
    assert (merged.m, merged.ef_construct, merged.max_indexing_threads) == (0, 100, 1)
    assert merged.inline_storage is False


def test_sparse_vectors_keep_their_modifier_and_index() -> None:
    config = to_edge_config(
        None,
        {
            "bm25": models.SparseVectorParams(
                modifier=models.Modifier.IDF,
                index=models.SparseIndexParams(
                    full_scan_threshold=7,
                    datatype=models.Datatype.FLOAT16,
                    memory=models.Memory.CACHED,
                ),
            ),
            "plain": models.SparseVectorParams(modifier=models.Modifier.NONE),
        },
    )
    bm25, plain = config.sparse_vectors["bm25"], config.sparse_vectors["plain"]
    assert (bm25.modifier, bm25.full_scan_threshold) == (edge.Modifier.Idf, 7)
    assert (bm25.datatype, bm25.memory) == (
        edge.VectorStorageDatatype.Float16,
        edge.Memory.Cached,
    )
    assert plain.modifier is None


def test_storage_and_optimizer_settings_reach_the_engine() -> None:
    config = to_edge_config(
        _DENSE,
        optimizers_config=models.OptimizersConfigDiff(
            deleted_threshold=0.5, default_segment_number=2, indexing_threshold=3
        ),
        on_disk_payload=False,
        payload=models.PayloadStorageParams(memory=models.Memory.CACHED),
        id_tracker=models.IdTrackerParams(memory=models.Memory.PINNED),
        max_search_threads=1,
    )
    optimizers = config.optimizers
    assert optimizers.deleted_threshold == 0.5
    assert (optimizers.default_segment_number, optimizers.indexing_threshold) == (2, 3)
    assert (config.on_disk_payload, config.max_search_threads) == (False, 1)
    assert config.payload_memory == edge.Memory.Cached
    assert config.id_tracker_memory == edge.Memory.Pinned


def test_binary_quantization_keeps_its_encodings() -> None:
    quantization = to_edge_config(_DENSE, quantization_config=_BINARY).quantization_config
    assert quantization.encoding == edge.BinaryQuantizationEncoding.OneAndHalfBits
    assert quantization.query_encoding == edge.BinaryQuantizationQueryEncoding.Scalar8Bits
    assert quantization.memory == edge.Memory.Pinned


@pytest.mark.parametrize("bits", list(models.TurboQuantBitSize))
def test_turbo_quantization_keeps_its_bits(bits: models.TurboQuantBitSize) -> None:
    quantization = to_edge_config(_DENSE, quantization_config=_turbo(bits)).quantization_config
    assert repr(quantization.bits).lower() == f"turboquantbitsize.{bits.value}"


@pytest.mark.parametrize(
    "members",
    [
        *[(models.Distance, edge.Distance, "distance")],
        (models.Datatype, edge.VectorStorageDatatype, "datatype"),
        (models.Memory, edge.Memory, "memory"),
    ],
    ids=lambda members: members[2],
)
def test_every_member_of_an_enumeration_has_its_counterpart(members: Any) -> None:
    theirs, ours, field = members
    for member in theirs:
        params = to_edge_config(_DENSE.model_copy(update={field: member})).vectors[""]
        assert repr(getattr(params, field)).lower() == f"{ours.__name__}.{member.value}".lower()


@pytest.mark.parametrize(
    "quantization",
    [None, _BINARY, _SCALAR, _PRODUCT, _turbo(), _turbo(models.TurboQuantBitSize.BITS1_5)],
    ids=lambda q: type(q).__name__,
)
def test_the_engine_searches_with_every_quantization(tmp_path: Path, quantization: Any) -> None:
    config = to_edge_config(
        _DENSE,
        hnsw_config=models.HnswConfigDiff(full_scan_threshold=1),
        quantization_config=quantization,
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
    )
    shard = edge.EdgeShard.create(str(tmp_path), config)
    vectors = np.random.default_rng(0).standard_normal((300, 16)).tolist()
    points = [edge.Point(n, vector, {}) for n, vector in enumerate(vectors)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    assert shard.optimize()
    assert shard.info().indexed_vectors_count == 300
    rescored = edge.SearchParams(
        hnsw_ef=300,
        quantization=edge.QuantizationSearchParams(rescore=True, oversampling=30.0),
    )
    found = shard.query(edge.QueryRequest(1, query=edge.Query.Nearest(vectors[5]), params=rescored))
    assert [point.id for point in found] == [5]
    shard.close()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"vectors_config": _DENSE.model_copy(update={"size": 0})}, "value 0 invalid"),
        ({"vectors_config": _DENSE.model_copy(update={"size": 65_537})}, "must be 1 to 65536"),
        ({"hnsw_config": models.HnswConfigDiff(ef_construct=3)}, "must be at least 4"),
        ({"hnsw_config": models.HnswConfigDiff(m=10_001)}, "must be 0 to 10000"),
        (
            {"optimizers_config": models.OptimizersConfigDiff(deleted_threshold=2.0)},
            "must be 0.0 to 1.0",
        ),
        (
            {
                "quantization_config": models.ScalarQuantization(
                    scalar=models.ScalarQuantizationConfig(
                        type=models.ScalarType.INT8, quantile=0.4
                    )
                )
            },
            "must be 0.5 to 1.0",
        ),
        (
            {
                "vectors_config": {"x": _DENSE},
                "sparse_vectors_config": {"x": models.SparseVectorParams()},
            },
            "both dense and sparse",
        ),
        ({"hnsw_config": models.HnswConfigDiff(m=-1)}, "must be 0 to 10000"),
        ({"hnsw_config": models.HnswConfigDiff(full_scan_threshold=-1)}, "not valid"),
    ],
)
def test_a_setting_that_a_server_refuses_is_a_bad_request(
    arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(UnexpectedResponse, match=says) as refusal:
        to_edge_config(**{"vectors_config": _DENSE, **arguments})
    assert refusal.value.status_code == 400


@pytest.mark.parametrize(
    "name", ["memmap_threshold", "flush_interval_sec", "max_optimization_threads"]
)
def test_an_optimizer_setting_that_the_engine_lacks_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"optimizers_config.{name}"):
        to_edge_config(_DENSE, optimizers_config=models.OptimizersConfigDiff(**{name: 1}))


@pytest.mark.parametrize("vectors", [None, {}])
def test_a_collection_without_vectors_is_refused_by_name(vectors: Any) -> None:
    with pytest.raises(NotImplementedError, match="a collection without vectors"):
        to_edge_config(vectors)


def test_the_settings_of_a_cluster_are_accepted_where_they_describe_one_shard() -> None:
    refuse_server_settings(
        shard_number=1,
        replication_factor=1,
        write_consistency_factor=None,
        sharding_method=models.ShardingMethod.AUTO,
    )
    with pytest.raises(NotImplementedError, match="shard_number=2"):
        refuse_server_settings(replication_factor=1, shard_number=2)
    with pytest.raises(NotImplementedError, match="sharding_method=custom"):
        refuse_server_settings(sharding_method=models.ShardingMethod.CUSTOM)
    with pytest.raises(NotImplementedError, match="wal_config="):
        refuse_server_settings(wal_config=models.WalConfigDiff(wal_capacity_mb=1))


# --- payload indexes -----------------------------------------------------------------------------

_INDEXES: list[Any] = [
    models.KeywordIndexParams(
        type="keyword", is_tenant=True, prefix=True, memory=models.Memory.COLD
    ),
    models.IntegerIndexParams(type="integer", lookup=True, range=False, is_principal=False),
    models.FloatIndexParams(type="float", is_principal=True, enable_hnsw=False),
    models.GeoIndexParams(type="geo", on_disk=True),
    models.BoolIndexParams(type="bool", enable_hnsw=True),
    models.DatetimeIndexParams(type="datetime", is_principal=True),
    models.UuidIndexParams(type="uuid", is_tenant=False),
    models.KeywordIndexParams(type="keyword", nested="rows[]"),
    models.TextIndexParams(type="text", tokenizer=models.TokenizerType.MULTILINGUAL),
    models.TextIndexParams(
        type="text",
        tokenizer=models.TokenizerType.WORD,
        min_token_len=2,
        max_token_len=9,
        lowercase=False,
        ascii_folding=True,
        phrase_matching=True,
        stopwords=models.StopwordsSet(
            languages=[models.Language.ENGLISH, models.Language.GERMAN], custom=["foo", "qux"]
        ),
        stemmer=models.SnowballParams(
            type=models.Snowball.SNOWBALL, language=models.SnowballLanguage.ENGLISH
        ),
        scoring=models.TextScoringParams(type=models.TextScoringType.BM25),
    ),
    models.TextIndexParams(
        type="text",
        tokenizer=models.TokenizerType.WORD,
        stopwords=models.Language.FRENCH,
        stemmer=models.DisabledStemmerParams(type=models.NoStemmer.NONE),
    ),
]


@pytest.fixture
def shard(tmp_path: Path) -> Any:
    opened = edge.EdgeShard.create(str(tmp_path), to_edge_config(_DENSE))
    yield opened
    opened.close()


@pytest.mark.parametrize("params", _INDEXES, ids=lambda params: type(params).__name__)
def test_an_index_is_described_as_it_was_created(shard: edge.EdgeShard, params: Any) -> None:
    key = "rows[].key" if params.nested else "key"
    shard.update(edge.UpdateOperation.create_field_index(key, to_edge_index(params)))
    described = from_edge_index(shard.info().payload_schema[key])
    assert described.params == params
    assert described.data_type.value == params.type
    assert described.points == 0


@pytest.mark.parametrize("kind", list(models.PayloadSchemaType))
def test_an_index_can_be_named_by_its_type(
    shard: edge.EdgeShard, kind: models.PayloadSchemaType
) -> None:
    for key, schema in (("member", kind), ("word", kind.value)):
        shard.update(edge.UpdateOperation.create_field_index(key, to_edge_index(schema)))
        described = from_edge_index(shard.info().payload_schema[key])
        assert described == models.PayloadIndexInfo(data_type=kind, params=None, points=0)


def test_an_index_counts_its_points(shard: edge.EdgeShard) -> None:
    shard.update(edge.UpdateOperation.create_field_index("n", to_edge_index("integer")))
    points = [edge.Point(n, [1.0] * 16, {"n": n} if n else {}) for n in range(3)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    assert from_edge_index(shard.info().payload_schema["n"]).points == 2


def test_index_parameters_out_of_range_are_a_bad_request() -> None:
    with pytest.raises(UnexpectedResponse, match="not valid"):
        to_edge_index(models.TextIndexParams(type="text", min_token_len=-1))


@pytest.mark.parametrize("bad", ["keywords", "", None, 3])
def test_an_unknown_index_type_is_a_bad_request(bad: Any) -> None:
    with pytest.raises(UnexpectedResponse, match="use one of keyword, integer") as refusal:
        to_edge_index(bad)
    assert refusal.value.status_code == 400


def test_an_index_the_engine_lacks_is_refused_by_name() -> None:
    class FutureIndexParams(models.BoolIndexParams):
        pass

    with pytest.raises(NotImplementedError, match="the payload index FutureIndexParams"):
        to_edge_index(FutureIndexParams(type="bool"))
