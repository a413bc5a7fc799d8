"""Maximal marginal relevance, for rankings that are not by vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragkit.embeddings import Vectors


def diversified(
    relevance: NDArray[np.float64], vectors: Vectors, *, diversity: float, limit: int
) -> list[int]:
    """Choose candidates one by one, each relevant and unlike those chosen before.

    The next is the one with the greatest (1 - diversity) * relevance - diversity * likeness, where
    likeness is the cosine with the nearest one chosen (Carbonell and Goldstein 1998, "The Use of
    MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries"), as Qdrant's
    own MMR does over the scores of a dense search.

    Args:
        relevance: A score of each candidate, shape (n,), best first; scaled to 0 to 1 here, so
            that it can be weighed against cosines whatever it counts.
        vectors: Unit vectors, shape (n, dim).
        diversity: 0 for relevance alone to 1 for difference alone.
        limit: How many to choose.

    Returns:
        Indices of the chosen, in the order of choice; of equals the first.
    """
    spread = np.ptp(relevance) if len(relevance) else 0.0
    scaled = (relevance - relevance.min()) / spread if spread else np.zeros(len(relevance))
    likeness = np.full(len(relevance), -np.inf)
    chosen: list[int] = []
    while len(chosen) < min(limit, len(relevance)):
        # The first is the most relevant: there is nothing yet for it to differ from.
        gain = (1 - diversity) * scaled - diversity * likeness if chosen else scaled.copy()
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        likeness = np.maximum(likeness, vectors @ vectors[best])
    return chosen
