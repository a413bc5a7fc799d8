"""all-MiniLM-L6-v2 on this machine's processor: meaning without a key, a server or a download."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ragkit.embeddings import Vectors
from ragkit.errors import EmbeddingError, require

# Made by examples/quantise_minilm.py, which prints the checksum.
_FOLDER = Path(__file__).parent / "models" / "all-MiniLM-L6-v2-int8"
_SHA256 = "277ecad781323a81428ca36014eaa6fd32216674bdf4352e0f8fbb068a51273f"

_DIM = 384
_PIECES = 256  # what the model reads, its marks of begin and end among them
_MOST_CHARACTERS = 16_384  # looked at of a text: 64 to a piece, where English has four or five
_FINGERPRINT = (
    f"all-MiniLM-L6-v2 dim={_DIM} weights=int8-{_SHA256[:12]} pieces={_PIECES} "
    "form=text-title pooling=mean unit-norm"
)

_load_lock = threading.Lock()
_loaded: _Model | None = None  # shared by all embedders of the process


def is_installed() -> bool:
    """Whether the extra `local` is installed; nothing is imported to find out."""
    return all(find_spec(module) is not None for module in ("onnxruntime", "tokenizers"))


class LocalEmbedder:
    """Embeds with all-MiniLM-L6-v2, quantised to int8, which comes with ragkit (extra `local`).

    For English. The model reads 256 word pieces, about 1,000 characters, and nothing of what
    comes after. A title goes behind its text, which it can then never push out; on SQuAD that
    ranks better than no title, and a title before the text worse.

    Texts are embedded one by one, several at a time in threads: a vector depends on its own text
    alone. The model is loaded with the first use, once for all embedders of a process, and is
    there in a forked child. Nothing is read from the network or written anywhere: onnxruntime's
    telemetry is switched off, unless it was imported before or ORT_DISABLE_TELEMETRY says else.

    Args:
        threads: Texts embedded at once; None for as many as this process has processors.

    Raises:
        ValueError: Fewer than one thread.
    """

    dim = _DIM
    # What 256 pieces hold where words are common; 300 to 370 are usual. So chunks are cut to three
    # quarters of it: 300, of which it reads all in 94 to 100 of 100 of prose or Python, and in 85
    # of 100 of Python's reference, where one in a hundred pieces is not read. Smaller chunks fit
    # better and found less (Chroma's chunking set, BM25 fused: recall in 4,000 characters 88.0 at
    # 300, 85.4 at 255, 86.2 at 190).
    max_tokens = 400
    fingerprint = _FINGERPRINT

    def __init__(self, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"expected threads of at least 1, got {threads}")
        self._threads = threads

    @classmethod
    def from_fingerprint(cls, fingerprint: str | None) -> LocalEmbedder | None:
        """The embedder that a collection was made with; None if that was not this model."""
        return cls() if fingerprint == _FINGERPRINT else None

    def __repr__(self) -> str:
        return f"LocalEmbedder(threads={self._threads})"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Embed each text with its title; shape (len(texts), 384), unit rows.

        Raises:
            MissingDependency: The extra `local` is not installed.
            EmbeddingError: The model's file is damaged.
        """
        if not texts:
            return np.zeros((0, _DIM), np.float32)
        model, threads = _model(), min(self._threads or _processors(), len(texts))
        pairs = list(zip(titles, texts, strict=True))
        if threads == 1:
            return np.concatenate([model.document(*pair) for pair in pairs])
        with ThreadPoolExecutor(threads, thread_name_prefix="ragkit-local") as pool:
            return np.concatenate([*pool.map(lambda pair: model.document(*pair), pairs)])

    def embed_query(self, text: str) -> Vectors:
        """Embed a query; shape (384,), unit length.

        Raises:
            MissingDependency: The extra `local` is not installed.
            EmbeddingError: The model's file is damaged.
        """
        vector: Vectors = _model().document("", text)[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries, several at once; shape (len(texts), 384), unit rows.

        Raises:
            MissingDependency, EmbeddingError: As `embed_query`.
        """
        return self.embed_documents(texts, titles=[""] * len(texts))


class _Model:
    """The network and its tokenizer; safe to call from several threads."""

    def __init__(self) -> None:
        # From 1.29 on it reports each session to Microsoft and keeps an identifier and a database
        # in the home folder, unless this is set before it is imported (its Privacy.md).
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        onnxruntime = require("onnxruntime", "local")
        tokenizers = require("tokenizers", "local")
        network = (_FOLDER / "model.onnx").read_bytes()
        if hashlib.sha256(network).hexdigest() != _SHA256:
            raise EmbeddingError(
                f"{_FOLDER / 'model.onnx'}: expected the file with the sha256 {_SHA256}, "
                f"got another one of {len(network):,} bytes: install ragkit again"
            )
        options = onnxruntime.SessionOptions()
        # One thread a text, the caller's: then the runtime starts none of its own, which a
        # forked child would not have.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            network, options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = tokenizers.Tokenizer.from_file(str(_FOLDER / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_PIECES)

    def document(self, title: str, text: str) -> Vectors:
        """The unit vector of a text; shape (1, 384)."""
        written = f"{text[:_MOST_CHARACTERS]}\n{title[:_MOST_CHARACTERS]}"
        # A lone surrogate, which UTF-8 has no bytes for, becomes a question mark.
        pieces = self._tokenizer.encode(written.encode(errors="replace").decode())
        ids = np.array(pieces.ids, np.int64)
        vectors: Vectors = self._session.run(None, {"input_ids": ids})[0]
        return vectors


def _model() -> _Model:
    """The model, loaded with the first call: about 50 ms, and onnxruntime's own import."""
    global _loaded
    with _load_lock:
        if _loaded is None:
            _loaded = _Model()
        return _loaded


def _processors() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
