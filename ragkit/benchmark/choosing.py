"""Choosing how the vectors of a collection are searched: chosen on one half, held to the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ragkit.benchmark.environment import has_graph
from ragkit.benchmark.searches import Setting, current_setting
from ragkit.benchmark.staircase import greatest, least
from ragkit.benchmark.timing import Timing
from ragkit.benchmark.trials import Estimate, Half, Trial, options_of
from ragkit.search_request import Searchable

_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
_LEAST_EF = 16
_EFS = 7  # each twice the one before
_INDEXED = 0.5  # of the vectors; with less what is not may be all that the queries meet


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The setting that was chosen.

    Attributes:
        options: Its search options, as far as they were decided.
        decided: The names of the options that were; any other stays as it was.
        recall: On the held-out queries.
        timing: Of its searches.
        before: Recall of the search until now, on the held-out queries.
        before_timing: Of that.
        reached: Whether it has the recall that was wanted, and is within the budget.
        trials: All that was tried, in order.
        notes: What to mind.
    """

    options: dict[str, Any]
    decided: frozenset[str]
    recall: Estimate
    timing: Timing[None]
    before: Estimate
    before_timing: Timing[None]
    reached: bool
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The settings that are thinkable: recall and cost rise with the row and with the column.

    Attributes:
        efs: For each row `hnsw_ef`; one, as it is now, where there is no graph.
        rungs: For each column the rest: without rescoring, then with more and more oversampling;
            one, as it is now, where nothing is quantized. What is rescored at oversampling 1
            are the candidates that are taken as they are without.
    """

    efs: Sequence[int | None]
    rungs: Sequence[Setting]

    @property
    def decides(self) -> frozenset[str]:
        """The names of the options that there is a choice of."""
        rungs = {"rescore", "oversampling"} if len(self.rungs) > 1 else set()
        return frozenset(rungs | ({"hnsw_ef"} if len(self.efs) > 1 else set()))

    def at(self, cell: tuple[int, int]) -> Setting:
        """The setting in a row and a column."""
        return replace(self.rungs[cell[1]], hnsw_ef=self.efs[cell[0]])

    def dearer(self, cell: tuple[int, int]) -> list[tuple[int, int]]:
        """The next cells in both ways, as far as there are any."""
        row, column = cell
        steps = [(row, column + 1), (row + 1, column)]
        return [(r, c) for r, c in steps if r < len(self.efs) and c < len(self.rungs)]


def grid_of(where: Searchable, limit: int) -> Grid | None:
    """What there is to choose from in a collection; None where every search is exact anyway."""
    points, now = where.info.points_count or 0, current_setting(where)
    efs: list[int | None] = [now.hnsw_ef]
    if has_graph(where):
        efs = [max(_LEAST_EF, limit) * 2**step for step in range(_EFS)]
    rungs = [_rung_of(now)]
    if where.quantization is not None:
        # Where the factor before took all points there is nothing more to take.
        before = (0.0, *_FACTORS)
        sensible = [f for f, last in zip(_FACTORS, before, strict=False) if last * limit < points]
        rungs = [replace(_rung_of(now), rescore=False, oversampling=None)]
        rungs += [replace(rungs[0], rescore=True, oversampling=factor) for factor in sensible]
    return Grid(efs=efs, rungs=rungs) if len(efs) * len(rungs) > 1 else None


def _rung_of(now: Setting) -> Setting:
    """A setting without what rows and columns do not leave as it was: `hnsw_ef` and `exact`."""
    return replace(now, hnsw_ef=None, exact=False)


class Chooser:
    """Tries settings on one half of the queries, and holds the best to the other half.

    Args:
        where: The collection.
        grid: What to choose from.
        choosing: The half to choose by.
        held_out: The other half.
        limit: How many neighbours are asked for.
        target: The recall wanted.
        budget_ms: What 95 of 100 searches may take; None: as little as the target takes.
    """

    def __init__(
        self,
        where: Searchable,
        grid: Grid,
        choosing: Half,
        held_out: Half,
        *,
        limit: int,
        target: float,
        budget_ms: float | None,
    ) -> None:
        self._grid = grid
        self._now = current_setting(where)
        self._choosing = choosing
        self._held_out = held_out
        self._limit = limit
        self._target = target
        self._budget_ms = budget_ms
        self._tried: dict[Setting, Estimate] = {}
        self._held: dict[Setting, Estimate] = {}
        self._times: dict[Setting, Timing[None]] = {}
        self._finalists: list[Setting] = []
        self._notes: list[str] = []

    def leave_idle(self, indexed: float) -> bool:
        """Leave alone what makes no difference; returns whether there is a choice left.

        The engine reads a small segment whole, past the graph that it has, and compares originals
        where vectors are not quantized yet. The least would be chosen then, and be too little when
        the collection has grown.

        Args:
            indexed: Which part of the vectors is.
        """
        grid = self._grid
        if len(grid.efs) > 1:
            low, high = (replace(grid.rungs[0], hnsw_ef=ef) for ef in (grid.efs[0], grid.efs[-1]))
            if self._choosing.finds(low) == self._choosing.finds(high):
                self._grid = grid = replace(grid, efs=[self._now.hnsw_ef])
                self._notes.append(
                    "hnsw_ef makes no difference, as in a small collection: it is left as it was"
                )
        if len(grid.rungs) > 1 and indexed < _INDEXED:
            coded = replace(grid.rungs[0], hnsw_ef=grid.efs[-1])
            if self._choosing.finds(coded) == self._choosing.finds(Setting(exact=True)):
                self._grid = grid = replace(grid, rungs=[_rung_of(self._now)])
                self._notes.append(
                    "the vectors are not quantized yet: rescoring and oversampling are left as "
                    "they were"
                )
        return len(grid.efs) * len(grid.rungs) > 1

    def choose(self) -> Chosen:
        """Find the cheapest setting that reaches the target, or the best within the budget."""
        if self._budget_ms is None:
            best, reached = self._by_target()
        else:
            best, reached = self._by_budget(self._budget_ms)
        self._time([best, self._now])
        recall = self._validate(best)
        self._validate(self._now)
        decides = self._grid.decides
        return Chosen(
            options={name: each for name, each in options_of(best).items() if name in decides},
            decided=decides | {"exact"},
            recall=recall,
            timing=self._times[best],
            before=self._held[self._now],
            before_timing=self._times[self._now],
            reached=reached,
            trials=tuple(self._trials(best)),
            notes=tuple(self._notes),
        )

    def _by_target(self) -> tuple[Setting, bool]:
        grid = self._grid
        cells = least(len(grid.efs), len(grid.rungs), lambda *cell: self._reaches(grid.at(cell)))
        if not cells:
            return max(self._tried, key=lambda setting: self._tried[setting].mean), False
        pool, seen = set(cells), set(cells)
        self._finalists = [grid.at(cell) for cell in cells]
        self._time([*self._finalists, self._now])
        while pool:
            cell = min(pool, key=lambda each: self._times[grid.at(each)].p50_ms)
            if self._validate(grid.at(cell)).mean >= self._target:
                self._mind_repetition()
                return grid.at(cell), True
            further = [each for each in grid.dearer(cell) if each not in seen]
            self._time([grid.at(each) for each in further])
            pool = (pool | set(further)) - {cell}
            seen |= set(further)
        return max(self._held, key=lambda setting: self._held[setting].mean), False

    def _by_budget(self, budget_ms: float) -> tuple[Setting, bool]:
        grid = self._grid
        cells = greatest(
            len(grid.efs), len(grid.rungs), lambda *cell: self._p95_ms(grid.at(cell)) <= budget_ms
        )
        if not cells:
            first = grid.at((0, 0))
            self._notes.append(
                f"no setting is within {budget_ms:g} ms: the cheapest takes "
                f"{self._p95_ms(first):.2f} ms (p95); this machine, this store or its placement "
                "would have to be quicker"
            )
            return first, False
        settings = [grid.at(cell) for cell in cells]
        for setting in settings:
            self._tried[setting] = self._choosing.recall(setting)
        self._finalists = settings
        best = max(settings, key=lambda each: (self._tried[each].mean, -self._p95_ms(each)))
        return best, self._validate(best).mean >= self._target

    def _reaches(self, setting: Setting) -> bool:
        self._tried[setting] = self._choosing.recall(setting, clear_of=self._target)
        return self._tried[setting].mean >= self._target

    def _validate(self, setting: Setting) -> Estimate:
        if setting not in self._held:
            self._held[setting] = self._held_out.recall(setting)
        return self._held[setting]

    def _time(self, settings: Sequence[Setting]) -> None:
        new = [each for each in dict.fromkeys(settings) if each not in self._times]
        if new:
            self._times |= zip(new, self._choosing.times(new), strict=True)

    def _p95_ms(self, setting: Setting) -> float:
        self._time([setting])
        return self._times[setting].p95_ms

    def _mind_repetition(self) -> None:
        missed = len(self._held) - 1
        if missed:
            self._notes.append(
                f"settings that missed the target on the held-out queries before this one held: "
                f"{missed}; so it was chosen by them, too, and its recall there is a little better "
                "than on other queries"
            )

    def _trials(self, best: Setting) -> Iterator[Trial]:
        for setting in self._times:
            if setting not in self._tried and setting not in self._held:
                yield self._trial(setting, None, held_out=False, outcome=self._in_time(setting))
        for setting, estimate in self._tried.items():
            outcome = self._came_of(setting, estimate)
            yield self._trial(setting, estimate, held_out=False, outcome=outcome)
        for setting, estimate in self._held.items():
            outcome = "chosen" if setting == best else "misses"
            if setting == self._now:
                outcome = "chosen, as it is now" if setting == best else "as it is now"
            yield self._trial(setting, estimate, held_out=True, outcome=outcome)

    def _came_of(self, setting: Setting, estimate: Estimate) -> str:
        if self._budget_ms is not None:
            return self._in_time(setting)
        if estimate.mean < self._target:
            return "misses"
        return "reaches" if setting in self._finalists else "more than it takes"

    def _in_time(self, setting: Setting) -> str:
        within = self._p95_ms(setting) <= (self._budget_ms or 0.0)
        if not within:
            return "too slow"
        return "in time" if setting in self._tried else "less than there is"

    def _trial(
        self, setting: Setting, estimate: Estimate | None, *, held_out: bool, outcome: str
    ) -> Trial:
        trial = Trial(
            options=options_of(setting),
            measure=f"recall@{self._limit}",
            held_out=held_out,
            outcome=outcome,
        )
        if estimate is not None:
            trial = replace(
                trial,
                queries=estimate.queries,
                value=estimate.mean,
                low=estimate.low,
                high=estimate.high,
            )
        timing = self._times.get(setting)
        if timing is not None:
            trial = replace(trial, p50_ms=timing.p50_ms, p95_ms=timing.p95_ms)
        return trial
