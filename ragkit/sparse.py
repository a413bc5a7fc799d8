"""BM25 as sparse vectors, encoded by Qdrant's own engine: the same for both stores.

The document side carries term frequency, saturated and normalised by length; the query side
counts each term once; the inverse document frequency is applied by the store (modifier IDF).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import qdrant_edge
from qdrant_client import models

# Chinese, Japanese and Korean are read as overlapping pairs of characters, as Lucene's
# CJKAnalyzer does: a dictionary must guess the language first, and for a short query guesses wrong.
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
# Thai, Lao, Burmese and Khmer put no space between words either: the engine's dictionaries do.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_SATURATION = 1.2  # BM25's k


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Encoder:
    """Encodes texts for a sparse vector with the IDF modifier.

    Attributes:
        avg_len: The average length of a passage in BM25's own tokens (stop words do not count);
            a longer passage than this weighs less. Measure it with `average_length`.
        language: Whose stop words and stemmer are used, in English and lower case: "german".
        b: How much length matters, from 0 to 1.

    Raises:
        ValueError: `avg_len` is not positive, the language is unknown, or `b` is out of range.
    """

    avg_len: float
    language: str = "english"
    b: float = 0.75

    def __post_init__(self) -> None:
        self._model("")

    def encode_document(self, text: str) -> models.SparseVector:
        """Weigh each term of a passage; empty when it has none (stop words, punctuation)."""
        return _vector(self._model(text).embed_document(_CJK.sub(_pairs, text)))

    def encode_query(self, text: str) -> models.SparseVector:
        """Weigh each distinct term of a query 1; empty when it has none."""
        return _vector(self._model(text).embed_query(_CJK.sub(_pairs, text)))

    def _model(self, text: str) -> qdrant_edge.Bm25:
        unspaced = _UNSPACED.search(text) is not None
        return _engine_model(self.avg_len, self.language, self.b, unspaced)


def average_length(texts: Iterable[str], *, language: str = "english") -> float:
    """The mean number of tokens of `texts`, as BM25 counts them; at least 1.

    The engine does not tell a length, so it is read off the weights: without length
    normalisation (b = 0) a term's weight is w = tf (k + 1) / (tf + k), so tf = w k / (k + 1 - w).
    """
    encoder = Bm25Encoder(avg_len=1.0, language=language, b=0.0)
    lengths = [_term_count(encoder.encode_document(text)) for text in texts]
    return max(1.0, float(np.mean(lengths))) if lengths else 1.0


def _pairs(run: re.Match[str]) -> str:
    text = run[0]
    pairs = [text[i : i + 2] for i in range(len(text) - 1)] or [text]
    return f" {' '.join(pairs)} "


def _term_count(vector: models.SparseVector) -> float:
    k = _SATURATION
    weights = np.asarray(vector.values, np.float64)
    return float(np.rint(weights * k / (k + 1 - weights)).sum())


def _vector(vector: qdrant_edge.SparseVector) -> models.SparseVector:
    # Built without validation: the engine made it, and there is one for every chunk.
    return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)


@cache
def _engine_model(avg_len: float, language: str, b: float, unspaced: bool) -> qdrant_edge.Bm25:
    tokenizer = qdrant_edge.TokenizerType.Multilingual if unspaced else None
    config = qdrant_edge.Bm25Config(
        k=_SATURATION, b=b, avg_len=avg_len, language=language, tokenizer=tokenizer
    )
    return qdrant_edge.Bm25(config)
