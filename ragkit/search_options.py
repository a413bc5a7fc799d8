"""How a search is made: the options, their defaults, and who has the last word.

Options come from four places, each overruling the one before: ragkit's own defaults, what was found
best for the collection (its manifest), the retriever's, and the call's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np
from qdrant_client import models

Mode: TypeAlias = Literal["dense", "sparse", "hybrid"]
Fusion: TypeAlias = Literal["rrf", "dbsf"]
FilterLike: TypeAlias = models.Filter | Mapping[str, Any]

MAX_LIMIT = 10_000
COLLECTION, RETRIEVER, CALL = "collection", "retriever", "call"  # who says an option
_MOST_CONTEXT = 100  # chunks on either side of a hit
_CANDIDATES = 50  # the least that one stage hands to the next
_CANDIDATES_PER_HIT = 3
_SIDES = ("dense", "sparse")
# Without weights. Of the k measured on six judged sets, no other was better beyond chance, and 60
# was worse: mean nDCG@10 0.669 at 10 and 0.656 at 60, 0.641 for BM25 and 0.608 for MiniLM alone.
_RRF_K = 10
_MOST_SCORE = float(np.finfo(np.float32).max)  # Qdrant's scores are of this width
# Two options, when they contradict each other, and what to do if one and the same says both.
_RIVALS: tuple[tuple[str, str, Callable[[Any, Any], bool], str], ...] = (
    (
        "fusion",
        "weights",
        lambda fusion, weights: fusion == "dbsf" and weights is not None,
        "weights go with fusion='rrf': Qdrant's dbsf has none; leave one out",
    ),
    (
        "diversity",
        "group_by",
        lambda diversity, group_by: bool(diversity) and group_by is not None,
        "diversity and group_by are two ways to spread hits: leave one out",
    ),
    (
        "diversity",
        "mode",
        lambda diversity, mode: bool(diversity) and mode == "sparse",
        "diversity compares dense vectors, mode='sparse' has none: leave it out",
    ),
)


# Each means something else with the other: an earlier one does not outlive a later of the other.
_PAIRED = (("rrf_k", "weights"),)


class SearchKeywords(TypedDict, total=False):
    """`SearchOptions` as keyword arguments; None leaves an option as it would be without."""

    limit: int | None
    mode: Mode | None
    filter: FilterLike | None
    oversampling: float | None
    rescore: bool | None
    exact: bool | None
    hnsw_ef: int | None
    indexed_only: bool | None
    score_threshold: float | None
    fusion: Fusion | None
    rrf_k: int | None
    weights: Mapping[str, float] | None
    prefetch_limit: int | None
    diversity: float | None
    group_by: str | None
    group_size: int | None
    context: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Everything that a search can be told, in Qdrant's words, as it holds for one search.

    They are said as keyword arguments (`SearchKeywords`), of a retriever and of its searches.

    Attributes:
        limit: How many hits at most, 1 to 10,000; with `group_by`, how many groups.
        mode: "dense" compares meanings as the embedder sees them, "sparse" words (BM25),
            "hybrid" fuses both rankings. None: hybrid where the collection has vectors and an
            embedder, else sparse.
        filter: Only passages whose payload matches: Qdrant's `models.Filter`, or a dict such as
            `{"source": "docs/*", "year": {"gte": 2024}}` (see `ragkit.filters`).
        oversampling: With quantization, how many times as many candidates as hits are compared
            again with the original vectors. None: 3.0 for binary, 2.0 for other kinds.
        rescore: With quantization, whether they are compared again at all.
        exact: Compare with every original vector, past index and quantization.
        hnsw_ef: How many candidates a search through the graph keeps. None: the server's own, on
            the embedded engine at least 256 and twice the limit.
        indexed_only: Pass over what is not indexed yet: quick while much is being written, but
            incomplete.
        score_threshold: Leave out what scores worse, in the scores of the mode, before a reranker.
        fusion: How hybrid fuses. "rrf" goes by ranks: a hit scores the sum of
            1 / (rrf_k - 1 + rank / weight) over the sides that found it, ranks from 1. "dbsf" goes
            by scores, each side scaled by its own mean and spread: better on questions in plain
            words, but it can lose what a rare word alone points to, since a side with a single hit
            scores that in the middle.
        rrf_k: The k of "rrf": the smaller, the more the first ranks count. None: 10, or 1 with
            weights.
        weights: What each side counts in "rrf", `{"dense": 1.0, "sparse": 3.0}`; a weight of 0
            leaves a side out. None: the same, with `rrf_k` 10. With `rrf_k` 1 a side counts in
            proportion to its weight; with a larger one, which has to be said together with the
            weights, a heavier side also falls more slowly from hit to hit, and that can turn the
            preference round. On a server from Qdrant 1.17 on.
        prefetch_limit: How many candidates one stage hands to the next: each side of a hybrid
            search to the fusion, and what diversity or a reranker chooses from; at least `limit`.
            None: 50, or three for each hit if that is more.
        diversity: Maximal marginal relevance: 0 ranks by relevance alone, 1 by difference from
            what stands above alone. Compared are the dense vectors, in hybrid mode those of the
            best fused candidates.
        group_by: A key as in `filter`, such as "source": the best `group_size` hits of each of the
            best `limit` values. Hits come group after group, the best group first.
        group_size: How many hits of one group at most.
        context: How many neighbouring chunks on either side to read along (`Hit.context`).

    Raises:
        ValueError: An option is out of its range, or two contradict each other.
    """

    limit: int = 10
    mode: Mode | None = None
    filter: FilterLike | None = None
    oversampling: float | None = None
    rescore: bool = True
    exact: bool = False
    hnsw_ef: int | None = None
    indexed_only: bool = False
    score_threshold: float | None = None
    fusion: Fusion = "rrf"
    rrf_k: int | None = None
    weights: Mapping[str, float] | None = None
    prefetch_limit: int | None = None
    diversity: float = 0.0
    group_by: str | None = None
    group_size: int = 1
    context: int = 0

    def __post_init__(self) -> None:
        _check_whole("limit", self.limit, 1, MAX_LIMIT)
        _check_whole("group_size", self.group_size, 1, 1_000)
        _check_whole("context", self.context, 0, _MOST_CONTEXT)
        if self.rrf_k is not None:
            _check_whole("rrf_k", self.rrf_k, 1, 1_000_000)
        if self.hnsw_ef is not None:
            _check_whole("hnsw_ef", self.hnsw_ef, 1, 1_000_000)
        if self.prefetch_limit is not None:
            _check_whole("prefetch_limit", self.prefetch_limit, 1, 10 * MAX_LIMIT)
        if self.oversampling is not None:
            _check_number("oversampling", self.oversampling, 1.0, 1_000.0)
        if self.score_threshold is not None:
            _check_number("score_threshold", self.score_threshold, -_MOST_SCORE, _MOST_SCORE)
        _check_number("diversity", self.diversity, 0.0, 1.0)
        for name in ("rescore", "exact", "indexed_only"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, "True or False", getattr(self, name))
        if self.mode is not None and self.mode not in get_args(Mode):
            raise _wrong("mode", "dense, sparse or hybrid", self.mode)
        if self.fusion not in get_args(Fusion):
            raise _wrong("fusion", "rrf or dbsf", self.fusion)
        if not isinstance(self.filter, models.Filter | Mapping | None):
            raise _wrong("filter", "a models.Filter or a dict", self.filter)
        if self.group_by is not None and not (isinstance(self.group_by, str) and self.group_by):
            raise _wrong("group_by", "the name of a payload key", self.group_by)
        if self.weights is not None:
            _check_weights(self.weights)
        self._check_together()

    def _check_together(self) -> None:
        for one, other, contradict, remedy in _RIVALS:
            if contradict(getattr(self, one), getattr(self, other)):
                raise ValueError(remedy)

    @property
    def fusion_k(self) -> int:
        """The k of "rrf" that holds."""
        return self.rrf_k or (_RRF_K if self.weights is None else 1)

    @property
    def candidates(self) -> int:
        """How many each stage hands to the next."""
        default = max(_CANDIDATES, _CANDIDATES_PER_HIT * self.limit)
        return max(self.limit, self.prefetch_limit or default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The options of one search, and who said what.

    Attributes:
        options: What holds.
        origins: Who said each option that is not ragkit's default, such as "call".
    """

    options: SearchOptions
    origins: Mapping[str, str]

    def said(self, *names: str) -> list[str]:
        """Which of these options the caller asked for, in the call or of the retriever."""
        return [name for name in names if self.origins.get(name, COLLECTION) != COLLECTION]


def settle(*levels: tuple[str, Mapping[str, Any]]) -> Settled:
    """Put the options of a search together.

    Args:
        levels: Who says what, the later overruling the earlier; None is as if not said.

    Raises:
        TypeError: There is no such option.
        ValueError: One is out of its range, or one level contradicts itself.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, given in levels:
        said = _said(given)
        for pair in _PAIRED:
            if len(said.keys() & set(pair)) == 1:
                for name in pair:
                    values.pop(name, None)
        values |= said
        # Of two that contradict each other, the one said later counts.
        for one, other, contradict, _ in _RIVALS:
            if contradict(values.get(one), values.get(other)):
                for earlier in {one, other} - said.keys():
                    del values[earlier]
        origins |= dict.fromkeys(said, origin)
    there = {name: origin for name, origin in origins.items() if name in values}
    return Settled(options=SearchOptions(**values), origins=MappingProxyType(there))


def kept(given: SearchKeywords) -> dict[str, Any]:
    """Options as a collection's manifest keeps them: what was said, as plain JSON.

    Raises:
        TypeError: There is no such option.
        ValueError: One is out of its range, or belongs to a question.
    """
    said = _said(given)
    if "filter" in said:
        raise ValueError("a filter belongs to a question, not to a collection: leave it out")
    SearchOptions(**said)  # checks the values
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in said.items()}


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is not None, numpy's numbers as Python's own: JSON and gRPC know no others."""
    check_names(given)
    said = {name: _plain(value) for name, value in given.items() if value is not None}
    if isinstance(weights := said.get("weights"), Mapping):
        said["weights"] = {side: _plain(weight) for side, weight in weights.items()}
    return said


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def check_names(given: Mapping[str, Any]) -> None:
    """Refuse what is no search option, as Python does.

    Raises:
        TypeError: There is no such option.
    """
    unknown = sorted(given.keys() - _NAMES)
    if unknown:
        raise TypeError(
            f"there is no search option {unknown[0]!r}; there are {', '.join(sorted(_NAMES))}"
        )


_NAMES = frozenset(field.name for field in fields(SearchOptions))


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise _wrong(name, f"a whole number from {least} to {most}", value)


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise _wrong(name, f"a number from {least:g} to {most:g}", value)


def _check_weights(weights: Any) -> None:
    wanted = "weights such as {'dense': 1.0, 'sparse': 3.0}"
    if not isinstance(weights, Mapping) or set(weights) != set(_SIDES):
        raise _wrong("weights", wanted, weights)
    for side in _SIDES:
        _check_number(f"weights[{side!r}]", weights[side], 0.0, 1e6)
    if not any(weights.values()):
        raise _wrong("weights", f"{wanted}, not all of them 0", weights)


def _wrong(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"expected {name} to be {expected}, got {value!r}")
