"""Any cross-encoder that sentence-transformers can load, as a reranker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import ModelNotFound, require

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class CrossEncoderReranker:
    """Reranks with a cross-encoder (extra `torch`), which reads the query and a passage together.

        retriever = ragkit.Retriever(
            docs, reranker=CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2")
        )

    Scores are what the model's configuration makes of its output: a number of any size, or one
    from 0 to 1. Those of two models do not compare.

    The model reads query and passage up to its own limit, often 512 tokens for the two, and cuts
    the longer of them at its end without a word.

    It is loaded with the first call; sentence-transformers then downloads it, if it is not a folder
    and not on this machine yet. A search goes on without a reranker that fails, so call it once at
    the start, `reranker("query", ["text"])`, to learn that there is no such model. Calls from
    several threads take turns. A pickle holds the settings and not the model.

    Args:
        model: Its name, the folder it is in, or a `CrossEncoder` for all that has no argument
            here: its revision, `max_length`, number format, backend.
        device: As torch names it; None for the best there is.
        batch_size: Pairs in one pass through the model.

    Raises:
        MissingDependency: The extra `torch` is not installed.
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        *,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
        # Now and not with the first search, which would go on without it.
        if find_spec("sentence_transformers") is None:
            require("sentence_transformers", "torch")
        self._model, self._device, self._batch_size = model, device, batch_size
        self._loaded: CrossEncoder | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        model = str(self._model) if isinstance(self._model, str | Path) else type(self._model)
        return f"CrossEncoderReranker({model!r}, device={self._device!r})"

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._model, str | Path):
            raise TypeError("a reranker with a model of its own cannot be pickled: give its name")
        return {**self.__dict__, "_loaded": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __call__(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """How well each text answers the query; shape (len(texts),), higher is better.

        Raises:
            ModelNotFound: There is no such model, or it cannot be loaded.
            ValueError: It is no cross-encoder, or gives several scores for a pair.
        """
        if not texts:
            return np.zeros(0, np.float32)
        pairs = [(_readable(query), _readable(text)) for text in texts]
        with self._lock:  # tokenizers keep the padding of a call in themselves
            if self._loaded is None:
                self._loaded = self._load()
            scores = self._loaded.predict(
                pairs, batch_size=self._batch_size, show_progress_bar=False
            )
        return np.asarray(scores, dtype=np.float32)

    def _load(self) -> CrossEncoder:
        model = self._model
        if isinstance(model, str | Path):
            model = _opened(str(model), self._device)
        if model.num_labels != 1:
            raise ValueError(
                f"expected a cross-encoder with one score for a pair, got {self!r} with "
                f"{model.num_labels}: take one that was trained for ranking"
            )
        return model


def _opened(name: str, device: str | None) -> CrossEncoder:
    library = require("sentence_transformers", "torch")
    try:
        model: CrossEncoder = library.CrossEncoder(name, device=device)
    except (OSError, ValueError) as exc:
        raise ModelNotFound(
            f"sentence-transformers finds no cross-encoder {name!r} as a folder or by name: {exc}"
        ) from exc
    # Of any other model the library makes one too, with a new head of random numbers.
    head, saved = type(model.model).__name__, model.config.architectures or []
    if len(model) == 1 and saved and head not in saved:
        raise ValueError(
            f"expected a cross-encoder, got {name!r}, a {saved[0]} that was never trained to score "
            "pairs: it may be a model for embeddings"
        )
    return model


def _readable(text: str) -> str:
    """Half of a surrogate pair, for which a tokenizer raises TypeError, becomes a question mark."""
    return text.encode(errors="replace").decode()
