"""GeminiEmbedder against one call at a time, against LangChain, and against the quota.

The stand-in runs in a process of its own, and where there is no quota to count it answers calls of
the same size with the same vectors: what it costs is on nobody's account.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture

import ragkit
from ragkit.edge import EdgeClient
from ragkit.gemini.embedder import GeminiEmbedder

LATENCY_S = 0.15
CHUNKS = 2_000
KEY = "perf"
QUOTA = 3_000
QUOTA_S = float(os.environ.get("RAGKIT_QUOTA_SECONDS", "180"))
LANGCHAIN = os.environ.get("RAGKIT_LANGCHAIN_PYTHON")

TEXTS = [f"{i} " + "words of a passage about rotating keys " * 20 for i in range(CHUNKS)]
TITLES = [f"Handbook > Section {i}" for i in range(CHUNKS)]
_STANDIN = """
import sys
from gemini_server import GeminiServer

replies = {}

def canned(call, work):
    size = len(call.requests)
    if size not in replies:
        replies[size] = work()
    return replies[size]

with GeminiServer(key=sys.argv[1], latency_s=float(sys.argv[2])) as server:
    if quota := int(sys.argv[3]):
        server.quota(per_minute=quota)
    else:
        server.fail_when(lambda call: True, canned)
    print(server.url, flush=True)
    for seconds in sys.stdin:
        calls = server.embed_calls
        begin = calls[0].at if calls else 0.0
        good = [c for c in calls if c.status == 200 and c.at < begin + float(seconds)]
        refused = sum(c.status == 429 for c in calls)
        print(sum(len(c.requests) for c in good), refused, len(calls), flush=True)
"""


class Standin:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._line()

    def counts(self, seconds: float) -> tuple[int, int, int]:
        """Contents accepted in the first seconds, calls refused for the quota, and all calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        accepted, refused, calls = map(int, self._line().split())
        return accepted, refused, calls

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def standin(*, quota: int = 0, latency_s: float = LATENCY_S) -> Iterator[Standin]:
    process = subprocess.Popen(
        [sys.executable, "-c", _STANDIN, KEY, str(latency_s), str(quota)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    with process:
        try:
            yield Standin(process)
        finally:
            process.terminate()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    with standin() as running:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", running.url)
        yield running


def embedding(*, concurrency: int) -> Callable[[], object]:
    embedder = GeminiEmbedder(api_key=KEY, concurrency=concurrency, rpm=math.inf, tpm=math.inf)
    return lambda: embedder.embed_documents(TEXTS, titles=TITLES)


@pytest.mark.parametrize("concurrency", [8, 10])
def test_calls_in_flight_together_against_one_at_a_time(
    benchmark: BenchmarkFixture, server: Standin, concurrency: int
) -> None:
    """Twenty calls: three rounds of eight or two of ten, beside the SDK's own processor time."""
    paired(
        benchmark,
        ours=embedding(concurrency=concurrency),
        theirs=embedding(concurrency=1),
        rounds=5,
        limit="at most 0.167, a sixth",
    )


@pytest.mark.skipif(
    LANGCHAIN is None,
    reason="set RAGKIT_LANGCHAIN_PYTHON to the python of an environment made by "
    "python -m venv lc && lc/bin/pip install langchain-google-genai",
)
def test_against_langchain(server: Standin) -> None:
    ours = embedding(concurrency=8)
    ours()
    pairs = []
    for _ in range(3):
        began = time.perf_counter()
        ours()
        own = time.perf_counter() - began
        pairs.append((own, langchain_seconds(server.url)))
    ratios = [theirs / own for own, theirs in pairs]
    print(
        f"\nLangChain takes {statistics.median(ratios):.1f} x as long (from {min(ratios):.1f} to "
        f"{max(ratios):.1f} in {len(pairs)} pairs; meant to be at least 5): "
        + ", ".join(f"{theirs:.2f} s against {own:.2f} s" for own, theirs in pairs)
    )


def langchain_seconds(address: str) -> float:
    script = Path(__file__).with_name("langchain_gemini.py")
    command = [str(LANGCHAIN), str(script), address, KEY, str(CHUNKS)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def test_the_quota_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes three minutes; RAGKIT_QUOTA_SECONDS makes it less telling."""
    with standin(quota=QUOTA) as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        with GeminiEmbedder(api_key=KEY, rpm=QUOTA, tpm=math.inf) as embedder:
            until = time.monotonic() + QUOTA_S
            while time.monotonic() < until:
                embedder.embed_documents(TEXTS[:1_000], titles=TITLES[:1_000])
        accepted, refused, calls = server.counts(QUOTA_S)
    share = accepted / (QUOTA * QUOTA_S / 60)
    print(
        f"\n{share:.1%} of the quota used in {QUOTA_S:.0f} s (meant to be at least 95%), "
        f"{refused} of {calls} calls answered 429 (meant to be under 1%)"
    )


def test_an_edited_file_embeds_its_changed_chunks_alone(server: Standin, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(500):
        sections = [f"## Part {n}\n\n" + f"Words {i} of part {n}. " * 60 for n in range(3)]
        (folder / f"{i}.md").write_text("\n\n".join([f"# File {i}", *sections]))
    with (
        EdgeClient(tmp_path / "db") as client,
        GeminiEmbedder(api_key=KEY, rpm=math.inf, tpm=math.inf) as embedder,
    ):
        docs = ragkit.Collection(client, "docs", embedder=embedder)
        first = ragkit.Indexer(docs).sync(folder)
        file = folder / "250.md"
        file.write_text(file.read_text().replace("Words 250 of part 1", "Phrases of part 1"))
        second = ragkit.Indexer(docs).sync(folder)
    print(
        f"\n{first.embedded} chunks of 500 files embedded; after the edit of one section "
        f"{second.embedded}, with {second.unchanged} files unchanged"
    )
    assert second.unchanged == 499
    assert 0 < second.embedded < second.chunks
