from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ir_measures
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.benchmark.judged import (
    Judged,
    index_judged,
    read_corpus,
    read_judged,
    read_judged_files,
    read_qrels,
    write_qrels,
    write_run,
)
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.retriever import Retriever


def beir(root: Path, *, split: str = "test") -> Path:
    """A set in BEIR's layout."""
    documents = [
        {"_id": "d1", "title": "Walruses", "text": "A walrus has tusks.", "metadata": {}},
        {"_id": "d2", "title": "", "text": "A key opens a door."},
        {"_id": 3, "title": "Only a title", "text": ""},
    ]
    queries = [{"_id": "q1", "text": "what has tusks"}, {"_id": "q2", "text": "open a door"}]
    write_lines(root / "corpus.jsonl", map(json.dumps, documents))
    write_lines(root / "queries.jsonl", map(json.dumps, queries))
    lines = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0", "q2\td2\t1"]
    write_lines(root / "qrels" / f"{split}.tsv", lines)
    return root


def write_lines(path: Path, lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")  # type: ignore[attr-defined]
    return path


def test_a_set_in_beirs_layout_is_read_whole(tmp_path: Path) -> None:
    judged = read_judged(beir(tmp_path / "pinnipeds"))
    assert judged.name == "pinnipeds"
    assert judged.queries == {"q1": "what has tusks", "q2": "open a door"}
    assert judged.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert judged.notes == ()
    read = [(each.source, each.title, each.text) for each in judged.documents()]
    assert read == [
        ("d1", "Walruses", "A walrus has tusks."),
        ("d2", "-", "A key opens a door."),
        ("3", "Only a title", "Only a title"),
    ]
    assert len([*judged.documents()]) == 3  # as often as one likes


def test_another_split_is_read_by_its_name(tmp_path: Path) -> None:
    assert read_judged(beir(tmp_path, split="dev"), split="dev").queries.keys() == {"q1", "q2"}
    with pytest.raises(ValueError, match=r"qrels/test\.tsv .*splits that are: dev"):
        read_judged(tmp_path)


def test_judgements_may_stand_beside_the_queries_without_a_split(tmp_path: Path) -> None:
    (beir(tmp_path) / "qrels" / "test.tsv").rename(tmp_path / "qrels.tsv")
    (tmp_path / "corpus.jsonl").unlink()
    judged = read_judged(tmp_path)
    assert judged.qrels["q2"] == {"d2": 1}
    with pytest.raises(ValueError, match="came without a corpus"):
        judged.documents()


@pytest.mark.parametrize(
    "lines",
    [
        ["query-id\tcorpus-id\tscore", "q1\td 1\t1", "q2\td2\t0"],
        ["q1\td 1\t1", "", "q2\td2\t0"],
        ["q1\t0\td 1\t1", "q2\t0\td2\t0"],
        ["﻿q1\td 1\t1\r", "q2\td2\t0\r"],
    ],
)
def test_judgements_with_tabs_are_read_with_or_without_a_header(
    tmp_path: Path, lines: list[str]
) -> None:
    path = write_lines(tmp_path / "qrels.tsv", lines)
    assert read_qrels(path) == {"q1": {"d 1": 1}, "q2": {"d2": 0}}


def test_judgements_as_trec_has_them_are_read(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "qrels.txt", ["301 0  FBIS-1 1", "301 0 FBIS-2 -1", "302 0 a 2"])
    expected = {"301": {"FBIS-1": 1, "FBIS-2": -1}, "302": {"a": 2}}
    assert read_qrels(path) == expected
    theirs = ir_measures.util.QrelsConverter(ir_measures.read_trec_qrels(str(path)))
    assert theirs.as_dict_of_dict() == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("q1 d1", "expected query, document and relevance"),
        ("q1\td1\tyes", r"relevance \(a whole number below a million\)"),
        ("q1\td1\t1.5", r"relevance \(a whole number below a million\)"),
        ("q1\td1\t2147483648", "below a million"),  # trec_eval hangs at it
        ("q1\td1\t-99999999999999999999", "below a million"),
        ("q1\t\t1", "expected query, document and relevance"),
        ("q1 0 d1 1 more", "got 'q1 0 d1 1 more'"),
        ("q0\td0\t0", "'d0' for query 'q0' as 1 and 0"),
    ],
)
def test_a_bad_judgement_is_refused_with_its_place(
    tmp_path: Path, line: str, expected: str
) -> None:
    path = write_lines(tmp_path / "qrels.tsv", ["q0\td0\t1", line])
    with pytest.raises(ValueError, match=rf"qrels\.tsv, line 2: .*{expected}"):
        read_qrels(path)


def test_a_first_line_that_is_no_header_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1"):
        read_qrels(write_lines(tmp_path / "qrels.tsv", ["q1\td1\tyes", "q2\td2\t1"]))


def test_judgements_that_are_no_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_bytes(b"q1\td1\t1\nq2\t\xff\t1\n")
    with pytest.raises(ValueError, match="line 2: expected text in UTF-8"):
        read_qrels(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "a JSON object"),
        ('["d1"]', "a JSON object"),
        ('{"title": "t", "text": "x"}', "an id under '_id' or 'id', got None"),
        ('{"_id": true, "text": "x"}', "an id .* got True"),
        ('{"_id": "d1", "title": "t"}', 'a document as {"_id"'),
        ('{"_id": "d1", "text": 5}', 'a document as {"_id"'),
    ],
)
def test_a_bad_document_is_refused_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", ['{"id": "d0", "text": "fine"}', line])
    with pytest.raises(ValueError, match=rf"corpus\.jsonl, line 2: expected {expected}"):
        list(read_corpus(path))


@pytest.mark.parametrize("name", ["q.jsonl", "q.tsv"])
def test_separate_files_are_read_and_what_does_not_match_is_told(tmp_path: Path, name: str) -> None:
    texts = {"1": "one", "2": "two", "3": "three"}
    lines = (
        [json.dumps({"id": key, "text": text}) for key, text in texts.items()]
        if name.endswith("jsonl")
        else [f"{key}\t{text}" for key, text in texts.items()]
    )
    queries = write_lines(tmp_path / name, lines)
    qrels = write_lines(tmp_path / "qrels.txt", ["1 0 a 1", "2 0 a 0", "8 0 a 1", "9 0 b 1"])
    judged = read_judged_files(queries, qrels)
    assert judged.queries == {"1": "one", "2": "two"}
    assert judged.qrels == {"1": {"a": 1}, "2": {"a": 0}}
    assert judged.notes == (
        "queries left out, for want of judgements: 1",
        "judged queries left out, for want of their text: 2",
        "queries without a relevant document, which count as 0 whatever is found, as trec_eval has "
        "it: 1",
    )


def test_queries_and_judgements_that_share_no_id_are_refused() -> None:
    with pytest.raises(ValueError, match=r"none of 1 queries is judged: .* 'q1', .* such as '1'"):
        Judged(queries={"q1": "one"}, qrels={"1": {"a": 1}})
    with pytest.raises(ValueError, match=r"such as 'q1', .*there are none"):
        Judged(queries={"q1": "one"}, qrels={})


def test_some_of_the_queries_make_a_set_without_notes_on_the_others(tmp_path: Path) -> None:
    judged = read_judged(beir(tmp_path)).only(["q2"])
    assert (judged.queries, judged.qrels) == ({"q2": "open a door"}, {"q2": {"d2": 1}})
    assert judged.notes == ()
    assert len([*judged.documents()]) == 3


def test_indexed_documents_are_found_under_their_ids(tmp_path: Path, edge: EdgeClient) -> None:
    docs = Collection(edge, "docs")
    report = index_judged(docs, read_judged(beir(tmp_path / "set")))
    assert (report.added, report.skipped) == (3, ())
    (hit,) = Retriever(docs).search("tusks")
    assert (hit.source, hit.corpus, hit.title) == ("d1", "set", "Walruses")


def test_documents_may_be_given_as_they_are(edge: EdgeClient) -> None:
    document = Document(source="a", title="a", text="walrus")
    judged = Judged(queries={"q": "x"}, qrels={"q": {"a": 1}}, corpus=[document])
    docs = Collection(edge, "docs")
    assert index_judged(docs, judged, corpus="mine").added == 1
    assert docs.status().corpora == {"mine": 1}


def test_a_run_has_a_line_for_each_document_with_scores_that_count_down(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    write_run(path, {"q1": ["b", "a"], "q2": [], "q 3": ["my file.md"]}, tag="my tag")
    assert path.read_text("utf-8").splitlines() == [
        "q1 Q0 b 1 2 my%20tag",
        "q1 Q0 a 2 1 my%20tag",
        "q%203 Q0 my%20file.md 1 1 my%20tag",
    ]


def test_a_document_twice_in_a_ranking_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a%20b' twice for query 'q'"):
        write_run(tmp_path / "a.run", {"q": ["a b", "c", "a%20b"]})


IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


@given(
    rankings=st.dictionaries(
        st.text("qr1 ", min_size=1, max_size=4),
        st.lists(IDS.filter(lambda each: "%" not in each), unique=True, max_size=30),
        max_size=3,
    ),
    relevant=st.sets(st.integers(0, 29), max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_whoever_reads_a_run_sees_the_order_that_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rankings: Mapping[str, Sequence[str]],
    relevant: set[int],
) -> None:
    folder = tmp_path_factory.mktemp("run")
    qrels = {
        query: {each: int(n in relevant) for n, each in enumerate(ranking)}
        for query, ranking in rankings.items()
        if ranking
    }
    write_run(folder / "a.run", rankings)
    write_qrels(folder / "qrels", qrels)
    run = ir_measures.util.RunConverter(ir_measures.read_trec_run(str(folder / "a.run")))
    # trec_eval's own code, on the files as they are.
    with (folder / "qrels").open() as file:
        held = pytrec_eval.parse_qrel(file)
    found = pytrec_eval.RelevanceEvaluator(held, {"recip_rank"}).evaluate(run.as_dict_of_dict())
    firsts = {
        query.replace(" ", "%20"): min((n for n in relevant if n < len(ranking)), default=None)
        for query, ranking in rankings.items()
        if ranking
    }
    assert {query: each["recip_rank"] for query, each in found.items()} == pytest.approx(
        {query: 0.0 if first is None else 1 / (first + 1) for query, first in firsts.items()}
    )
