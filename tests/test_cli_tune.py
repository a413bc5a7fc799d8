"""`ragkit tune`: what it prints, writes and exits with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ragkit.cli import app
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.indexer import Indexer
from ragkit.manifest import Manifest

COUNT = 80


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "db"
    with EdgeClient(folder) as client:
        docs = Collection(client, "notes", embedder=HashEmbedder(64), quantization="binary")
        Indexer(docs).add(
            Document(source=f"{n}.md", title="-", text=f"thing{n} lies on shelf {n % 9} of room{n}")
            for n in range(COUNT)
        )
        docs.set_search_defaults(limit=4)
    return folder


@pytest.fixture
def db(made: Path) -> Iterator[str]:
    """The database, as it was after every test."""
    yield str(made)
    with EdgeClient(made) as client:
        Collection(client, "notes").set_search_defaults(limit=4)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def manifest(db: str) -> Manifest:
    with EdgeClient(db) as client:
        return Collection(client, "notes").open()


def test_the_winner_is_told_and_written_and_seen_in_the_status(db: str) -> None:
    said = run("tune", "--db", db, "--sample", "80", "--target", "0.8")
    held = manifest(db)
    factor = held.search["oversampling"]
    assert held.search == {"limit": 4, "rescore": True, "oversampling": factor}
    assert "recall@10 on the half to choose by" in said
    assert "recall@10 on the held-out half of the queries" in said
    assert f"Search with oversampling {factor:g}: recall@10 0." in said
    assert "on 40 held-out queries" in said
    assert "Until now: recall 0." in said
    assert (
        f"Written to collection 'notes' as its default search: rescore=True, oversampling={factor}"
        in said
    )
    assert "before: limit=4." in said
    assert "80 of the collection's own passages" in said
    shown = run("status", "--db", db)
    assert f"notes is searched with limit=4, rescore=True, oversampling={factor}" in shown
    assert "when it had 80 chunks" in shown
    again = run("tune", "--db", db, "--sample", "80", "--target", "0.8", "--dry-run")
    assert "That is how it is searched already." in again
    assert f"Nothing was written (--dry-run): rescore=True, oversampling={factor}" in again


def test_a_dry_run_keeps_nothing_and_json_has_all(db: str) -> None:
    printed = run("tune", "--db", db, "--sample", "80", "--target", "0.8", "--dry-run", "--json")
    document: dict[str, Any] = json.loads(printed)
    assert document["collection"] == "notes"
    assert document["reached"] is True
    assert document["saved"] is False
    assert document["queries"] == 40
    assert document["before"] == {"limit": 4}
    assert document["trials"][0]["options"] == {"rescore": False}
    assert document["about"]["subject"]["points"] == COUNT
    assert manifest(db).search == {"limit": 4}


def test_a_target_that_nothing_reaches_exits_4_and_writes_only_if_told_to(db: str) -> None:
    hopeless = ("tune", "--db", db, "--sample", "80", "--budget-ms", "0.000001")
    said = run(*hopeless, code=4)
    assert "No setting reaches 0.95 within 1e-06 ms; the best is not rescored: recall@10 0." in said
    assert "Nothing was written; --anyway makes it the default all the same." in said
    assert "ragkit rebuild notes --quantization NAME" in said
    assert "too slow" in said
    assert manifest(db).search == {"limit": 4}
    assert "Written to collection" in run(*hopeless, "--anyway", code=4)
    assert manifest(db).search == {"limit": 4, "rescore": False}


def test_judgements_decide_how_words_and_meaning_are_fused(db: str, tmp_path: Path) -> None:
    pytest.importorskip("ir_measures", reason='pip install "ragkit[bench]"')
    queries, qrels = tmp_path / "queries.tsv", tmp_path / "qrels.tsv"
    queries.write_text("".join(f"q{n}\twhere is thing{n}\n" for n in range(40)))
    qrels.write_text("".join(f"q{n}\t{n}.md\t1\n" for n in range(40)))
    judged = ("--queries", str(queries), "--qrels", str(qrels))
    said = run("tune", "--db", db, "--target", "0.1", *judged)
    assert "nDCG@10 on the half to choose by" in said
    assert "hybrid dbsf" in said
    assert "hybrid 1:4" in said
    assert "40 judged queries of queries" in said
    assert manifest(db).tuned["queries"] == 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--queries", "q.txt", "--sample", "30"), "leave one out"),
        (("--qrels", "qrels.tsv"), "say which with --queries"),
        (("--target", "0"), "target above 0"),
        (("--sample", "10"), "at least 20 queries"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    made: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in run("tune", "--db", str(made), *arguments, code=2)
