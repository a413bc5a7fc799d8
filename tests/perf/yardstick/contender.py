"""What takes part in the yardstick, and the files that all who take part read.

Runs in every interpreter, also where ragkit is not installed: numpy and the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

LIMIT = 10  # neighbours


class Contender(Protocol):
    """One way to keep vectors and to find the nearest; constructed with the folder of the data.

    Libraries are imported and files read before anything is timed, in the constructor.

    Attributes:
        versions: Of the libraries that do the work.
    """

    versions: Mapping[str, str]

    def build(self, count: int) -> None:
        """Forget what was built, and build anew of the first `count` vectors: timed."""
        ...

    def search(self, query: int) -> Any:
        """Find the ten nearest neighbours of a query, by its number: timed."""
        ...

    def rows(self, answer: Any) -> Sequence[int]:
        """Which vectors an answer of `search` names: not timed."""
        ...


def versions_of(*names: str) -> dict[str, str]:
    """The versions of installed distributions."""
    return {name: version(name) for name in names}


def load_vectors(folder: Path) -> Vectors:
    """The vectors to search in, of unit length, in memory."""
    vectors: Vectors = np.load(folder / "vectors.npy")
    return vectors


def load_queries(folder: Path) -> Vectors:
    """The vectors to search for, of unit length."""
    queries: Vectors = np.load(folder / "queries.npy")
    return queries


def load_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
