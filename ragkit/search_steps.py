"""What a search asks of the world: to embed, to ask Qdrant, to rerank.

A flow is a generator: it yields what is to be done next (`Step`), is sent what came of it, and
returns its result. `Retriever` and `AsyncRetriever` carry out the same flows, each in its own way.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from qdrant_client import models

from ragkit.hits import Hits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed queries; the answer has shape (len(queries), dim)."""

    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Send searches in one call; the answer is one `QueryResponse` for each."""

    requests: Sequence[models.QueryRequest]


@dataclass(frozen=True, slots=True)
class Group:
    """Send a search for groups; the answer is a `GroupsResult`."""

    request: models.QueryRequest
    group_by: str
    group_size: int


@dataclass(frozen=True, slots=True)
class Values:
    """Read what values a payload key has; the answer lists them."""

    key: str


@dataclass(frozen=True, slots=True)
class Read:
    """Read points by their ids, in one call; the answer is a dict of the records there are."""

    ids: Sequence[models.ExtendedPointId]
    fields: Sequence[str]
    vectors: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Holds:
    """Look whether any point has a value under a payload key; the answer is a bool."""

    key: str

    @property
    def condition(self) -> models.Filter:
        """What such a point matches."""
        nothing = models.IsEmptyCondition(is_empty=models.PayloadField(key=self.key))
        return models.Filter(must_not=[nothing])


@dataclass(frozen=True, slots=True)
class Rerank:
    """Put hits in the reranker's order; the answer is the `Hits`."""

    query: str
    hits: Hits


Step: TypeAlias = Embed | Query | Group | Values | Read | Holds | Rerank
Flow: TypeAlias = Generator[Step, Any, T]
