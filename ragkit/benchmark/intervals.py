"""How sure a mean over queries is, and a difference between two ways of searching."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NORMAL_95 = 1.959964  # the normal distribution's 97.5% point
_DRAWS = 2_000
_BLOCK = 4_000_000  # drawn numbers held at once


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """The mean, and the interval that holds the true one 95 times in 100.

    By the normal approximation: the mean plus and minus 1.96 standard errors, which is fair from
    some dozens of queries on, and wrong at the very ends of the scale: where all values are the
    same the interval is a point.

    Args:
        values: One for each query, shape (n,).

    Returns:
        Mean, lower and upper end; nan for no values.
    """
    array = np.asarray(values, np.float64)
    if not array.size:
        return math.nan, math.nan, math.nan
    mean = float(array.mean())
    if array.size == 1:
        return mean, mean, mean
    half = _NORMAL_95 * float(array.std(ddof=1)) / math.sqrt(array.size)
    return mean, mean - half, mean + half


def paired_interval(
    first: ArrayLike, second: ArrayLike, *, seed: int = 0
) -> tuple[float, float, float]:
    """By how much the second is better than the first, with the 95% interval of that.

    The paired bootstrap: queries are drawn with replacement 2,000 times, each with both its
    values; the interval holds the middle 95% of the means (Efron and Tibshirani 1993, "An
    Introduction to the Bootstrap", chapter 13). Where it excludes 0 the difference is hardly
    chance, as far as these queries stand for those to come.

    Args:
        first: One value for each query, shape (n,).
        second: Those of the same queries in the same order.
        seed: Of the draws.

    Returns:
        The mean of second - first, lower and upper end; nan for no queries.

    Raises:
        ValueError: They are not of the same queries.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(
            f"expected two values for each query, got {one.shape} and {other.shape} of them"
        )
    if not one.size:
        return math.nan, math.nan, math.nan
    differences = other - one
    low, high = np.quantile(_means(differences, seed), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    at_once = max(1, _BLOCK // values.size)
    means = [
        values[random.integers(values.size, size=(min(at_once, _DRAWS - done), values.size))].mean(
            axis=1
        )
        for done in range(0, _DRAWS, at_once)
    ]
    return np.concatenate(means)
