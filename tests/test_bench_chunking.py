"""Chunking by reference spans: small sets worked out by hand, and the numbers that are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.benchmark.chunkings import (
    SpanQuestion,
    SpanSet,
    chunking,
    read_span_set,
    span_scores,
)
from ragkit.chunks import Chunk, Chunker
from ragkit.documents import Document
from ragkit.embeddings import Vectors

CHROMA = Path(__file__).parents[2] / "shared" / "data" / "chunking"


def sentences(document: Document) -> list[Chunk]:
    """A chunk for each line."""
    chunks: list[Chunk] = []
    start = 0
    for line in document.text.splitlines(keepends=True):
        end = start + len(line)
        chunks.append(
            Chunk(
                source=document.source,
                ordinal=len(chunks),
                text=line,
                start=start,
                end=end,
                title=document.title,
            )
        )
        start = end
    return chunks


def pairs(document: Document) -> list[Chunk]:
    """A chunk for every two lines that follow each other: each line is in two."""
    single = sentences(document)
    return [
        Chunk(
            source=document.source,
            ordinal=number,
            text=one.text + other.text,
            start=one.start,
            end=other.end,
            title=document.title,
        )
        for number, (one, other) in enumerate(pairwise(single))
    ]


# Lines of ten characters.
SEA = "walrus ab\nwalrus cd\nseal efgh\nkelp ijkl\n"
HOUSE = "door abcd\nwalrus ef\nroof ghij\n"


def small(*questions: SpanQuestion) -> SpanSet:
    documents = [
        Document(source=name, title=name, text=text)
        for name, text in {"sea": SEA, "house": HOUSE}.items()
    ]
    return SpanSet(documents=documents, questions=questions, name="small")


SEALS = SpanQuestion(text="seal", answer={"sea": [(25, 35)]})  # half of its line, half of the next
ROOFS = SpanQuestion(text="roof", answer={"house": [(20, 30)]})


def test_scores_of_passages_are_those_worked_out_by_hand() -> None:
    question = SpanQuestion(text="?", answer={"sea": [(10, 20), (30, 40)], "house": [(0, 10)]})
    found = [
        ("sea", 5, 15),  # half of it answers
        ("sea", 10, 25),  # 10 of 15 answer, 5 of them for the second time
        ("sea", 50, 60),
        ("house", 0, 5),
        ("roof", 0, 10),  # as far as "house" goes, elsewhere
    ]
    hit, retrieved, wanted = 15, 10 + 15 + 10 + 5 + 10, 30
    assert span_scores(question, found) == pytest.approx(
        (hit / wanted, hit / retrieved, hit / (retrieved + wanted - hit))
    )
    assert span_scores(question, []) == (0.0, 0.0, 0.0)
    whole = [("sea", 10, 20), ("sea", 30, 40), ("house", 0, 10)]
    assert span_scores(question, whole) == (1.0, 1.0, 1.0)


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=4)


@given(answer=SPANS, found=SPANS)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_sets_of_characters(
    answer: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]
) -> None:
    folder = {at for start, size in answer for at in range(start, start + size)}
    # As it is read from a file: in order and without overlap.
    spans = [(at, at + 1) for at in sorted(folder)]
    covered = {at for start, size in found for at in range(start, start + size)}
    retrieved = sum(size for _, size in found)
    hit = len(folder & covered)
    expected = (hit / len(folder), hit / retrieved, hit / (retrieved + len(folder - covered)))
    question = SpanQuestion(text="?", answer={"a": spans})
    passages = [("a", start, start + size) for start, size in found]
    assert span_scores(question, passages) == pytest.approx(expected)


def test_rows_are_those_worked_out_by_hand() -> None:
    rows = chunking(
        small(SEALS, ROOFS), chunkers={"lines": sentences, "pairs": pairs}, hits=1, budget=25
    )
    lines, both = rows
    assert (lines.chunker, lines.max_tokens, lines.overlap) == ("lines", None, None)
    assert (lines.chunks, lines.mean_chars) == (7, 10.0)
    # Of the seals the best line holds half, of the roofs all.
    assert lines.recall == pytest.approx((0.5 + 1) / 2)
    assert lines.precision == pytest.approx((0.5 + 1) / 2)
    assert lines.iou == pytest.approx((5 / 15 + 1) / 2)
    assert lines.recall_in_budget == lines.recall  # there are no more hits
    assert lines.recall_low < lines.recall < lines.recall_high
    assert lines.difference == []
    # Two pairs hold "seal" alike: the earlier has half of the answer, the later all of it. In 25
    # characters there is room for the earlier, and 5 of the later.
    assert (both.chunks, both.mean_chars) == (5, 20.0)
    assert both.recall == pytest.approx((0.5 + 1) / 2)
    assert both.precision == pytest.approx((5 / 20 + 10 / 20) / 2)
    assert both.iou == pytest.approx((5 / 25 + 10 / 20) / 2)
    assert both.recall_in_budget == pytest.approx((0.5 + 1) / 2)
    assert both.difference == pytest.approx([0.0, 0.0, 0.0])
    wider = chunking(
        small(SEALS, ROOFS), chunkers={"lines": sentences, "pairs": pairs}, hits=2, budget=40
    )
    assert wider[1].recall == wider[1].recall_in_budget == 1.0
    assert wider[1].difference[0] == pytest.approx(0.25)


def test_the_circumstances_say_how_it_was_measured() -> None:
    shown: list[tuple[str, int, int]] = []
    rows = chunking(
        small(SEALS, ROOFS),
        chunkers={"lines": sentences},
        hits=3,
        budget=50,
        progress=lambda *each: shown.append(each),
    )
    about = rows.about
    assert (about.what, about.subject) == (
        "chunking", {"set": "small", "corpora": 2, "characters": 70}
    )  # fmt: skip
    assert about.settings == {"mode": "sparse", "hits": 3, "budget": 50}
    assert about.queries == "2 questions of small with reference spans"
    assert "BM25" in about.method[0]
    assert shown == [("chunker lines", 0, 1), ("chunkers", 1, 1)]


def test_the_default_chunker_comes_first_and_others_around_it_follow() -> None:
    rows = chunking(small(SEALS, ROOFS))
    settings = [(row.chunker, row.max_tokens, row.overlap) for row in rows]
    assert settings[0] == ("300/50", Chunker().max_tokens, Chunker().overlap)
    assert len(settings) >= 5
    assert all(label == f"{tokens}/{overlap}" for label, tokens, overlap in settings)


class Exits:
    """Knows one thing: that a door is an exit."""

    dim, max_tokens, fingerprint = 2, 1_000, "exits"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        assert set(titles) == {""}
        return np.stack([self._embed("door" in text) for text in texts])

    def embed_query(self, text: str) -> Vectors:
        return self._embed("exit" in text)

    def _embed(self, is_exit: bool) -> Vectors:
        return np.array([1, 0] if is_exit else [0, 1], np.float32)


def test_chunks_are_found_by_meaning_by_words_or_by_both() -> None:
    exits = SpanQuestion(text="exit roof", answer={"house": [(0, 10)]})
    found = {
        mode: chunking(
            small(exits), chunkers={"lines": sentences}, embedder=Exits(), mode=mode, hits=hits
        )[0].recall
        for mode, hits in (("sparse", 2), ("dense", 1), ("hybrid", 2), (None, 2))
    }
    assert found == {"sparse": 0.0, "dense": 1.0, "hybrid": 1.0, None: 1.0}


def test_the_budget_is_filled_however_short_the_chunks_are() -> None:
    text = "walrus a\n" * 400
    question = SpanQuestion(text="walrus", answer={"a": [(0, len(text))]})
    spans = SpanSet(documents=[Document(source="a", title="a", text=text)], questions=[question])
    (row,) = chunking(spans, chunkers={"lines": sentences}, budget=2_700)
    assert row.recall_in_budget == pytest.approx(2_700 / len(text))


def folder(root: Path, spans: Sequence[str]) -> Path:
    (root / "corpora").mkdir()
    (root / "corpora" / "sea.md").write_text(SEA, "utf-8")
    (root / "corpora" / "house.md").write_text(HOUSE, "utf-8")
    queries = [{"id": "q1", "text": "seal", "corpus": "sea"}, {"id": "q2", "text": "roof"}]
    lines = "".join(f"{json.dumps(query)}\n" for query in queries)
    (root / "queries.jsonl").write_text(lines, "utf-8")
    (root / "spans.tsv").write_text("".join(f"{line}\n" for line in spans), "utf-8")
    return root


def test_a_folder_in_chromas_layout_is_read(tmp_path: Path) -> None:
    lines = ["q1\tsea\t30\t35", "q1\tsea\t25\t32", "q1\thouse\t0\t4", "", "q9\tsea\t0\t1"]
    spans = read_span_set(folder(tmp_path, lines))
    assert [(each.source, each.format) for each in spans.documents] == [
        ("house", "text"),
        ("sea", "text"),
    ]
    expected = SpanQuestion(text="seal", answer={"sea": [(25, 35)], "house": [(0, 4)]})
    assert spans.questions == [expected]
    assert spans.name == tmp_path.name


@pytest.mark.parametrize(
    "line",
    ["q1\tsea\t5", "q1\tsea\t5\t5", "q1\tsea\t-1\t5", "q1\tsea\t0\t41", "q1\tlake\t0\t5",
     "q1\tsea\tone\t5", "q1 sea 0 5", "q1\tsea\t0\t5\t6"],
)  # fmt: skip
def test_a_bad_span_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    with pytest.raises(
        ValueError, match=r"spans\.tsv, line 2: .*corpora: house \(30\), sea \(40\)"
    ):
        read_span_set(folder(tmp_path, ["q1\tsea\t0\t5", line]))


def test_what_is_no_span_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpora/\*\.md, queries\.jsonl and spans\.tsv"):
        chunking(tmp_path)
    with pytest.raises(ValueError, match="whose queries are such as 'other'"):
        chunking(folder(tmp_path, ["other\tsea\t0\t5"]))


def test_what_cannot_be_measured_is_refused() -> None:
    spans = small(SEALS)
    with pytest.raises(ValueError, match="mode 'dense' compares meanings: pass an embedder"):
        chunking(spans, mode="dense")
    with pytest.raises(ValueError, match="expected mode to be"):
        chunking(spans, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one chunker"):
        chunking(spans, chunkers={})
    with pytest.raises(ValueError, match="hits and budget to be at least 1, got 0 and 4000"):
        chunking(spans, hits=0)
    with pytest.raises(ValueError, match="'nothing' makes no chunks"):
        chunking(spans, chunkers={"nothing": lambda document: []})


@pytest.mark.skipif(
    not CHROMA.exists(),
    reason="needs Chroma's chunking evaluation beside the project, in ../shared/data/chunking: "
    "corpora, queries.jsonl and spans.tsv",
)
def test_the_numbers_that_are_known_of_the_default_come_out() -> None:
    (row,) = chunking(CHROMA, chunkers={"300/50": Chunker()})
    shares = (row.recall, row.precision, row.iou, row.recall_in_budget)
    assert shares == pytest.approx((0.908, 0.052, 0.052, 0.890), abs=0.003)
