from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ragkit.chunks import Chunk
from ragkit.gemini import batch_lines
from ragkit.gemini.batch_lines import read_results, request_key
from ragkit.schema import chunk_hash


def test_a_key_is_the_hash_that_the_chunk_is_stored_under() -> None:
    chunk = Chunk(
        source="a.md", ordinal=3, text="Text.", start=9, end=14, title="T", headings=("T", "H")
    )
    assert request_key("T > H", "Text.") == chunk_hash(chunk)
    assert request_key("T", "Text.") != chunk_hash(chunk)


GOOD = {"response": {"embedding": {"values": [3.0, 4.0]}, "tokenCount": "7"}}


def results_of(path: Path, *lines: object) -> batch_lines.Results:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text)
    vectors = np.zeros((2, 2), np.float32)
    return read_results(path, {"a": "a.txt", "b": "b.txt"}, vectors)


def test_results_are_joined_by_key_and_scaled_to_unit_length(tmp_path: Path) -> None:
    other = {"response": {"embedding": {"values": [0, 2]}}}
    results = results_of(tmp_path / "r", {"key": "b"} | other, "", {"key": "a"} | GOOD)
    np.testing.assert_allclose(results.vectors, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    assert (results.failed, results.suspect, results.billed_tokens) == ({}, False, None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"key": "a", "error": {"code": 3, "message": "bad\u00e9"}}, r"badé \(3\)"),
        ({"key": "a", "error": "no"}, "no"),
        ({"key": "a"}, "neither"),
        ({"key": "a", "response": None}, "neither"),
        ({"key": "a", "response": {"embedding": {"values": [1.0]}}}, "shape"),
        ({"key": "a", "response": {"embedding": {"values": [0, 0]}}}, "non-zero"),
        ({"key": "a", "response": {"embedding": {"values": [1, None]}}}, "finite|numbers"),
        ('{"key":"a","response":{"embedding":{"values":[NaN,1]}}}', "finite"),
        ({"key": "a", "response": {"embedding": {"values": ["x", "y"]}}}, "numbers"),
        ('{"key":"a","resp', "no result"),
    ],
)
def test_a_result_that_is_not_sound_fails_alone(tmp_path: Path, line: object, reason: str) -> None:
    results = results_of(tmp_path / "r", {"key": "b"} | GOOD, line)
    assert list(results.failed) == ["a"]
    assert re.search(reason, results.failed["a"])
    assert np.isnan(results.vectors[0]).all()
    np.testing.assert_allclose(results.vectors[1], [0.6, 0.8], rtol=1e-6)
    assert results.billed_tokens == 7


@pytest.mark.parametrize("line", [{"key": "c"} | GOOD, GOOD, {"key": 5}, "[]", {"key": "b"} | GOOD])
def test_keys_that_nobody_sent_or_that_come_twice_make_the_answer_suspect(
    tmp_path: Path, line: object
) -> None:
    results = results_of(tmp_path / "r", {"key": "a"} | GOOD, {"key": "b"} | GOOD, line)
    assert results.suspect
    assert results.failed.keys() <= {"b"}
