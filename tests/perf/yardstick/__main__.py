"""`make bench`: ragkit against the raw engine and its peers, in one table of ratios."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from perf.yardstick.contestants import PAIRS, contestants
from perf.yardstick.data import make_passages, make_vectors
from perf.yardstick.measure import TURN, Outcome, WiredWrong, measure
from perf.yardstick.peers import EF_CONSTRUCT, EF_SEARCH, M
from perf.yardstick.process import ContenderFailed
from perf.yardstick.table import table

from ragkit.benchmark.environment import machine
from ragkit.quantization import SCAN_LIMIT

_MOST_PASSAGES = 10_000  # LangChain's store takes a second for about every thousand
_CALM = 0.3  # of the cores, taken by others


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table to stdout; progress goes to stderr."""
    options = _parsed(arguments)
    load = os.getloadavg()[0]
    began = time.perf_counter()
    try:
        outcome, sizes = _measured(options)
    except (ContenderFailed, WiredWrong) as exc:
        sys.exit(f"make bench: {exc}")
    print(table(PAIRS, outcome.measured), end="\n\n")
    print(_notes(outcome, sizes, rounds=options.rounds, load=load))
    _say(f"done in {time.perf_counter() - began:.0f} s")


def _measured(options: argparse.Namespace) -> tuple[Outcome, str]:
    """What came of the run, and how large it was."""
    count, dim = options.size
    asked = options.rounds * options.queries
    with tempfile.TemporaryDirectory(prefix="ragkit-", ignore_cleanup_errors=True) as folder:
        _say(f"making {count:,} vectors of {dim} dimensions")
        home = Path(folder)
        vectors = make_vectors(home / "vectors", count, dim, queries=asked, seed=options.seed)
        most = min(count, _MOST_PASSAGES)
        passages = make_passages(home / "passages", vectors, most, seed=options.seed)
        outcome = measure(
            contestants(options.peers, vectors=vectors, passages=passages),
            rounds=options.rounds,
            queries=options.queries,
            say=_say,
        )
    return outcome, (
        f"{count:,} vectors of {dim} dimensions, and {passages.count:,} passages of documents with "
        f"the first of these vectors (seed {options.seed}); {asked} queries"
    )


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--size", type=_size, default="20000x768", help="vectors x dimensions")
    parser.add_argument("--rounds", type=int, default=3, help="of building and searching")
    parser.add_argument("--queries", type=int, default=100, help="of each round")
    parser.add_argument("--seed", type=int, default=0, help="of vectors, queries and words")
    parser.add_argument("--peers", default=sys.executable, help="the interpreter with the peers")
    options = parser.parse_args(arguments)
    if options.rounds < 3 or options.queries < 20:
        parser.error("fewer than 3 rounds, or than 20 queries in each, say nothing of the spread")
    return options


def _size(text: str) -> tuple[int, int]:
    count, _, dim = text.partition("x")
    # With fewer dimensions one bit of each finds so little that it looks like a mistake.
    if not (count.isdecimal() and dim.isdecimal() and int(count) >= 1_000 and int(dim) >= 128):
        raise argparse.ArgumentTypeError(
            "expected at least 1000 vectors of at least 128 dimensions, such as 20000x768, got "
            f"{text!r}"
        )
    if int(count) * int(dim) > SCAN_LIMIT:
        raise argparse.ArgumentTypeError(
            f"expected at most {SCAN_LIMIT:,} numbers, got {text}: beyond that ragkit builds a "
            "graph, and the raw engine here does not"
        )
    return int(count), int(dim)


def _notes(outcome: Outcome, sizes: str, *, rounds: int, load: float) -> str:
    facts = machine()
    cores = int(facts["cores"] or 1)
    system = str(facts["system"]).partition(" ")[0]
    calm = "calm" if load < _CALM * cores else "not calm: others were computing, too"
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    lines = [
        f"{facts['processor']}, {cores} cores, {facts['memory_gb']} GB, {system}, Python "
        f"{facts['python']}; load {load:.1f} when it began ({calm}).",
        f"{sizes}, ten neighbours each.",
        f"Times are medians of {rounds} rounds, that of a round's searches their median. Ratios "
        "are the median of the rounds' own, with the lowest and the highest; below 1 ragkit is the "
        "quicker. Who was quicker in every round is in the last column.",
        "Every contender is a process of its own and answers one query after the other in one "
        f"thread; within a round they take turns every {TURN} queries. Builds take the threads "
        "that the library takes by itself.",
        f"Graphs of faiss and hnswlib: M {M}, efConstruction {EF_CONSTRUCT}, efSearch {EF_SEARCH}. "
        "ragkit and the raw engine write what they hold to disk; all others are in memory, and "
        "gone with the process.",
        "Indexing documents, ragkit splits them into chunks, and stores words (BM25) beside the "
        "vectors; LangChain's store is given these chunks and has no words. Both are given the "
        "vectors.",
        f"Versions: {versions}.",
        *_left_out(outcome.missing),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _left_out(missing: Mapping[str, str]) -> list[str]:
    return [f"Left out: {name} ({why})." for name, why in missing.items()]


def _say(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    # Else what was written, a gigabyte perhaps, would stay in the temporary folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("make bench: stopped"))
    main()
