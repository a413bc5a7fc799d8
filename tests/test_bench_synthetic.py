from __future__ import annotations

import numpy as np
import pytest

from ragkit.benchmark.exact import nearest
from ragkit.benchmark.synthetic import synthetic_queries, synthetic_vectors
from ragkit.embeddings import Vectors


def of_signs(vectors: Vectors, queries: Vectors, oversampling: int) -> float:
    """Recall@10 of one bit a component, the candidates compared again."""
    truth = nearest(vectors, queries, 10).rows
    signs = (np.where(each > 0, 1, -1).astype(np.float32) for each in (vectors, queries))
    candidates = nearest(*signs, 10 * oversampling).rows
    found = []
    for query, rows in zip(queries, candidates, strict=True):
        found.append(rows[np.argsort(-(vectors[rows] @ query))[:10]])
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)]))


def test_vectors_have_unit_length_across_blocks() -> None:
    vectors = synthetic_vectors(9_000, 16)
    assert vectors.shape == (9_000, 16)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_seed_always_gives_the_same_and_another_seed_gives_others() -> None:
    vectors = synthetic_vectors(50, 24, seed=3)
    assert np.array_equal(vectors, synthetic_vectors(50, 24, seed=3))
    assert not np.allclose(vectors, synthetic_vectors(50, 24, seed=4), atol=0.01)
    assert not np.allclose(vectors, synthetic_queries(50, 24, seed=3), atol=0.01)


def test_queries_are_of_the_topics_of_the_vectors_of_their_seed() -> None:
    vectors = synthetic_vectors(2_000, 96, seed=1)
    near = nearest(vectors, synthetic_queries(100, 96, seed=1), 1).scores.mean()
    strange = nearest(vectors, synthetic_queries(100, 96, seed=2), 1).scores.mean()
    held_out = nearest(vectors[100:], vectors[:100], 1).scores.mean()
    assert near == pytest.approx(held_out, abs=0.05)
    assert near > strange + 0.1


def test_few_directions_hold_much_of_the_variance_and_no_coordinate_does() -> None:
    vectors = synthetic_vectors(4_000, 96)
    variances = np.linalg.eigvalsh(np.cov(vectors.T.astype(np.float64)))[::-1]
    assert variances[:10].sum() > 0.3 * variances.sum()
    assert variances[0] > 10 * variances[-1]
    own = vectors.var(axis=0)
    assert own.max() < 5 * own.min()


def test_binary_codes_find_as_much_of_them_as_the_module_says() -> None:
    vectors, queries = synthetic_vectors(1_567, 384, seed=0), synthetic_queries(200, 384, seed=0)
    for oversampling, said in ((1, 0.703), (2, 0.879), (3, 0.925)):
        assert of_signs(vectors, queries, oversampling) == pytest.approx(said, abs=0.03)


@pytest.mark.parametrize(("count", "dim"), [(0, 16), (5, 1)])
def test_what_cannot_be_drawn_is_refused(count: int, dim: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} of {dim} dimensions"):
        synthetic_vectors(count, dim)
