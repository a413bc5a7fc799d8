"""The measuring commands, as they are typed."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ragkit.cli import app
from ragkit.cli_bench_support import chunk_sizes, numbers, settings_given, shape, whole_numbers
from ragkit.cli_support import BELOW, FAILED, USAGE

WORDS = [f"word{n}" for n in range(40)]
NOTES = 60


def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with notes, judged questions and passages that answer, and the notes' collection."""
    root = tmp_path_factory.mktemp("bench")
    dice = random.Random(4)
    texts = {
        f"{n:02}.md": f"# Note {n}\n\n{' '.join(dice.choices(WORDS, k=30))} number{n}\n"
        for n in range(NOTES)
    }
    (root / "notes").mkdir()
    for name, text in texts.items():
        (root / "notes" / name).write_text(text)
    write_lines(
        root / "beir" / "corpus.jsonl",
        [{"_id": name, "title": name, "text": text} for name, text in texts.items()],
    )
    questions = [{"_id": f"q{n}", "text": f"number{n} {dice.choice(WORDS)}"} for n in range(12)]
    write_lines(root / "beir" / "queries.jsonl", questions)
    judgements = "".join(f"q{n}\t{n:02}.md\t1\n" for n in range(12))
    (root / "beir" / "qrels").mkdir()
    (root / "beir" / "qrels" / "test.tsv").write_text(judgements)
    whole = "\n\n".join(texts.values())
    (root / "spans" / "corpora").mkdir(parents=True)
    (root / "spans" / "corpora" / "notes.md").write_text(whole)
    write_lines(root / "spans" / "queries.jsonl", [{"id": q["_id"], **q} for q in questions])
    ends = [whole.index(f" number{n}\n") for n in range(12)]
    spans = "".join(f"q{n}\tnotes\t{end - 40}\t{end + 8}\n" for n, end in enumerate(ends))
    (root / "spans" / "spans.tsv").write_text(spans)
    np.save(root / "vectors.npy", np.random.default_rng(0).normal(size=(80, 32)))
    run("index", root / "notes", "--db", root / "db", "--embedder", "hash", "--dim", "32",
        "--quantization", "binary")  # fmt: skip
    return root


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib as if it were not installed: quicker, and what most have."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_recall_prints_the_published_layout_and_writes_the_results(
    here: Path, tmp_path: Path
) -> None:
    shown, said = run("bench", "recall", "--db", here / "db", "--limits", "5,10", "--sample", "20",
                      "--out", tmp_path)  # fmt: skip
    lines = shown.splitlines()
    assert lines[0] == "Recall"
    assert lines[1].split("|")[1:5] == [" oversampling ", "         ", " 1     ", " 1     "]
    assert [line.split()[1] for line in lines[4:6]] == ["5", "10"]
    assert "* the collection's own default search" in lines
    assert any(line.startswith("limit 10: ") for line in lines)
    assert any(line.startswith("of: collection notes; store embedded") for line in lines)
    assert "written to" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("recall.csv", "recall.json", "recall.png"),
    ]


def test_as_json_there_is_one_document_and_without_matplotlib_a_note(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    shown, said = run("bench", "recall", "--db", here / "db", "--limits", "5", "--queries",
                      here / "beir" / "queries.jsonl", "--oversampling", "2,4", "--rescore", "on",
                      "--out", tmp_path, "--json")  # fmt: skip
    document = json.loads(shown)
    asked = [row for row in document["rows"] if not row["current"]]
    assert [(row["oversampling"], row["rescore"]) for row in asked] == [(2.0, True), (4.0, True)]
    assert document["about"]["queries"].startswith("12 queries of queries.jsonl")
    assert 'no plot: matplotlib is needed and not installed: pip install "ragkit[bench]"' in said
    assert {Path(each).name for each in document["files"]} == {"recall.csv", "recall.json"}


def test_a_gate_judges_the_default_search_or_else_the_best_that_was_asked_for(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    common = ("bench", "recall", "--db", here / "db", "--limits", "5", "--sample", "20", "--out",
              tmp_path)  # fmt: skip
    rows = json.loads(run(*common, "--json")[0])["rows"]
    (default,) = [row["recall"] for row in rows if row["current"]]
    assert default < 0.9  # of 32 bits: else there is nothing to tell apart
    run(*common, "--fail-under", f"{default - 0.01}")
    _, said = run(*common, "--fail-under", "0.99", code=BELOW)
    assert f"limit 5: recall {default:.6f} is {0.99 - default:.6f} below 0.99" in said
    run(*common, "--fail-under", "0.99", "--oversampling", "12", "--rescore", "on")
    _, said = run(*common, "--fail-under", f"{default - 0.01}", "--rescore", "off", code=BELOW)
    assert "below" in said


def test_quantizations_of_made_up_vectors_and_of_a_file(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    common = ("bench", "quantization", "--kinds", "binary", "--limits", "5", "--sample", "10",
              "--oversampling", "2", "--out", tmp_path)  # fmt: skip
    shown, _ = run(*common, "--synthetic", "90x16")
    assert shown.startswith("Size: what a search compares with")
    assert "| binary       | 0." in shown
    document = json.loads(run(*common, "--vectors", here / "vectors.npy", "--json")[0])
    assert [row["rescore"] for row in document["rows"]] == [False, True]
    assert document["about"]["subject"]["dimensions"] == 32


def test_dimensions_of_a_collection_with_judgements_and_a_price(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    beir = here / "beir"
    shown, _ = run("bench", "dimensions", "--db", here / "db", "--dims", "16", "--queries",
                   beir / "queries.jsonl", "--qrels", beir / "qrels" / "test.tsv",
                   "--price-per-gb", "0.25", "--out", tmp_path)  # fmt: skip
    head = shown.splitlines()[1].split()
    assert head[:2] == ["dim", "overlap@10"]
    assert "nDCG@10" in head
    assert head[-2:] == ["a", "month"]
    assert [line.split()[0] for line in shown.splitlines()[3:5]] == ["32", "16"]


def test_quality_of_settings_as_typed_with_runs(here: Path, tmp_path: Path, no_plots: None) -> None:
    beir = here / "beir"
    shown, _ = run("bench", "quality", "--db", here / "db", "--queries", beir / "queries.jsonl",
                   "--qrels", beir / "qrels" / "test.tsv", "--setting", "mode=sparse",
                   "--setting", "mode=hybrid,weights=1:2,rrf_k=1", "--measures", "nDCG@5,R@5",
                   "--runs-to", tmp_path / "runs", "--out", tmp_path)  # fmt: skip
    assert shown.splitlines()[1].split() == ["setting", "nDCG@5", "Recall@5"]
    assert shown.splitlines()[3].split() == ["mode=sparse", "1.0000", "1.0000"]
    assert "Differences to 'mode=sparse', question by question" in shown
    run_file = next((tmp_path / "runs").glob("mode-sparse*.run")).read_text()
    assert run_file.split()[:3] == ["q0", "Q0", "00.md"]


def test_the_corpus_of_a_judged_folder_is_indexed_and_thrown_away(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    document = json.loads(
        run("bench", "quality", "--beir", here / "beir", "--embedder", "none", "--measures",
            "RR@10", "--out", tmp_path, "--json")[0]
    )  # fmt: skip
    (row,) = document["rows"]
    assert row["measures"] == {"RR@10": 1.0}
    assert document["about"]["subject"]["points"] == NOTES


def test_chunk_sizes_are_compared(here: Path, tmp_path: Path, no_plots: None) -> None:
    shown, _ = run("bench", "chunking", here / "spans", "--sizes", "60/10,30/0", "--embedder",
                   "none", "--out", tmp_path)  # fmt: skip
    assert [line.split()[0] for line in shown.splitlines()[3:5]] == ["60/10", "30/0"]


def test_a_report_measures_recall_where_nothing_was_measured(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    shown, _ = run("bench", "report", "--db", here / "db", "--sample", "20", "--out", tmp_path)
    assert shown.strip() == str(tmp_path / "report.html")
    assert '<h2 id="recall">' in (tmp_path / "report.html").read_text()
    before = (tmp_path / "recall.json").read_bytes()
    again = json.loads(
        run("bench", "report", "--db", here / "none", "--out", tmp_path, "--json")[0]
    )
    assert again == {"report": str(tmp_path / "report.html")}
    assert (tmp_path / "recall.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("recall", "--limits", "10,many"), "got 'many' in '10,many'"),
        (("recall", "--oversampling", "x"), "--oversampling as numbers"),
        (("recall", "--rescore", "maybe"), "--rescore both, on or off, got 'maybe'"),
        (("recall", "--sample", "5", "--queries", "q.txt"), "exclude each other"),
        (("recall", "--limits", "0"), "limit"),
        (("quantization", "--kinds", "binary,"), "--kinds as names with commas between"),
        (("quantization", "--synthetic", "90"), "VECTORSxDIMENSIONS, such as 20000x1536, got '90'"),
        (("quantization", "--synthetic", "9x9", "--vectors", "v.npy"), "exclude each other"),
        (("quantization", "--synthetic", "9x9", "--collection", "notes"), "go without"),
        (("dimensions", "--vectors", "v.npy", "--tenant", "acme"), "go without"),
        (("dimensions", "--qrels", "qrels.tsv"), "--queries and --qrels together"),
        (("quality", "--queries", "q.jsonl"), "--queries and --qrels together, or --beir"),
        (("quality", "--beir", "x", "--queries", "q.jsonl"), "exclude each other"),
        (("chunking", "spans", "--sizes", "300"), "MAX_TOKENS/OVERLAP pairs"),
    ],
)
def test_what_cannot_be_meant_is_said_in_plain_words(
    here: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    place = () if arguments[0] == "chunking" else ("--db", here / "db")
    _, complaint = run("bench", *arguments, *place, "--out", tmp_path, code=USAGE)
    assert complaint.startswith("error: ")
    assert said in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_an_error_of_one_line(here: Path, tmp_path: Path) -> None:
    shown, said = run("bench", "recall", "--db", here / "db", "--queries", tmp_path / "gone.txt",
                      "--json", code=FAILED)  # fmt: skip
    assert "gone.txt" in json.loads(shown)["error"]
    assert said.count("\n") == 1


def test_settings_are_read_by_the_types_of_the_options() -> None:
    given = [
        "mode=hybrid, fusion=dbsf",
        "oversampling=2.5,rescore=false,hnsw_ef=64",
        "weights=1:3,rrf_k=1,exact=true",
    ]
    assert list(settings_given(given).values()) == [
        {"mode": "hybrid", "fusion": "dbsf"},
        {"oversampling": 2.5, "rescore": False, "hnsw_ef": 64},
        {"weights": {"dense": 1.0, "sparse": 3.0}, "rrf_k": 1, "exact": True},
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("mode", "OPTION=VALUE"),
        ("mode=lexical", "expected mode to be dense, sparse or hybrid, got 'lexical'"),
        ("colour=red", "no search option 'colour'"),
        ("limit=ten", "expected limit to be a whole number, got 'ten'"),
        ("rescore=1", "expected rescore to be true or false, got '1'"),
        ("weights=1", "expected weights to be two numbers, as 1:3, got ''"),
        ("filter=x", "filter cannot be said in a setting"),
        ("hnsw_ef=0", "expected hnsw_ef to be a whole number from 1"),
        ("fusion=dbsf,weights=1:2", "leave one out"),
    ],
)
def test_a_wrong_setting_names_its_option(setting: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match="--setting") as caught:
        settings_given([setting])
    assert said in str(caught.value)


def test_lists_are_read_with_spaces_and_one_item() -> None:
    assert whole_numbers("--limits", "10, 20") == [10, 20]
    assert numbers("--oversampling", "1.5") == [1.5]
    assert chunk_sizes("--sizes", "300/50,250/0") == {"300/50": (300, 50), "250/0": (250, 0)}
    assert shape("--synthetic", "20000X1536") == (20000, 1536)


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    here: Path, tmp_path: Path
) -> None:
    file = tmp_path / "results"
    file.write_text("mine")
    for out in (file, file / "below"):
        _, said = run("bench", "recall", "--db", tmp_path / "none", "--out", out, code=USAGE)
        assert "--out" in said
        assert "which collection" not in said  # which comes after
    assert file.read_text() == "mine"


def test_results_that_cannot_be_written_are_shown_all_the_same(
    here: Path, tmp_path: Path, no_plots: None
) -> None:
    (tmp_path / "recall.json").mkdir()
    common = ("bench", "recall", "--db", here / "db", "--limits", "5", "--sample", "5", "--out",
              tmp_path)  # fmt: skip
    shown, said = run(*common, code=FAILED)
    assert "Each cell: recall" in shown
    assert f"not all results are in {tmp_path}" in " ".join(said.split())
    shown, _ = run(*common, "--json", code=FAILED)
    assert json.loads(shown).keys() == {"error"}
