"""Collection settings and payload indexes: qdrant-client's models to the engine's and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client import models

from ragkit.edge.responses import bad_request, unsupported

_MAX_SIZE = 65_536  # the server's limit on dimensions


def to_edge_config(
    vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None,
    sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
    *,
    hnsw_config: models.HnswConfigDiff | None = None,
    quantization_config: models.QuantizationConfig | None = None,
    optimizers_config: models.OptimizersConfigDiff | None = None,
    on_disk_payload: bool | None = None,
    payload: models.PayloadStorageParams | None = None,
    id_tracker: models.IdTrackerParams | None = None,
    max_search_threads: int | None = None,
) -> edge.EdgeConfig:
    """The engine's settings for the arguments of `create_collection`.

    Raises:
        UnexpectedResponse: A setting that a server refuses (400).
        NotImplementedError: A setting that the engine cannot honour.
    """
    if not vectors_config and not sparse_vectors_config:
        raise unsupported("a collection without vectors")
    named = {"": vectors_config} if isinstance(vectors_config, models.VectorParams) else None
    dense = dict(vectors_config or {}) if named is None else named
    sparse = dict(sparse_vectors_config or {})
    for name in dense.keys() & sparse.keys():
        raise bad_request(f"Wrong input: vector name {name!r} is both dense and sparse: rename one")
    hnsw = _Hnsw().merged(hnsw_config)
    with _refusing("the collection's settings are"):
        return edge.EdgeConfig(
            vectors={name: _vector_params(name, params, hnsw) for name, params in dense.items()},
            sparse_vectors={name: _sparse_params(params) for name, params in sparse.items()},
            hnsw_config=hnsw.to_edge(),
            quantization_config=_quantization(quantization_config),
            optimizers=_optimizers(optimizers_config),
            on_disk_payload=on_disk_payload,
            payload_memory=_memory(payload),
            id_tracker_memory=_memory(id_tracker),
            max_search_threads=max_search_threads,
        )


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """What the engine says to a number out of range when an object is built, as a server's 400."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as exc:
        raise bad_request(f"Wrong input: {what} not valid: {exc}") from exc


def _memory(params: models.PayloadStorageParams | models.IdTrackerParams | None) -> Any:
    return None if params is None else _member(edge.Memory, params.memory)


def refuse_server_settings(**settings: Any) -> None:
    """Refuse settings of a cluster or a server that are asked for and cannot be honoured.

    Absent ones and those that describe one embedded shard pass: one shard, one replica,
    automatic sharding.

    Raises:
        NotImplementedError: Names the setting.
    """
    for name, value in settings.items():
        if value not in (None, 1, models.ShardingMethod.AUTO):
            raise unsupported(f"{name}={getattr(value, 'value', value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hnsw:
    """A complete graph configuration; the defaults are the server's."""

    m: int = 16
    ef_construct: int = 100
    full_scan_threshold: int = 10_000
    max_indexing_threads: int = 0
    on_disk: bool | None = None
    memory: models.Memory | None = None
    payload_m: int | None = None
    inline_storage: bool | None = None

    def merged(self, diff: models.HnswConfigDiff | None) -> _Hnsw:
        """This configuration with what the diff names."""
        if diff is None:
            return self
        if diff.ef_construct is not None and diff.ef_construct < 4:
            raise _out_of_range("hnsw_config.ef_construct", diff.ef_construct, "at least 4")
        if diff.m is not None and not 0 <= diff.m <= 10_000:
            raise _out_of_range("hnsw_config.m", diff.m, "0 to 10000")
        return dataclasses.replace(self, **_given(diff))

    def to_edge(self) -> edge.HnswIndexConfig:
        return edge.HnswIndexConfig(
            self.m,
            self.ef_construct,
            self.full_scan_threshold,
            max_indexing_threads=self.max_indexing_threads,
            on_disk=self.on_disk,
            memory=_member(edge.Memory, self.memory),
            payload_m=self.payload_m,
            inline_storage=self.inline_storage,
        )


def _given(model: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in model if value is not None}


def _out_of_range(what: str, got: Any, expected: str) -> Exception:
    return bad_request(
        f"Validation error in JSON body: [{what}: value {got} invalid, must be {expected}]"
    )


def _vector_params(name: str, params: models.VectorParams, hnsw: _Hnsw) -> edge.EdgeVectorParams:
    if not 1 <= params.size <= _MAX_SIZE:
        raise _out_of_range(f"vectors.{name}.size", params.size, f"1 to {_MAX_SIZE}")
    multi = params.multivector_config
    return edge.EdgeVectorParams(
        params.size,
        _member(edge.Distance, params.distance),
        on_disk=params.on_disk,
        memory=_member(edge.Memory, params.memory),
        datatype=_member(edge.VectorStorageDatatype, params.datatype),
        multivector_config=None if multi is None else _multivector(multi),
        quantization_config=_quantization(params.quantization_config),
        hnsw_config=(
            None if params.hnsw_config is None else hnsw.merged(params.hnsw_config).to_edge()
        ),
    )


def _multivector(config: models.MultiVectorConfig) -> edge.MultiVectorConfig:
    return edge.MultiVectorConfig(_member(edge.MultiVectorComparator, config.comparator))


def _sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index or models.SparseIndexParams()
    modifier = None if params.modifier == models.Modifier.NONE else params.modifier
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold,
        on_disk=index.on_disk,
        memory=_member(edge.Memory, index.memory),
        datatype=_member(edge.VectorStorageDatatype, index.datatype),
        modifier=_member(edge.Modifier, modifier),
    )


def _quantization(config: models.QuantizationConfig | None) -> Any:
    if config is None:
        return None
    if isinstance(config, models.ScalarQuantization):
        return _scalar(config.scalar)
    if isinstance(config, models.ProductQuantization):
        return edge.ProductQuantizationConfig(
            _member(edge.CompressionRatio, config.product.compression), **_placed(config.product)
        )
    if isinstance(config, models.BinaryQuantization):
        binary = config.binary
        return edge.BinaryQuantizationConfig(
            encoding=_member(edge.BinaryQuantizationEncoding, binary.encoding),
            query_encoding=_member(edge.BinaryQuantizationQueryEncoding, binary.query_encoding),
            **_placed(binary),
        )
    if isinstance(config, models.TurboQuantization):
        bits = _member(edge.TurboQuantBitSize, config.turbo.bits)
        return edge.TurboQuantQuantizationConfig(bits=bits, **_placed(config.turbo))
    raise unsupported(f"the quantization {type(config).__name__}")


def _scalar(config: models.ScalarQuantizationConfig) -> edge.ScalarQuantizationConfig:
    if config.quantile is not None and not 0.5 <= config.quantile <= 1.0:
        raise _out_of_range("scalar.quantile", config.quantile, "0.5 to 1.0")
    return edge.ScalarQuantizationConfig(
        _member(edge.ScalarType, config.type), quantile=config.quantile, **_placed(config)
    )


def _placed(config: Any) -> dict[str, Any]:
    return {"always_ram": config.always_ram, "memory": _member(edge.Memory, config.memory)}


def _optimizers(config: models.OptimizersConfigDiff | None) -> edge.EdgeOptimizersConfig | None:
    if config is None:
        return None
    given = _given(config)
    for name in ("memmap_threshold", "flush_interval_sec", "max_optimization_threads"):
        if name in given:
            raise unsupported(f"optimizers_config.{name}")
    if not 0.0 <= given.get("deleted_threshold", 0.0) <= 1.0:
        raise _out_of_range("deleted_threshold", config.deleted_threshold, "0.0 to 1.0")
    return edge.EdgeOptimizersConfig(**given)


def _member(kind: Any, member: Any) -> Any:
    """The engine's member for one of qdrant-client's: `one_and_half_bits` is `OneAndHalfBits`."""
    if member is None:
        return None
    found = _members(kind).get(_letters(member.value))
    if found is None:
        raise unsupported(f"{type(member).__name__} {member.value!r}")
    return found


def _members(kind: Any) -> dict[str, Any]:
    return {_letters(name): getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def _from_member(kind: Any, member: Any) -> Any:
    """The member of qdrant-client's for one of the engine's."""
    if member is None:
        return None
    name = _letters(repr(member).rpartition(".")[2])
    return next(found for found in kind if _letters(found.value) == name)


def to_edge_index(field_schema: Any) -> Any:
    """The engine's payload index for a type (also by its name, such as "keyword") or parameters.

    Raises:
        UnexpectedResponse: There is no such type (400).
    """
    if isinstance(field_schema, BaseModel):
        return _index_params(field_schema)
    try:
        return _member(edge.PayloadSchemaType, models.PayloadSchemaType(field_schema))
    except ValueError as exc:
        expected = ", ".join(kind.value for kind in models.PayloadSchemaType)
        raise bad_request(
            f"Wrong input: {field_schema!r} is no payload index type: use one of {expected}"
        ) from exc


_INDEX_PARAMS: dict[models.PayloadSchemaType, tuple[Any, Any]] = {
    models.PayloadSchemaType.KEYWORD: (models.KeywordIndexParams, edge.KeywordIndexParams),
    models.PayloadSchemaType.INTEGER: (models.IntegerIndexParams, edge.IntegerIndexParams),
    models.PayloadSchemaType.FLOAT: (models.FloatIndexParams, edge.FloatIndexParams),
    models.PayloadSchemaType.GEO: (models.GeoIndexParams, edge.GeoIndexParams),
    models.PayloadSchemaType.TEXT: (models.TextIndexParams, edge.TextIndexParams),
    models.PayloadSchemaType.BOOL: (models.BoolIndexParams, edge.BoolIndexParams),
    models.PayloadSchemaType.DATETIME: (models.DatetimeIndexParams, edge.DatetimeIndexParams),
    models.PayloadSchemaType.UUID: (models.UuidIndexParams, edge.UuidIndexParams),
}


def _index_params(params: BaseModel) -> Any:
    kind = next((ours for theirs, ours in _INDEX_PARAMS.values() if theirs is type(params)), None)
    if kind is None:
        raise unsupported(f"the payload index {type(params).__name__}")
    given = _given(params)
    del given["type"]
    with _refusing("the index's parameters are"):
        return kind(**{name: _index_value(name, value) for name, value in given.items()})


def _index_value(name: str, value: Any) -> Any:
    if name == "memory":
        return _member(edge.Memory, value)
    if name == "tokenizer":
        return _member(edge.TokenizerType, value)
    if name == "stopwords":
        return _stopwords(value)
    if name == "stemmer":
        if isinstance(value, models.DisabledStemmerParams):
            return edge.DisabledStemmer()
        return edge.SnowballParams(_member(edge.SnowballLanguage, value.language))
    if name == "scoring" and isinstance(value, models.TextScoringParams):
        return edge.TextScoringParams(_member(edge.TextScoringType, value.type))
    return value


def _stopwords(value: models.StopwordsInterface) -> Any:
    if isinstance(value, models.Language):
        return _member(edge.Language, value)
    languages = {_member(edge.Language, language) for language in value.languages or ()}
    return edge.StopwordsSet(languages, set(value.custom or ()))


def from_edge_index(info: edge.PayloadIndexInfo) -> models.PayloadIndexInfo:
    """A payload index as the server describes it."""
    data_type = _from_member(models.PayloadSchemaType, info.data_type)
    params = None
    if info.params is not None:
        kind = _INDEX_PARAMS[data_type][0]
        fields = {
            name: _from_index_value(name, getattr(info.params, name))
            for name in kind.model_fields
            if name != "type"
        }
        params = kind(type=data_type.value, **fields)
    return models.PayloadIndexInfo(data_type=data_type, params=params, points=info.points)


def _from_index_value(name: str, value: Any) -> Any:
    if name == "memory":
        return _from_member(models.Memory, value)
    if name == "tokenizer":
        return _from_member(models.TokenizerType, value)
    if name == "stopwords":
        return _from_stopwords(value)
    if name == "stemmer":
        return _from_stemmer(value)
    if name == "scoring" and isinstance(value, edge.TextScoringParams):
        return models.TextScoringParams(type=_from_member(models.TextScoringType, value.type))
    return value


def _from_stopwords(value: Any) -> Any:
    if not isinstance(value, edge.StopwordsSet):
        return _from_member(models.Language, value)
    languages = sorted(_from_member(models.Language, item) for item in value.languages or ())
    return models.StopwordsSet(languages=languages, custom=sorted(value.custom or ()))


def _from_stemmer(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, edge.SnowballParams):
        language = _from_member(models.SnowballLanguage, value.language)
        return models.SnowballParams(type=models.Snowball.SNOWBALL, language=language)
    return models.DisabledStemmerParams(type=models.NoStemmer.NONE)
