"""Start-up, the price of an unchanged folder, and the memory of a large one."""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.indexer import Indexer

FILES = 5_000
LARGE_MB = 200


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_import_ragkit_against_import_numpy(benchmark: BenchmarkFixture) -> None:
    paired(
        benchmark,
        ours=lambda: python("-c", "import ragkit"),
        theirs=lambda: python("-c", "import numpy"),
        rounds=15,
        limit="at most 1.5",
    )


def test_help_against_import_typer(benchmark: BenchmarkFixture) -> None:
    paired(
        benchmark,
        ours=lambda: python("-m", "ragkit", "--help"),
        theirs=lambda: python("-c", "import typer"),
        rounds=15,
        limit="at most 2",
    )


@pytest.mark.parametrize("dense", [False, True], ids=["keywords", "vectors"])
def test_an_unchanged_folder_against_reading_and_hashing_it(
    benchmark: BenchmarkFixture, tmp_path: Path, dense: bool
) -> None:
    folder = tmp_path / "folder"
    rng = random.Random(1)
    words = [f"word{n}" for n in range(5000)]
    for n in range(FILES):
        path = folder / f"part{n % 100}" / f"{n}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# File {n}\n\n" + " ".join(rng.choices(words, k=rng.randrange(50, 900))))
    with EdgeClient(tmp_path / "database") as client:
        docs = Collection(client, "docs", embedder=HashEmbedder(128) if dense else None)
        assert Indexer(docs).sync(folder).added == FILES

        def unchanged() -> None:
            report = Indexer(docs).sync(folder)
            assert (report.unchanged, report.chunks, report.embedded) == (FILES, 0, 0)

        paired(
            benchmark,
            ours=unchanged,
            theirs=lambda: read_and_hash(folder),
            rounds=9,
            limit="at most 3",
        )


def read_and_hash(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [hashlib.blake2b(path.read_bytes(), digest_size=20).hexdigest() for path in files]


MEASURE_PEAK = """
import resource, sys
import ragkit
from ragkit.edge import EdgeClient
from ragkit.writer import Writer
import ragkit.indexer, ragkit.chunks

def peak_mb():  # not ru_maxrss, which begins with the size of the process that started this one
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

idle = peak_mb()
with EdgeClient(sys.argv[2]) as client:
    embedder = ragkit.HashEmbedder(256) if sys.argv[3] == "dense" else None
    docs = ragkit.Collection(client, "docs", embedder=embedder)
    report = ragkit.Indexer(docs).sync(sys.argv[1])
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"{report.added} files, {report.chunks} chunks in {report.seconds:.0f} s: "
      f"idle {idle:.0f} MB, peak {peak_mb():.0f} MB, {peak_mb() - idle:.0f} MB above; "
      f"optimizing child {child:.0f} MB")
"""


def write_like_language(folder: Path, *, files: int) -> None:
    """Files of 2 MB whose words are as unevenly frequent as those of a language (Zipf's law)."""
    rng = random.Random(2)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 10))) for _ in range(200_000)]
    cumulative = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    folder.mkdir()
    for n in range(files):
        drawn = rng.choices(words, cum_weights=cumulative, k=360_000)
        lines = [" ".join(drawn[i : i + 15]) for i in range(0, len(drawn), 15)]
        (folder / f"{n}.txt").write_text("\n".join(lines)[:2_000_000])


@pytest.mark.parametrize("kind", ["keywords", "dense"])
def test_peak_memory_of_indexing_a_large_folder(
    benchmark: BenchmarkFixture, tmp_path: Path, kind: str
) -> None:
    """Prints the peak above the idle process; meant to be at most 400 MB for 200 MB of text."""
    folder = tmp_path / "folder"
    write_like_language(folder, files=LARGE_MB // 2)
    command = [sys.executable, "-c", MEASURE_PEAK, str(folder), str(tmp_path / "db"), kind]
    run = benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, text=True), rounds=1
    )
    print(f"\n{kind}, {LARGE_MB} MB: {run.stdout.strip()}")
