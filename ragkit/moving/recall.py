"""How much of an exact search a collection's default search finds, measured on its own vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from qdrant_client import models

from ragkit.collection import Collection
from ragkit.embeddings import Vectors
from ragkit.points import Points
from ragkit.schema import DENSE
from ragkit.search_options import CALL, COLLECTION, settle
from ragkit.search_request import query_request
from ragkit.tenancy import TENANT

_NEIGHBOURS = 10
_PAGE = 64
_AT_ONCE = 16  # searches in a request
_SAME = 1e-6  # scores closer than this are equal: which of the two is found is chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A stored vector to search with.

    Attributes:
        id: Of its point, which is not counted among its own neighbours.
        tenant: Whose it is; searches stay within a tenant's points.
        vector: Shape (dim,).
    """

    id: str
    tenant: str | None
    vector: Vectors


def sample_of(collection: Collection, size: int) -> list[Probe]:
    """The first vectors in the order of ids; ids are hashes, so that is a random sample."""
    strict = collection.config.strict_mode_config
    points = Points(collection.client, collection.name, strict=strict)
    records = islice(points.scroll(fields=[TENANT], vectors=[DENSE], page=_PAGE), size)
    return [
        Probe(
            id=str(record.id),
            tenant=(record.payload or {}).get(TENANT),
            vector=np.asarray(record.vector[DENSE], np.float32),
        )
        for record in records
        if isinstance(record.vector, dict) and DENSE in record.vector
    ]


def recall(collection: Collection, sample: Sequence[Probe]) -> float | None:
    """The share of a vector's 10 nearest neighbours that the default search finds.

    Neighbours as near as the tenth count as found whichever of them is, so that equal texts do not
    pass for misses.

    Returns:
        The mean over the sample; None where no point has a neighbour.
    """
    shares: list[float] = []
    found = _answers(collection, sample, exact=False)
    for best, some in zip(_answers(collection, sample, exact=True), found, strict=True):
        if best:
            ids, least = {point.id for point in best}, best[-1].score - _SAME
            hits = sum(point.id in ids or point.score >= least for point in some)
            shares.append(hits / len(best))
    return float(np.mean(shares)) if shares else None


def overlap(old: Collection, new: Collection, sample: Sequence[Probe]) -> float | None:
    """The share of a point's 10 nearest neighbours that both collections agree on, by exact search.

    Args:
        old: The collection of the sample.
        new: One with the same points and other vectors.
        sample: Of the old one.
    """
    by_id = {probe.id: probe for probe in sample_of(new, len(sample))}
    both = [probe for probe in sample if probe.id in by_id]
    others = _answers(new, [by_id[probe.id] for probe in both], exact=True)
    shares = [
        len({point.id for point in best} & {point.id for point in other}) / len(best)
        for best, other in zip(_answers(old, both, exact=True), others, strict=True)
        if best
    ]
    return float(np.mean(shares)) if shares else None


def _answers(
    collection: Collection, sample: Sequence[Probe], *, exact: bool
) -> Iterator[list[models.ScoredPoint]]:
    """For each of the sample its neighbours, best first, without itself."""
    strict = collection.config.strict_mode_config
    points = Points(collection.client, collection.name, strict=strict)
    collection.open(unfinished=True)
    for start in range(0, len(sample), _AT_ONCE):
        some = sample[start : start + _AT_ONCE]
        requests = [_request(probe, collection, exact=exact) for probe in some]
        for probe, response in zip(some, points.query(requests), strict=True):
            others = [point for point in response.points if str(point.id) != probe.id]
            yield others[:_NEIGHBOURS]


def _request(probe: Probe, collection: Collection, *, exact: bool) -> models.QueryRequest:
    """The request that a retriever sends, for ids alone."""
    where = collection.seen_by(probe.tenant)
    options = settle(
        (COLLECTION, where.defaults), (CALL, {"mode": "dense", "exact": exact})
    ).options
    request = query_request(
        "", options, where, vector=probe.vector, narrowed=None, limit=_NEIGHBOURS + 1
    )
    assert request is not None  # noqa: S101  (there is a vector)
    return request.model_copy(update={"with_payload": False})
