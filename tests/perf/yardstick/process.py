"""A contender in a process of its own, as the driver sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_TESTS = Path(__file__).parent.parent.parent
# numpy's BLAS, whichever it was built with, takes as many threads as these say.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ContenderFailed(Exception):
    """A contender's process ended, with what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contender to start.

    Attributes:
        name: In the table.
        kind: Its class, with its module below `perf.yardstick`.
        exact: Whether it finds every neighbour, or something is wired wrong.
        python: The interpreter that has its libraries.
        rebuilt: Whether it is built in every round; else in the first alone.
        threads: Whether its library builds with threads of OpenMP, and is told itself to search
            with one. Any other is told from outside to use one.
    """

    name: str
    kind: str
    exact: bool = False
    python: str = sys.executable
    rebuilt: bool = True
    threads: bool = False


class Process:
    """Starts at once; whether its libraries are there is known after `meet`."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        self.entry = entry
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [entry.python, "-m", "perf.yardstick.serving", entry.kind, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={
                **os.environ,
                **({} if entry.threads else _ONE_THREAD),
                "PYTHONPATH": str(_TESTS),
            },
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()
        self._said.close()

    def meet(self) -> dict[str, Any]:
        """Its versions, `{"versions": …}`, or `{"missing": …}` where a library is not there."""
        return self._read()

    def build(self, count: int) -> float:
        """Build of the first vectors; returns the seconds."""
        seconds: float = self._ask({"do": "build", "count": count})["seconds"]
        return seconds

    def search(self, queries: Sequence[int]) -> tuple[list[float], list[list[int]]]:
        """Search, one query after the other; returns the seconds and the rows found of each."""
        answer = self._ask({"do": "search", "queries": list(queries)})
        return answer["seconds"], answer["found"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading says why
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            last = self._said.read().strip() or "it said nothing"
            raise ContenderFailed(
                f"{self.entry.name} ended with status {self._process.wait()}:\n{last[-2000:]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
