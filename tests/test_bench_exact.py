from __future__ import annotations

import numpy as np
import pytest
from given import unit_vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.benchmark import exact
from ragkit.benchmark.exact import Truth, nearest
from ragkit.benchmark.intervals import mean_interval, paired_interval
from ragkit.benchmark.originals import Originals


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    scores = [(float(np.dot(row.astype(np.float64), query.astype(np.float64)))) for row in vectors]
    return sorted(range(len(vectors)), key=lambda row: (-scores[row], row))[:k]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 60),
    queries=st.integers(1, 9),
    k=st.integers(1, 80),
    block=st.integers(1, 100),
    seed=st.integers(0, 5),
)
def test_the_nearest_are_those_of_a_comparison_one_by_one(
    count: int, queries: int, k: int, block: int, seed: int
) -> None:
    vectors, asked = unit_vectors(count, 7, seed=seed), unit_vectors(queries, 7, seed=seed + 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_SCORES", block)
        patch.setattr(exact, "_QUERIES", 4)
        found = nearest(vectors, asked, k)
    assert found.rows.tolist() == [brute_force(vectors, query, k) for query in asked]
    assert np.all(np.diff(found.scores, axis=1) <= 0)


def test_a_query_that_is_a_row_does_not_find_itself() -> None:
    vectors = unit_vectors(30, 5)
    found = nearest(vectors, vectors[[4, 9]], 30, without=np.array([4, -1]))
    assert found.rows[0, -1] == 4
    assert found.scores[0, -1] == -np.inf
    assert found.rows[1, 0] == 9


def truth_of(vectors: np.ndarray, queries: np.ndarray, k: int, **more: object) -> Truth:
    ids = [f"p{row}" for row in range(len(vectors))]
    return Truth(Originals(ids=ids, vectors=vectors), queries, k, **more)  # type: ignore[arg-type]


def test_recall_is_the_part_of_the_neighbours_that_was_found() -> None:
    vectors = np.eye(6, dtype=np.float32)
    query = np.array([[6, 5, 4, 3, 2, 1]], np.float32) / 10
    truth = truth_of(vectors, query, 4)
    assert truth.ids(0, 4) == ["p0", "p1", "p2", "p3"]
    assert truth.shares([["p3", "p5", "p0", "p4"]], 4).tolist() == [0.5]
    assert truth.shares([["p3", "p5", "p0", "p4"]], 2).tolist() == [0.0]
    assert truth.shares([[]], 4).tolist() == [0.0]
    assert truth.shares([["unknown", "p1"]], 2).tolist() == [0.5]
    assert truth.shares([["p1", "p1"]], 2).tolist() == [0.5]  # twice the same is one neighbour


def test_what_is_level_with_the_last_counts_whichever_was_found() -> None:
    vectors = np.eye(5, dtype=np.float32)
    query = np.array([[0.9, 0.5, 0.5, 0.5 - 5e-7, 0.5 - 5e-6]], np.float32)
    truth = truth_of(vectors, query, 3)
    assert truth.shares([["p0", "p2"]], 2).tolist() == [1.0]
    assert truth.shares([["p0", "p3"]], 2).tolist() == [1.0]
    assert truth.shares([["p0", "p4"]], 2).tolist() == [0.5]
    assert truth.shares([["p1", "p2"]], 2).tolist() == [1.0]  # level with each other and the last


def test_more_equal_passages_than_are_kept_in_mind_count_all_the_same() -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), [500, 3], axis=0)
    truth = truth_of(vectors, np.array([[1.0, 0.0]], np.float32), 10)
    assert truth.shares([[f"p{row}" for row in range(490, 500)]], 10).tolist() == [1.0]
    assert truth.shares([[f"p{row}" for row in range(495, 503)]], 10).tolist() == [0.5]


def test_where_there_are_fewer_than_asked_for_all_of_them_are_to_be_found() -> None:
    truth = truth_of(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1], 10, own=["p0"])
    assert truth.shares([["p1", "p2"]], 10).tolist() == [1.0]
    assert truth.shares([["p1"]], 10).tolist() == [0.5]
    assert truth.ids(0, 10) == ["p1", "p2"]


def test_a_truth_does_not_pretend_to_reach_farther_than_it_does() -> None:
    truth = truth_of(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 2)
    with pytest.raises(ValueError, match="at most 2, got 3"):
        truth.shares([[], [], []], 3)


@pytest.mark.parametrize(("chance", "size"), [(0.7, 200), (0.03, 100), (0.99, 60)])
def test_the_interval_of_a_mean_holds_the_true_one_as_often_as_it_says(
    chance: float, size: int
) -> None:
    draws = np.random.default_rng(1).random((800, size)) < chance
    inside = [low <= chance <= high for _, low, high in map(mean_interval, draws)]
    assert 0.92 < np.mean(inside) < 0.985


def test_values_between_the_ends_are_surer_than_yes_and_no() -> None:
    draws = np.random.default_rng(1).beta(8, 2, (800, 100))
    found = [mean_interval(draw) for draw in draws]
    assert 0.92 < np.mean([low <= 0.8 <= high for _, low, high in found]) < 0.98
    assert np.mean([high - low for _, low, high in found]) < 0.06  # yes and no: 0.156


def test_where_all_succeed_the_interval_says_how_many_there_were() -> None:
    mean, low, high = mean_interval(np.ones(1_057))
    assert (mean, high) == (1.0, 1.0)
    assert low == pytest.approx(1_057 / (1_057 + 1.959964**2))
    assert mean_interval([0.0])[1:] == pytest.approx((0.0, 0.793), abs=0.001)
    assert np.isnan(mean_interval([])).all()


def test_a_mean_that_is_a_round_number_reaches_it() -> None:
    random = np.random.default_rng(0)
    for count in (10, 20, 60, 100, 200):  # limit 10, one neighbour missed by every other query
        shares = random.permutation(np.repeat([0.9, 1.0], count // 2))
        assert mean_interval(shares)[0] == 0.95


def test_a_difference_that_is_there_is_seen_and_one_that_is_not_is_not() -> None:
    random = np.random.default_rng(2)
    hard = random.random(300)
    better = hard + 0.02 + random.normal(0, 0.05, 300)
    difference, low, high = paired_interval(hard, better)
    assert low < difference < high
    assert low > 0
    same = hard + random.normal(0, 0.05, 300)
    assert paired_interval(hard, same)[1] < 0 < paired_interval(hard, same)[2]
    assert paired_interval(hard, better) == paired_interval(hard, better)


def test_a_paired_interval_is_that_of_the_normal_distribution_where_that_holds() -> None:
    differences = np.random.default_rng(3).normal(0.1, 1, 2_000)
    _, low, high = paired_interval(np.zeros(2_000), differences)
    half = 1.96 * differences.std(ddof=1) / 2_000**0.5
    expected = (differences.mean() - half, differences.mean() + half)
    assert (low, high) == pytest.approx(expected, abs=0.006)


def test_values_of_other_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="two values for each query"):
        paired_interval([1.0, 2.0], [1.0])
