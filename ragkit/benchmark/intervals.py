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

    Wilson's score interval (1927, "Probable Inference, the Law of Succession, and Statistical
    Inference"), which stays within 0 and 1 and is a true interval at the ends as well: 100 queries
    that all succeed show that at least 96 of 100 do. Values between 0 and 1 say more than a yes or
    a no: queries are counted as so many more as their variance is smaller than that of yes and no
    with the same mean.

    Args:
        values: One for each query, from 0 to 1, shape (n,).

    Returns:
        Mean, lower and upper end; nan for no values.
    """
    array = np.asarray(values, np.float64)
    if not array.size:
        return math.nan, math.nan, math.nan
    # Shares such as 0.9 are not exact in binary: unrounded, one mean of 0.95 in six falls short of
    # a target of 0.95 by its last bit.
    mean = round(float(array.mean()), 12)
    spread = mean * (1 - mean)
    variance = float(array.var(ddof=1)) if array.size > 1 else 0.0
    size = array.size * spread / variance if variance and spread > 0 else array.size
    shrink = 1 + _NORMAL_95**2 / size
    centre = (mean + _NORMAL_95**2 / (2 * size)) / shrink
    half = _NORMAL_95 * math.sqrt(max(spread, 0.0) / size + (_NORMAL_95 / (2 * size)) ** 2) / shrink
    # At the ends the mean is an end of the interval, but for the last bit.
    return mean, max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


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
