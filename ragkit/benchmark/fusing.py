"""Choosing by judgements whether to search by meaning, by words or both, and how to fuse them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragkit.benchmark.intervals import mean_interval, paired_interval
from ragkit.benchmark.judged import Judged
from ragkit.benchmark.qualities import JudgedSearches, default_settings, measured
from ragkit.benchmark.rows import MeasureCallback
from ragkit.benchmark.trials import Trial
from ragkit.collection import Collection
from ragkit.search_options import SearchKeywords

MEASURE, CUTOFF = "nDCG@10", 10
OPTIONS = ("mode", "fusion", "rrf_k", "weights")  # that are decided here
FEWEST = 10  # queries in a half

_WEIGHTS = ((4, 1), (3, 1), (2, 1), (1, 1), (1, 2), (1, 3), (1, 4))  # meaning and words
_NOW = "as it is now"
_LOSES_RARE = (
    "fusion 'dbsf' can lose what a rare word alone points to (a number, a name, an error code): "
    "if such questions matter and are not among the judged ones, keep 'rrf'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """How to search by meaning and by words.

    Attributes:
        options: The options that were found better than those until now; None to leave them.
        difference: Of the best to those until now, in nDCG@10 on the held-out queries: the mean,
            and the ends of its 95% interval; None where those until now are the best.
        queries: How many were held out.
        trials: All that was tried.
        notes: What was decided and why.
    """

    options: dict[str, Any] | None
    difference: tuple[float, float, float] | None
    queries: int
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


def choose_fusion(
    collection: Collection,
    judged: Judged,
    found: Mapping[str, Any],
    *,
    id_key: str = "source",
    seed: int = 0,
    progress: MeasureCallback | None = None,
) -> Fused:
    """Find the mode and fusion of the best nDCG@10, if it is better than what holds until now.

    Chosen is on one half of the queries. The other half decides whether the best is better: only
    if the 95% interval of the paired difference excludes 0.

    Args:
        collection: Holds the judged documents.
        judged: The queries and their judgements.
        found: How vectors are searched.
        id_key: The payload key that holds the judgements' document ids.
        seed: Of the halves.
        progress: Told how far it is.

    Raises:
        ValueError: Too few queries.
    """
    ids = list(judged.queries)
    if len(ids) < 2 * FEWEST:
        raise ValueError(
            f"expected at least {2 * FEWEST} judged queries, one half to choose by and one to "
            f"check with, got {len(ids)}"
        )
    order = [ids[row] for row in np.random.default_rng(seed).permutation(len(ids))]
    choosing, held_out = (
        _Half(
            found,
            judged.only(half),
            JudgedSearches(collection, judged.only(half), id_key=id_key, progress=progress),
        )
        for half in (order[::2], order[1::2])
    )
    settings = candidates(collection)
    tried = choosing.measure(settings)
    best = max(tried, key=lambda label: float(tried[label].mean()))
    shown = [*_trials(settings, tried, held_out=False, outcome={best: "best"})]
    if best == _NOW:
        note = f"of {len(settings)} ways to search by meaning and words none did better than now"
        return Fused(options=None, difference=None, queries=0, trials=tuple(shown), notes=(note,))
    final = {label: settings[label] for label in (_NOW, best)}
    values = held_out.measure(final)
    difference = paired_interval(values[_NOW], values[best], seed=seed)
    better = difference[1] > 0
    outcome = {_NOW: "as it is now", best: "chosen" if better else "not surely better"}
    shown += _trials(final, values, held_out=True, outcome=outcome)
    return Fused(
        options=dict(settings[best]) if better else None,
        difference=difference,
        queries=len(values[best]),
        trials=tuple(shown),
        notes=tuple(_notes(best, settings[best], difference)),
    )


def candidates(collection: Collection) -> dict[str, SearchKeywords]:
    """The ways to search a collection, the present one first; each says all that it needs."""
    where, _ = collection.searchable()
    held = {name: where.defaults[name] for name in OPTIONS if name in where.defaults}
    known = default_settings(collection)
    now: SearchKeywords = held or {}  # type: ignore[assignment]  # checked when it was kept
    if not held and "hybrid" in known:
        now = known["hybrid"]
    found = {label: options for label, options in known.items() if options and "mode" in options}
    if any(options.get("weights") for options in known.values()):
        for dense, sparse in _WEIGHTS:
            found[f"hybrid {dense}:{sparse}"] = {
                "mode": "hybrid",
                "fusion": "rrf",
                "rrf_k": 1,
                "weights": {"dense": float(dense), "sparse": float(sparse)},
            }
    return {_NOW: now} | {label: each for label, each in found.items() if each != now}


class _Half:
    """Half of the judged queries, embedded once."""

    def __init__(self, found: Mapping[str, Any], judged: Judged, searches: JudgedSearches) -> None:
        self._found = found
        self._judged = judged
        self._searches = searches

    def measure(self, settings: Mapping[str, SearchKeywords]) -> dict[str, NDArray[np.float64]]:
        """The nDCG@10 of each query for each setting."""
        full: dict[str, SearchKeywords] = {
            label: {**self._found, **options}  # type: ignore[typeddict-item]
            for label, options in settings.items()
        }
        self._searches.check(full, cutoffs={CUTOFF})
        self._searches.embed(full)
        values = {}
        for label, options in full.items():
            rankings = self._searches.rankings(label, options, limit=CUTOFF)
            values[label] = measured(self._judged.qrels, rankings, [MEASURE])[MEASURE]
        return values


def _trials(
    settings: Mapping[str, SearchKeywords],
    values: Mapping[str, NDArray[np.float64]],
    *,
    held_out: bool,
    outcome: Mapping[str, str],
) -> list[Trial]:
    found = []
    for label, each in values.items():
        mean, low, high = mean_interval(each)
        found.append(
            Trial(
                options=dict(settings[label]),
                measure=MEASURE,
                queries=len(each),
                held_out=held_out,
                value=mean,
                low=low,
                high=high,
                outcome=outcome.get(label, _NOW if label == _NOW else ""),
            )
        )
    return found


def _notes(label: str, options: SearchKeywords, difference: Sequence[float]) -> list[str]:
    mean, low, high = difference
    by = f"{mean:+.3f} nDCG@10 ({low:+.3f} to {high:+.3f}) on the held-out queries"
    if low <= 0:
        return [
            f"{label} did best on the half to choose by, but is not surely better than now, {by}: "
            "the present way stays"
        ]
    told = [f"{label} is better than now by {by}"]
    return [*told, _LOSES_RARE] if options.get("fusion") == "dbsf" else told
