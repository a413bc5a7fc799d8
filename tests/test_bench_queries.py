from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from given import unit_vectors

from ragkit.benchmark import read_queries, sample_queries
from ragkit.benchmark.originals import Originals
from ragkit.benchmark.queries import read_texts, read_vectors
from ragkit.embeddings import HashEmbedder, embed_query
from ragkit.errors import CollectionMismatch


def originals(count: int) -> Originals:
    return Originals(ids=[f"p{row}" for row in range(count)], vectors=unit_vectors(count, 8))


def test_a_sample_is_drawn_once_for_a_seed_and_knows_its_own_points() -> None:
    whole = originals(50)
    queries = sample_queries(whole, 20, seed=3)
    assert len(queries) == len(set(queries.own or ())) == 20
    rows = [int(each[1:]) for each in queries.own or ()]
    assert np.array_equal(queries.vectors, whole.vectors[rows])
    assert queries.own == sample_queries(whole, 20, seed=3).own
    assert queries.own != sample_queries(whole, 20, seed=4).own
    assert "held out" in queries.origin
    assert len(sample_queries(whole, 1_000)) == 50


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sample_queries(originals(5), 0)
    with pytest.raises(ValueError, match="no neighbours"):
        sample_queries(originals(1), 5)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("q.txt", "who is it\n\nwhere is it\n"),
        ("q.tsv", "q1\twho is it\nq2\twhere is it\n"),
        ("q.jsonl", '{"_id": "q1", "text": "who is it"}\r\n{"text": "where is it"}\r\n'),
    ],
)
def test_queries_are_read_in_each_form_and_embedded_as_queries(
    tmp_path: Path, name: str, written: str
) -> None:
    path = tmp_path / name
    path.write_bytes(written.encode())
    embedder = HashEmbedder(16)
    queries = read_queries(path, embedder, 16)
    assert list(queries.texts or ()) == ["who is it", "where is it"]
    assert np.allclose(queries.vectors[1], embed_query(embedder, "where is it"))
    assert queries.own is None
    assert name in queries.origin


def test_ids_are_those_of_the_file_and_a_text_may_hold_odd_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    rows = [{"id": 7, "text": "one\u2028two"}, {"query_id": "x", "text": "three"}]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read_texts(path) == {"7": "one\u2028two", "x": "three"}
    path = tmp_path / "q.tsv"
    path.write_text("query-id\ttext\nq1\twho is it\n")
    assert read_texts(path) == {"q1": "who is it"}
    path = tmp_path / "q.txt"
    path.write_bytes(b"one\rtwo\r\nthree\n")
    assert read_texts(path) == {"1": "one\rtwo", "2": "three"}


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("q.txt", "\n \n", "holds no queries"),
        ("q.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "line 2: expected an object with a"),
        ("q.jsonl", "who is it\n", "line 1: expected an object in JSON"),
        ("q.tsv", "q1 who\n", "line 1: expected a query's id, a tab"),
        ("q.tsv", "q1\tone\nq1\ttwo\n", "line 2: the id 'q1' has come before"),
        ("q.jsonl", '{"_id": null, "text": "a"}\n', "line 1: expected an id .* got None"),
        ("q.jsonl", '{"_id": ["x"], "text": "a"}\n', "line 1: expected an id .* got "),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_line(
    tmp_path: Path, name: str, written: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(written)
    with pytest.raises(ValueError, match=said):
        read_queries(path, HashEmbedder(16), 16)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="no UTF-8"):
        read_queries(path, HashEmbedder(16), 16)


def test_query_vectors_are_read_at_unit_length_and_need_no_embedder(tmp_path: Path) -> None:
    path = tmp_path / "q.npy"
    np.save(path, np.array([[3.0, 4.0], [0.0, 2.0]], np.float16))
    queries = read_queries(path, None, 2)
    assert np.allclose(queries.vectors, [[0.6, 0.8], [0.0, 1.0]], atol=1e-6)
    assert queries.vectors.dtype == np.float32


def test_texts_without_an_embedder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("who is it\n")
    with pytest.raises(CollectionMismatch, match="no embedder"):
        read_queries(tmp_path / "q.txt", None, 2)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 1)), "shape"),
        (np.array([["a", "b", "c"]]), "numbers of shape"),
        (np.ones((2, 4)), r"\(n, 3\)"),
        (np.array([[1.0, 0, 0], [0, 0, 0], [0, np.nan, 0]]), "2 of 3 vectors .* first in row 1"),
        (np.empty((0, 3)), "holds no vectors"),
        (np.array([[1.0, np.inf, 0]]), "not finite"),
    ],
)
def test_arrays_that_are_no_vectors_are_refused(
    tmp_path: Path, array: np.ndarray, said: str
) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(ValueError, match=said):
        read_vectors(tmp_path / "v.npy", dim=3)


def test_a_file_that_is_no_array_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_text("no array")
    with pytest.raises(ValueError, match="no array") as refused:
        read_vectors(tmp_path / "v.npy")
    assert "unsafe" not in str(refused.value)  # NumPy's own words ask to unpickle it
    (tmp_path / "e.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="no array"):
        read_vectors(tmp_path / "e.npy")
    np.savez(tmp_path / "z.npz", np.ones((2, 3)))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(ValueError, match="no array"):
        read_vectors(tmp_path / "z.npy")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="no array"):
        read_vectors(tmp_path / "o.npy")


def test_a_line_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="line 1: expected an object"):
        read_texts(tmp_path / "q.jsonl")


@pytest.mark.parametrize("name", ["q.csv", "q.json", "questions"])
def test_a_file_of_an_unknown_kind_is_not_guessed_at(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("id,text\nq1,who is it\n")
    with pytest.raises(ValueError, match=r"ends in \.jsonl, \.ndjson, \.tsv, \.txt, \.npy, got"):
        read_queries(tmp_path / name, HashEmbedder(16), 16)


def test_an_ending_in_capitals_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "Q.TSV").write_text("q1\twho is it\n")
    assert read_texts(tmp_path / "Q.TSV") == {"q1": "who is it"}


def test_numbers_that_no_float32_holds_are_refused_without_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1e200, 1.0]]))
    with pytest.raises(ValueError, match="not finite"):
        read_vectors(tmp_path / "v.npy")
