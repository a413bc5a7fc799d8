from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.hits import Hit, Hits
from ragkit.reranking import checked_scores, rerank, reranked

TEXTS = ["keys", "doors", "locks", "hinges"]


def hit(place: int, text: str) -> Hit:
    return Hit(
        id=f"id-{place}",
        score=1.0 / (1 + place),
        title="A title",
        source=f"{place}.md",
        corpus="notes",
        text=text,
        start=0,
        end=len(text),
        line=1,
        headings=("A heading",),
        ordinal=0,
        metadata={"year": 2024},
    )


HITS = [hit(place, text) for place, text in enumerate(TEXTS)]
KEY = "sk-proj4f9Q2LmZ81xVb7Tn3Ry6"


def failing(error: BaseException) -> Callable[[str, list[str]], Any]:
    def reranker(query: str, texts: list[str]) -> Any:
        raise error

    return reranker


def test_hits_come_in_the_order_of_the_scores_and_have_them() -> None:
    asked: list[tuple[str, list[str]]] = []

    def by_length(query: str, texts: list[str]) -> list[int]:
        asked.append((query, texts))
        return [len(text) for text in texts]

    found = rerank(by_length, "what?", HITS)
    assert asked == [("what?", TEXTS)]
    assert [each.text for each in found] == ["hinges", "doors", "locks", "keys"]
    assert [each.score for each in found] == [6.0, 5.0, 5.0, 4.0]
    assert found.notes == ()
    assert (found[0].id, found[0].headings, found[0].metadata) == (
        "id-3",
        ("A heading",),
        {"year": 2024},
    )
    assert [each.score for each in HITS] == [1.0, 0.5, 1 / 3, 0.25]  # they are as they were


@settings(max_examples=50, deadline=None)
@given(scores=st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e300]), max_size=12))
def test_nothing_is_lost_and_equal_scores_keep_the_first_ranking(scores: list[float]) -> None:
    hits = [hit(place, "text") for place in range(len(scores))]
    found = reranked(hits, checked_scores(scores, len(scores)))
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    assert [each.source for each in found] == [f"{place}.md" for place in expected]


@pytest.mark.parametrize(
    "scores",
    [
        [1, 2.5, True, 0],
        (1, 2, 3, 4),
        np.array([1, 2, 3, 4], np.float16),
        np.array([1, 2, 3, 4], np.uint8),
    ],
)
def test_anything_that_numpy_reads_as_numbers_is_a_score(scores: Any) -> None:
    checked = checked_scores(scores, 4)
    assert checked.dtype == np.float64
    assert checked.tolist() == [float(score) for score in scores]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0, 3.0], r"expected scores of shape \(4,\), got \(3,\)"),
        (np.ones((4, 1)), r"expected scores of shape \(4,\), got \(4, 1\)"),
        (0.5, r"expected scores of shape \(4,\), got \(\)"),
        ([1.0, float("nan"), 2.0, 3.0], "expected finite scores, got nan for text 1"),
        ([1.0, 2.0, 3.0, float("-inf")], "expected finite scores, got -inf for text 3"),
        ([1.0, None, 2.0, 3.0], "expected 4 scores, got no numbers"),
        (["1", "2", "3", "4"], "expected 4 scores, got no numbers"),
        ([[1.0], [2.0, 3.0], [4.0], []], "expected 4 scores, got no numbers"),
        (np.ones(4) * 1j, "expected 4 scores, got no numbers"),
        (None, "expected 4 scores, got no numbers"),
        (iter([1.0, 2.0, 3.0, 4.0]), "expected 4 scores, got no numbers"),
    ],
)
def test_wrong_scores_leave_the_first_ranking_and_a_note_says_what_came(
    scores: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        checked_scores(scores, 4)
    found = rerank(lambda query, texts: scores, "what?", HITS)
    assert found == HITS
    (note,) = found.notes
    assert note.startswith("the reranker failed (ValueError: expected ")
    assert note.endswith("): the hits are in the order of the first ranking")


def test_a_reranker_that_fails_leaves_the_first_ranking_and_the_log_has_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = rerank(failing(RuntimeError("out\nof   memory")), "what?", HITS)
    assert isinstance(found, Hits)
    assert found == HITS
    note = (
        "the reranker failed (RuntimeError: out of memory): "
        "the hits are in the order of the first ranking"
    )
    assert found.notes == (note,)
    (record,) = caplog.records
    assert (record.name, record.levelno, record.message) == (
        "ragkit.reranking",
        logging.WARNING,
        note,
    )
    assert record.exc_info is not None
    assert "in reranker" in caplog.text


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("", "(KeyError)"),
        ("x " * 500, "(KeyError: " + "x " * 99 + "x…)"),
        ("%s {0} [bold]", "(KeyError: %s {0} [bold])"),
    ],
)
def test_a_note_is_one_short_line_and_its_text_is_only_text(message: str, shown: str) -> None:
    error = type("KeyError", (Exception,), {})(message)
    (note,) = rerank(failing(error), "what?", HITS).notes
    assert shown in note
    assert "\n" not in note


@pytest.mark.parametrize(
    "message",
    [
        f"401 for {KEY}",
        f"Authorization: Bearer {KEY}.",
        f"GET https://api.example.com/rerank?key={KEY}&n=4: 403",
        f"https://user:{KEY}@example.com refused",
        f"key={KEY.replace('Q', '-')}",
        f"'{KEY[3:]}' is not a key",
        "GET https://api.example.com/?token=short1: 403",
        "https://me:pass1@example.com refused",
    ],
)
def test_what_may_be_a_key_is_not_in_a_note(message: str) -> None:
    (note,) = rerank(failing(OSError(message)), "what?", HITS).notes
    for secret in (KEY[-8:], "short1", "pass1"):
        assert secret not in note
    assert "…" in note


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered at kernel 12",
        "expected 2048 tokens, got 3000 of cross-encoder/ms-marco-MiniLM-L6-v2",
    ],
)
def test_what_is_no_key_stays_in_the_note(message: str) -> None:
    (note,) = rerank(failing(OSError(message)), "what?", HITS).notes
    assert message in note


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)])
def test_who_wants_to_stop_is_not_held_up(error: BaseException) -> None:
    with pytest.raises(type(error)):
        rerank(failing(error), "what?", HITS)


def test_a_reranker_is_not_asked_about_nothing() -> None:
    assert rerank(failing(AssertionError("asked")), "what?", []) == Hits()
