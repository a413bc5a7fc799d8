from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from qdrant_client import models
from typer.testing import CliRunner

from ragkit.cli_doctor import doctor
from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.indexer import Indexer
from ragkit.schema import point_id

app = typer.Typer()
app.command()(doctor)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a database of one collection, and nothing of the caller's."""
    monkeypatch.chdir(tmp_path)
    for name in ("QDRANT_URL", "QDRANT_API_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "keys.md").write_text("# Keys\n\nRotate the keys every 90 days.\n")
    (notes / "long.txt").write_text("\n\n".join(f"Part {n} " + "of it. " * 200 for n in range(9)))
    with EdgeClient(tmp_path / ".ragkit") as edge:
        Indexer(Collection(edge, "notes", embedder=HashEmbedder(32))).sync(notes)
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def run_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    document = json.loads(run(*arguments, "--json", code=code))
    assert isinstance(document, dict)
    return document


def damage(here: Path) -> None:
    """Take a chunk and an index away, and add a point of somebody else's."""
    with EdgeClient(here / ".ragkit") as edge:
        edge.delete("notes", [point_id((here / "notes").as_posix(), "long.txt", 1)])
        edge.delete_payload_index("notes", "source")


def add_foreign_point(here: Path) -> None:
    with EdgeClient(here / ".ragkit") as edge:
        edge.upsert("notes", [models.PointStruct(id=7, vector={}, payload={"text": "mine"})])


def test_a_healthy_database_is_said_to_be_so(here: Path) -> None:
    shown = run()
    assert "notes (notes.v1)" in shown
    assert "fine     versions, manifest, vector settings, payload indexes" in shown
    assert "; 2 documents, " in shown
    assert "of their vectors looked at" in shown
    assert shown.endswith("nothing is wrong\n")


def test_what_is_wrong_is_shown_with_its_remedy(here: Path) -> None:
    damage(here)
    shown = run(code=1)
    assert "error    payload indexes are missing: source" in shown
    assert (
        f"error    1 document of {here / 'notes'} not as the commit record says: long.txt" in shown
    )
    assert "→ ragkit doctor --collection notes --fix" in shown
    assert shown.endswith("2 errors; --fix can mend 2\n")


def test_fix_mends_looks_again_and_says_what_it_did(here: Path) -> None:
    damage(here)
    shown = run("--fix")
    assert "mended   created the keyword index on 'source'" in shown
    assert f"mended   indexed 1 document of {here / 'notes'} again" in shown
    assert shown.endswith("nothing is wrong\n")
    assert "mended" not in run("--fix")


def test_what_fix_cannot_mend_is_left_and_told(here: Path) -> None:
    damage(here)
    add_foreign_point(here)
    shown = run("--fix", code=1)
    assert "mended   created" in shown
    assert "warning  1 point not made by ragkit, or changed since: 7" in shown
    assert shown.endswith("1 warning\n")


def test_a_file_that_cannot_be_read_again_is_said_not_to_be_done(here: Path) -> None:
    damage(here)
    (here / "notes" / "long.txt").write_bytes(b"\x00\x01\x02" * 100)
    shown = run("--fix", code=1)
    assert "not done left as they are: long.txt (binary file)" in shown
    assert "error    1 document" in shown


def test_one_json_document_is_printed(here: Path) -> None:
    damage(here)
    document = run_json("--full", code=1)
    assert document["database"] == ".ragkit"
    (notes,) = document["collections"]
    assert (notes["name"], notes["version"], notes["healthy"]) == ("notes", "notes.v1", False)
    assert notes["vectors"] == notes["points"] > 2
    assert {each["kind"] for each in notes["findings"]} == {"incomplete", "index"}
    assert notes["findings"][0]["severity"] == "error"
    (fixed,) = run_json("--fix")["collections"]
    assert (fixed["healthy"], fixed["findings"]) == (True, [])
    assert all(repair["done"] for repair in fixed["repairs"])


def test_notes_are_no_failure(here: Path) -> None:
    with EdgeClient(here / ".ragkit") as edge:
        docs = Collection(edge, "notes", embedder=HashEmbedder(32))
        manifest = docs.open()
        edge.update_collection(
            "notes", metadata={"ragkit": {**manifest.to_metadata()["ragkit"], "avg_len": 1.0}}
        )
    assert "note     passages have" in run()


def test_a_collection_can_be_named(here: Path) -> None:
    assert "notes" in run("--collection", "notes")
    result = CliRunner().invoke(app, ["--collection", "nope"])
    assert result.exit_code == 2
    assert "no collection 'nope': there are notes" in result.stderr


def test_collections_of_others_are_not_examined_unless_named(here: Path) -> None:
    with EdgeClient(here / ".ragkit") as edge:
        vector = models.VectorParams(size=4, distance=models.Distance.COSINE)
        edge.create_collection("theirs", vectors_config=vector)
    assert "not made by ragkit, and not looked at: theirs" in run()
    assert run_json()["others"] == ["theirs"]
    assert "its metadata has no manifest" in run("--collection", "theirs", code=1)


def test_an_empty_database_is_no_failure(tmp_path: Path) -> None:
    assert "holds no collection that ragkit made" in run("--db", str(tmp_path / "new"))


def test_an_empty_version_under_no_name_is_dropped(here: Path) -> None:
    with EdgeClient(here / ".ragkit") as edge:
        docs = Collection(edge, "notes")
        manifest = docs.open()
        docs.drop()
        docs.create_version(manifest)
    assert "warning  'notes.v1' is empty" in run(code=1)
    assert "mended   dropped the empty 'notes.v1'" in run("--fix")
    assert "holds no collection" in run()


def test_a_damaged_collection_does_not_stop_the_examination_of_others(here: Path) -> None:
    with EdgeClient(here / ".ragkit") as edge:
        Indexer(Collection(edge, "other")).sync(here / "notes")
    victim = next((here / ".ragkit").rglob("segment.json"))
    victim.write_text("{")
    shown = run(code=1)
    assert "nothing is wrong" not in shown
    assert {"notes (notes.v1)", "other (other.v1)"} <= set(shown.splitlines())
    assert "error    " in shown
    assert "fine     " in shown
