"""Who takes part, and which of them are compared."""

from __future__ import annotations

from collections.abc import Iterator

from perf.yardstick.data import Data
from perf.yardstick.process import Entry
from perf.yardstick.table import Pair

_DEFAULT = "4-bit codes (the default)"
_BINARY = "binary, oversampling 3"
_EXACT = "exact"
_PASSAGES = "ragkit, Indexer and Retriever"
_ENGINE = "raw engine"
_ENGINE_BINARY = "raw engine, binary"
_ENGINE_EXACT = "raw engine, exact"
_ENGINE_PASSAGES = "raw engine, with payload"
_NUMPY = "numpy, exact"
_FLAT = "faiss flat"
_FAISS = "faiss HNSW"
_HNSWLIB = "hnswlib"
_LOCAL = "qdrant-client's local mode"
_LANGCHAIN = "LangChain's Qdrant store"


def own_contestants() -> list[Entry]:
    """Those that need no more than ragkit has: ragkit, the engine, numpy; they keep vectors."""
    return [
        Entry(name=_DEFAULT, kind="ours.RagkitDefault"),
        Entry(name=_ENGINE, kind="engine.EngineTurbo"),
        Entry(name=_BINARY, kind="ours.RagkitBinary"),
        Entry(name=_ENGINE_BINARY, kind="engine.EngineBinary"),
        Entry(name=_EXACT, kind="ours.RagkitExact", exact=True, rebuilt=False),
        Entry(name=_ENGINE_EXACT, kind="engine.EngineExact", exact=True, rebuilt=False),
        Entry(name=_NUMPY, kind="peers.NumpyExact", exact=True),
    ]


def contestants(peers: str, *, vectors: Data, passages: Data) -> list[tuple[Entry, Data]]:
    """All who take part, each with its data.

    Args:
        peers: The interpreter of the environment with faiss, hnswlib and LangChain.
        vectors: For those that keep vectors alone.
        passages: For those that keep passages.
    """
    alone = [
        *own_contestants(),
        Entry(name=_FLAT, kind="peers.FaissFlat", exact=True, python=peers, threads=True),
        Entry(name=_FAISS, kind="peers.FaissHnsw", python=peers, threads=True),
        Entry(name=_HNSWLIB, kind="peers.Hnswlib", python=peers, threads=True),
        Entry(name=_LOCAL, kind="peers.LocalMode", exact=True),
    ]
    with_texts = [
        Entry(name=_PASSAGES, kind="ours.RagkitPassages"),
        Entry(name=_ENGINE_PASSAGES, kind="ours.EnginePassages", rebuilt=False),
        Entry(name=_LANGCHAIN, kind="peers.LangChainStore", exact=True, python=peers),
    ]
    return [(each, vectors) for each in alone] + [(each, passages) for each in with_texts]


def _pairs() -> Iterator[Pair]:
    exact = (_NUMPY, _FLAT, _LOCAL)
    others = {
        _DEFAULT: (_ENGINE, *exact, _FAISS, _HNSWLIB),
        _BINARY: (_ENGINE_BINARY, *exact, _FAISS, _HNSWLIB),
        _EXACT: (_ENGINE_EXACT, *exact),
    }
    for ours, all_theirs in others.items():
        for theirs in all_theirs:
            yield Pair(what=f"search, {ours}", ours=ours, theirs=theirs, of="search")
    for theirs in (_ENGINE_PASSAGES, _LANGCHAIN):
        yield Pair(what="`Retriever.search`", ours=_PASSAGES, theirs=theirs, of="search")
    for theirs in (_ENGINE, _FLAT, _LOCAL, _FAISS, _HNSWLIB):
        yield Pair(what="index vectors", ours=_DEFAULT, theirs=theirs, of="build")
    yield Pair(what="index documents", ours=_PASSAGES, theirs=_LANGCHAIN, of="build")


PAIRS = tuple(_pairs())
