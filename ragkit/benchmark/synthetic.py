"""Vectors that are like those of a text embedding model, where no real ones are at hand.

They lie in topics and subtopics of very different sizes, at very different distances from their
middles, around a direction that all of them share; the variance falls by a power law from one
direction to the next, and a random rotation sees to it that no coordinate is special.

The constants below were chosen by comparison with all-MiniLM-L6-v2 (384 dimensions) on passages
and on questions of SQuAD. 500 of each were held out as queries for the rest of the same kind; the
synthetic columns are means over three seeds:

    |                                      | passages | synthetic | questions | synthetic |
    | vectors                              |    1,567 |     1,567 |    10,070 |    10,070 |
    | cosine of two vectors, mean          |     .023 |      .051 |      .080 |      .051 |
    | - its standard deviation             |     .105 |      .109 |      .099 |      .110 |
    | cosine to the 10th neighbour, mean   |     .447 |      .422 |      .549 |      .555 |
    | participation ratio of the variances |     84.8 |      78.5 |      96.4 |      82.1 |
    | intrinsic dimension (20 neighbours)  |     11.8 |      10.9 |      12.8 |      12.0 |
    | recall@10 of 1 bit, oversampling 1   |     .745 |      .703 |      .639 |      .617 |
    | - oversampling 2                     |     .936 |      .879 |      .830 |      .802 |
    | - oversampling 3                     |     .977 |      .925 |      .895 |      .877 |

Recall is that of the signs of the components, the candidates compared again with the vectors
themselves: the synthetic ones are somewhat harder. The intrinsic dimension is the estimate of
Levina and Bickel (2005).

At other widths the spectrum is the same law continued. With nothing at hand to choose constants by,
over 10,070 vectors that recall is .706, .888, .945 at 768 dimensions and .754, .931, .970 at 1,536.
The one table to hold it against, Qdrant's of a Gemini model at 1,536 dimensions (on other data, of
unknown size, and in several segments, which raises recall), has .847, .929, .956 at limit 100;
20,000 synthetic vectors in one segment of the embedded engine have .854, .983, .993: they are
easier than those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragkit.embeddings import Vectors

_TOPICS = 64
_SUBTOPICS = 64  # of each topic
_TOPIC_VARIANCE = 0.25  # of the whole, between topics
_SUBTOPIC_VARIANCE = 0.25  # between the subtopics of one
_SIZES = 0.8  # exponent of the law of Zipf that the subtopics' sizes follow
_SPREAD = 0.55  # of the logarithm of the distance from a subtopic's middle
_SHARED = 0.2  # length of what all vectors have in common
_DECAY = 1.15  # the i-th direction's variance is proportional to (i + _FLAT) ** -_DECAY
_FLAT = 10
_BLOCK = 8_192  # vectors made at once

_VECTORS, _QUERIES = 1, 2  # streams of random numbers


def synthetic_vectors(n: int, dim: int, *, seed: int = 0) -> Vectors:
    """Embedding-like vectors of unit length, shape (n, dim).

    The same arguments give the same vectors; more of them need not begin with the fewer.

    Args:
        n: How many.
        dim: How wide, such as 384, 768 or 1,536.
        seed: Of the topics, of the directions and of the vectors.

    Raises:
        ValueError: No vectors, or fewer than 2 dimensions.
    """
    return _drawn(n, dim, seed, _VECTORS)


def synthetic_queries(n: int, dim: int, *, seed: int = 0) -> Vectors:
    """Queries for the `synthetic_vectors` of that width and seed: others of the same topics.

    Raises:
        ValueError: No queries, or fewer than 2 dimensions.
    """
    return _drawn(n, dim, seed, _QUERIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Topics:
    """Where vectors lie.

    Attributes:
        middles: Of the subtopics, shape (subtopics, dim).
        shares: Of each subtopic among the vectors; they add up to 1.
        directions: Turns independent numbers into a deviation from a middle, shape (dim, dim).
    """

    middles: Vectors
    shares: NDArray[np.float64]
    directions: Vectors


def _drawn(n: int, dim: int, seed: int, stream: int) -> Vectors:
    if n < 1 or dim < 2:
        raise ValueError(
            f"expected at least 1 vector of at least 2 dimensions, got {n} of {dim} dimensions"
        )
    topics = _topics(dim, seed)
    random = np.random.default_rng([seed, stream])
    vectors = np.empty((n, dim), np.float32)
    for start in range(0, n, _BLOCK):
        block = vectors[start : start + _BLOCK]
        chosen = random.choice(len(topics.middles), len(block), p=topics.shares)
        # The mean square of the factor is 1, so that the spread does not change the variance.
        factors = np.exp(_SPREAD * random.standard_normal((len(block), 1)) - _SPREAD**2)
        deviations = factors.astype(np.float32) * random.standard_normal(block.shape, np.float32)
        block[:] = topics.middles[chosen] + deviations @ topics.directions
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def _topics(dim: int, seed: int) -> _Topics:
    random = np.random.default_rng(seed)
    variances = (np.arange(1, dim + 1) + _FLAT) ** -_DECAY
    rotation, _ = np.linalg.qr(random.standard_normal((dim, dim), np.float32))
    directions = np.sqrt(variances / variances.sum())[:, None].astype(np.float32) * rotation

    def middles(count: int, variance: float) -> Vectors:
        around: Vectors = random.standard_normal((count, dim), np.float32) @ directions
        around *= np.sqrt(variance)
        return around

    shared = middles(1, 1.0)
    shared *= _SHARED / np.linalg.norm(shared)
    topics = np.repeat(middles(_TOPICS, _TOPIC_VARIANCE), _SUBTOPICS, axis=0)
    sizes = random.permutation(np.arange(1, len(topics) + 1) ** -_SIZES)
    within = 1 - _TOPIC_VARIANCE - _SUBTOPIC_VARIANCE
    return _Topics(
        middles=shared + topics + middles(len(topics), _SUBTOPIC_VARIANCE),
        shares=sizes / sizes.sum(),
        directions=np.float32(np.sqrt(within)) * directions,
    )
