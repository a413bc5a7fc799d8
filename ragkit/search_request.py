"""A search becomes a request, and the answer hits: all that does not depend on how it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from qdrant_client import models
from qdrant_client.conversions import common_types as types

from ragkit.embeddings import Embedder, Vectors
from ragkit.errors import CollectionMismatch
from ragkit.filters import filter_keys
from ragkit.foreign import ForeignSchema
from ragkit.hits import Hit, hit_fields, read_hit
from ragkit.manifest import Manifest, check_tenancy
from ragkit.quantization import default_oversampling
from ragkit.schema import BM25, DENSE
from ragkit.search_options import SearchOptions, Settled
from ragkit.server import FUSION_WEIGHTS, PREFIX_MATCH, ServerInfo
from ragkit.sparse import Bm25Encoder
from ragkit.tenancy import TENANT, scoped_request

# With a graph, fewer candidates than this cost recall on the embedded engine.
_MIN_HNSW_EF = 256
# From how many points on a filter without an index is worth a word: below, reading all of them
# takes less than a millisecond or two.
_LARGE = 10_000
_MOST_MMR = 16_384  # candidates that Qdrant's own MMR takes


@dataclass(frozen=True, kw_only=True)
class Searchable:
    """What of a collection decides how it is searched.

    Attributes:
        name: As the caller calls it.
        version: The collection that the name stood for when it was opened.
        manifest: What it was made with; None if ragkit did not make it.
        foreign: Where it keeps what, if ragkit did not make it.
        info: Qdrant's own account of it.
        server: What the server is; None for the embedded engine.
        embedder: Embeds queries, the same as embedded its passages; None to search by words.
        tenant: Whose passages alone are found; None in a collection without tenants.

    Raises:
        CollectionMismatch: The collection is shared by tenants and none is named, or the reverse.
    """

    name: str
    version: str
    manifest: Manifest | None
    foreign: ForeignSchema | None = None
    info: models.CollectionInfo
    embedder: Embedder | None
    server: ServerInfo | None
    tenant: str | None

    def __post_init__(self) -> None:
        if self.manifest is not None:
            check_tenancy(self.manifest, self.tenant, name=self.name)

    @property
    def vector_name(self) -> str:
        """The name of the dense vector."""
        return DENSE if self.foreign is None else self.foreign.vector

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The search options that were found best for it."""
        return self.manifest.search if self.manifest is not None else {}

    @property
    def dim(self) -> int | None:
        """The width of its dense vectors; None where there are none."""
        params = self._vector_params
        return None if params is None else params.size

    @property
    def shard_key(self) -> str | None:
        """Where the tenant's points are, if tenants have shards of their own."""
        by_shard = self.manifest is not None and self.manifest.tenancy == "shard"
        return self.tenant if by_shard else None

    @cached_property
    def quantization(self) -> models.QuantizationConfig | None:
        """How its vectors are quantized: by their own setting, else by the collection's."""
        params = self._vector_params
        own = params.quantization_config if params is not None else None
        return own or self.info.config.quantization_config

    @cached_property
    def _vector_params(self) -> models.VectorParams | None:
        vectors = self.info.config.params.vectors
        return vectors.get(self.vector_name) if isinstance(vectors, Mapping) else vectors

    @cached_property
    def has_graph(self) -> bool:
        """Whether the vectors of the embedded engine are searched through a graph."""
        return self.server is None and self.info.config.hnsw_config.m > 0

    @property
    def matches_prefixes(self) -> bool:
        """Whether a filter may ask for the beginning of a value."""
        return self.server is None or self.server.has(PREFIX_MATCH)

    def unindexed(self, where: models.Filter | None) -> list[str]:
        """The payload keys of a filter that have no index, in a collection where that matters."""
        if where is None or (self.info.points_count or 0) < _LARGE:
            return []
        return sorted(filter_keys(where) - self.info.payload_schema.keys() - {TENANT})


def check_search(settled: Settled, where: Searchable, *, vectors: Vectors | None) -> None:
    """Refuse what this collection cannot be asked.

    Args:
        settled: The options.
        where: The collection.
        vectors: The queries as embedded by the caller, shape (n, dim); None if he brings none.

    Raises:
        ValueError: The vectors are not as wide as the collection's.
        CollectionMismatch: The mode needs an embedder or words, an option a collection of
            ragkit's, or rescoring is asked for where nothing is quantized.
        ServerTooOld: The server cannot do that yet.
    """
    if where.foreign is not None:
        _check_foreign(settled.options, where)
    if vectors is not None and settled.options.mode != "sparse":
        _check_vectors(vectors, where)
    mode, meaning = settled.options.mode, vectors is not None or where.embedder is not None
    if not meaning and (mode in ("dense", "hybrid") or where.manifest is None):
        held = where.manifest.embedder if where.manifest else "it was filled with"
        remedy = f"pass the embedder {held}" if held else "use mode='sparse'"
        raise CollectionMismatch(
            f"mode {mode or 'dense'!r} needs an embedder, and collection {where.name!r} was opened "
            f"without one: {remedy}"
        )
    if not meaning and settled.options.diversity:
        raise CollectionMismatch(
            f"diversity compares dense vectors, and collection {where.name!r} is searched by "
            "words alone: leave it out"
        )
    fuses = meaning and mode in (None, "hybrid")
    if fuses and settled.options.weights is not None and where.server is not None:
        where.server.require(FUSION_WEIGHTS)
    said = settled.said("rescore", "oversampling")
    if said and where.quantization is None and mode != "sparse" and meaning:
        ours = ', or quantize the collection (set_quantization, or "ragkit rebuild")'
        raise CollectionMismatch(
            f"{' and '.join(said)} {'goes' if len(said) == 1 else 'go'} with quantization, and "
            f"collection {where.name!r} has none: leave it out{ours if where.manifest else ''}"
        )


def _check_vectors(vectors: Vectors, where: Searchable) -> None:
    if where.dim is None:
        raise CollectionMismatch(
            f"collection {where.name!r} has no dense vectors {where.vector_name!r} to compare the "
            "query's with: leave them out, and it is searched by words"
        )
    if vectors.shape[1] != where.dim:
        raise ValueError(
            f"expected query vectors of {where.dim} dimensions, as collection {where.name!r} has "
            f"them, got {vectors.shape[1]}"
        )


def _check_foreign(options: SearchOptions, where: Searchable) -> None:
    asked = f"mode {options.mode!r}" if options.mode in ("sparse", "hybrid") else ""
    if not asked and options.context:
        asked = "context"
    if asked:
        raise CollectionMismatch(
            f"{asked} needs what ragkit stores with a passage, and collection {where.name!r} was "
            "not made by ragkit: use mode='dense' without context"
        )


def asks_for_meaning(options: SearchOptions, where: Searchable) -> bool:
    """Whether the query has to be embedded."""
    return options.mode != "sparse" and where.embedder is not None


def query_request(
    query: str,
    options: SearchOptions,
    where: Searchable,
    *,
    vector: Vectors | None,
    narrowed: models.Filter | None,
    limit: int,
) -> models.QueryRequest | None:
    """The request to send; None when the query holds nothing to search for.

    Args:
        query: What is looked for.
        options: How.
        where: The collection.
        vector: The query as embedded, shape (dim,); None to search by words alone.
        narrowed: The options' filter, as Qdrant's.
        limit: How many hits to bring, which may be more than the caller gets.
    """
    sides = _sides(query, options, where, vector, narrowed, limit)
    if not sides:
        return None
    request = models.QueryRequest(
        shard_key=where.shard_key,
        limit=limit,
        score_threshold=options.score_threshold,
        with_payload=hit_fields(where.foreign),
        filter=narrowed,
    )
    if len(sides) == 1:
        (side,) = sides.values()
        return scoped_request(request.model_copy(update=side), where.tenant)
    # Prefetches choose their candidates before the request's own filter is looked at.
    request.prefetch = [
        models.Prefetch(**side, filter=narrowed, limit=max(options.candidates, limit))
        for side in sides.values()
    ]
    request.query = _fusion(options, list(sides))
    return scoped_request(request, where.tenant)


def diversified_request(request: models.QueryRequest, options: SearchOptions) -> None:
    """Let the engine choose among the candidates of a dense request by relevance and difference."""
    nearest = request.query
    assert isinstance(nearest, list)  # noqa: S101  (a dense side's vector)
    candidates = min(options.candidates, _MOST_MMR)
    mmr = models.Mmr(diversity=options.diversity, candidates_limit=candidates)
    request.query = models.NearestQuery(nearest=nearest, mmr=mmr)


def read_hits(response: types.QueryResponse, where: Searchable, *, ordered: bool) -> list[Hit]:
    """What was found, best first.

    Args:
        response: The answer.
        where: The collection.
        ordered: The order is the engine's choice. Else it is by score, and equal scores by id: a
            server leaves their order to chance.
    """
    points = response.points if ordered else sorted(response.points, key=_rank)
    return [read_hit(point, foreign=where.foreign) for point in points]


def read_groups(result: types.GroupsResult, where: Searchable) -> list[Hit]:
    """The hits of groups, one group after the other, best first."""
    groups = [(group.id, group.hits) for group in result.groups if group.hits]
    if where.foreign is None:  # of another's scores the lower may be the better, as of distances
        groups = [(value, sorted(hits, key=_rank)) for value, hits in groups]
        groups.sort(key=lambda group: _rank(group[1][0]))
    return [
        read_hit(point, foreign=where.foreign, group=value)
        for value, hits in groups
        for point in hits
    ]


def _sides(
    query: str,
    options: SearchOptions,
    where: Searchable,
    vector: Vectors | None,
    narrowed: models.Filter | None,
    limit: int,
) -> dict[str, dict[str, Any]]:
    """The searches to make: by meaning, by words, or both."""
    sides: dict[str, dict[str, Any]] = {}
    if vector is not None and options.mode != "sparse":
        params = _search_params(options, where, narrowed, limit)
        sides["dense"] = {"query": vector.tolist(), "using": where.vector_name, "params": params}
    if options.mode != "dense" and where.manifest is not None:
        words = _encoder(where.manifest.avg_len, where.manifest.language).encode_query(query)
        if words.indices:
            sides["sparse"] = {"query": words, "using": BM25}
    return sides


def _search_params(
    options: SearchOptions, where: Searchable, narrowed: models.Filter | None, limit: int
) -> models.SearchParams:
    # On the embedded engine a graph that knows nothing of a key loses its way among the points
    # that are filtered out: recall is near nothing, while a scan finds all.
    exact = options.exact or (where.has_graph and bool(where.unindexed(narrowed)))
    hnsw_ef = options.hnsw_ef
    if hnsw_ef is None and where.has_graph and not exact:
        # The graph has to yield what a fusion is given, too.
        fetched = limit if options.mode == "dense" else max(limit, options.candidates)
        hnsw_ef = max(_MIN_HNSW_EF, 2 * fetched)
    params = models.SearchParams(
        exact=exact, hnsw_ef=hnsw_ef, indexed_only=options.indexed_only or None
    )
    quantization = where.quantization
    if quantization is not None:
        # Always said: the engine's own default depends on the kind of quantization.
        params.quantization = models.QuantizationSearchParams(
            rescore=options.rescore,
            oversampling=options.oversampling or default_oversampling(quantization),
        )
    return params


def _fusion(options: SearchOptions, sides: Sequence[str]) -> models.Query:
    if options.fusion == "dbsf":
        return models.FusionQuery(fusion=models.Fusion.DBSF)
    weights = None if options.weights is None else [options.weights[side] for side in sides]
    return models.RrfQuery(rrf=models.Rrf(k=options.fusion_k, weights=weights))


@lru_cache
def _encoder(avg_len: float, language: str) -> Bm25Encoder:
    return Bm25Encoder(avg_len=avg_len, language=language)


def _rank(point: models.ScoredPoint) -> tuple[float, str]:
    return -point.score, str(point.id)
