from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from typer.testing import CliRunner

import ragkit
from ragkit.cli import app
from ragkit.cli_support import folder_name
from ragkit.embeddings import HashEmbedder

KEYS = ("QDRANT_URL", "QDRANT_API_KEY", "NO_COLOR", "GEMINI_API_KEY", "GOOGLE_API_KEY")
PROGRAM = [sys.executable, "-m", "ragkit"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with notes in it, and nothing of the caller's environment.

    Nor is the extra `local` there, as far as commands run in this process: they search by keywords.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ragkit.local.minilm.is_installed", lambda: False)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    notes = tmp_path / "notes"
    (notes / "guide").mkdir(parents=True)
    (notes / "guide" / "keys.md").write_text(
        "# Keys\n\n## Rotation\n\nRotate the keys every 90 days.\n"
    )
    (notes / "bananas.txt").write_text("Bananas are yellow.\n")
    return tmp_path


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> str:
    """Run a command in this process; returns standard output."""
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    return result.stdout


def run_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    document = json.loads(run(*arguments, "--json", code=code))
    assert isinstance(document, dict)
    return document


def test_index_then_search_from_the_current_folder(here: Path) -> None:
    shown = run("index", "notes")
    assert "notes: 2 added, 0 changed, 0 unchanged, 0 removed, 0 skipped; 2 chunks" in shown
    assert "Keyword search (BM25)" in shown
    assert (here / ".ragkit").is_dir()
    found = run("search", "how do I rotate the keys?")
    assert "1. Keys  notes/guide/keys.md:1" in found
    assert "Rotate the keys every 90 days." in found


def test_index_prints_one_json_document(here: Path) -> None:
    (here / "notes" / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    report = run_json("index", "notes", code=3)
    counts = {
        key: report[key]
        for key in ("added", "changed", "unchanged", "removed", "chunks", "embedded")
    }
    assert counts == {
        "added": 2, "changed": 0, "unchanged": 0, "removed": 0, "chunks": 2, "embedded": 0,
    }  # fmt: skip
    assert [each["source"] for each in report["skipped"]] == ["image.png"]
    assert "binary" in report["skipped"][0]["reason"]
    assert run_json("index", "notes", code=3)["unchanged"] == 2


def test_search_prints_one_json_document(here: Path) -> None:
    run("index", "notes")
    found = run_json("search", "rotating keys", "--limit", "1")
    assert found["query"] == "rotating keys"
    (hit,) = found["hits"]
    assert {"id", "score", "title", "source", "text", "start", "end", "headings", "ordinal",
            "metadata"} <= set(hit)  # fmt: skip
    assert (hit["title"], hit["source"]) == ("Keys", "guide/keys.md")
    assert (here / "notes" / hit["source"]).read_text()[hit["start"] : hit["end"]] == hit["text"]


def test_status_prints_a_table_and_one_json_document(here: Path) -> None:
    assert "holds no collection yet" in run("status")
    run("index", "notes")
    (collection,) = run_json("status")["collections"]
    assert (collection["name"], collection["documents"], collection["chunks"]) == ("notes", 2, 2)
    table = run("status")
    assert "none (keyword search)" in table
    assert "MB" in table


def test_a_dry_run_writes_nothing(here: Path) -> None:
    shown = run("index", "notes", "--dry-run")
    assert "2 to add" in shown
    assert "+ guide/keys.md" in shown
    plan = run_json("index", "notes", "--dry-run")
    assert plan["added"] == ["bananas.txt", "guide/keys.md"]
    assert run_json("status")["collections"] == []


def test_an_embedder_once_chosen_is_used_again_without_asking(here: Path) -> None:
    first = run_json(
        "index", "notes", "--embedder", "hash", "--dim", "64", "--quantization", "binary"
    )
    assert first["embedded"] == 2
    (here / "notes" / "new.txt").write_text("A walrus.")
    again = run_json("index", "notes")
    assert (again["added"], again["embedded"]) == (1, 1)
    assert run_json("search", "walrus", "--mode", "dense")["hits"][0]["source"] == "new.txt"
    (collection,) = run_json("status")["collections"]
    assert (collection["embedder"], collection["quantization"]) == ("hash-v1 dim=64", "binary")


def test_a_collection_of_a_foreign_embedder_is_searched_by_keywords_and_says_so(here: Path) -> None:
    class Foreign(HashEmbedder):
        fingerprint = "foreign-model dim=32"

    with ragkit.EdgeClient(".ragkit") as client:
        docs = ragkit.Collection(client, "notes", embedder=Foreign(32))
        ragkit.Indexer(docs).sync("notes")
    result = CliRunner().invoke(app, ["search", "rotate keys", "--json"])
    assert "vectors are of foreign-model dim=32" in result.stderr
    assert json.loads(result.stdout)["hits"][0]["source"] == "guide/keys.md"


def test_another_embedder_than_before_is_refused(here: Path) -> None:
    run("index", "notes")
    error = run_json("index", "notes", "--embedder", "hash", code=1)["error"]
    assert "holds BM25 vectors alone" in error
    assert "ragkit rebuild notes" in error


def test_chunk_settings_are_kept_until_others_are_given(here: Path) -> None:
    run("index", "notes", "--max-tokens", "99", "--overlap", "9")
    assert run_json("index", "notes")["unchanged"] == 2
    changed = run_json("index", "notes", "--max-tokens", "98")
    assert changed["changed"] == 2
    assert "overlap=9" in changed["notes"][0]


def test_remove_takes_what_search_shows(here: Path) -> None:
    run("index", "notes")
    assert "1 removed" in run("remove", "notes/guide/keys.md", "--yes")
    assert "1 removed" in run("remove", "bananas.txt", "--yes")
    assert run_json("status")["collections"][0]["documents"] == 0
    assert run_json("index", "notes")["added"] == 2


def test_remove_of_an_unknown_document_is_an_error(here: Path) -> None:
    run("index", "notes")
    run("remove", "nothing.txt", "--yes", code=2)


def test_drop_asks_first(here: Path) -> None:
    run("index", "notes")
    run("drop", "notes", code=2)  # nobody there to ask
    assert run_json("status")["collections"] != []
    assert "deleted" in run("drop", "notes", "--yes")
    assert run_json("status")["collections"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["index", "nowhere"], 1, "nowhere"),
        (["index", "notes/bananas.txt"], 1, "bananas.txt"),
        (["index", "empty"], 1, "no files to index"),
        (["index", "notes", "--quantization", "magic"], 2, "expected a quantization"),
        (["index", "notes", "--embedder", "magic"], 2, "--embedder"),
        (["index", "notes", "--dim", "64"], 2, "--dim goes with"),
        (["index", "notes", "--language", "klingon"], 2, "klingon"),
        (["index", "notes", "--overlap", "9000"], 2, "overlap"),
        (["index"], 2, "Missing argument"),
        (["search", "keys"], 2, "ragkit index FOLDER"),
        (["search", "keys", "--collection", "none"], 2, "no collection 'none'"),
        (["search", "keys", "--limit", "0"], 2, "limit"),
        (["drop", "none", "--yes"], 2, "no collection 'none'"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_bad_usage_is_one_clear_line_and_its_exit_code(
    here: Path, arguments: list[str], code: int, message: str
) -> None:
    (here / "empty").mkdir()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_blank_query_is_bad_usage(here: Path) -> None:
    run("index", "notes")
    result = CliRunner().invoke(app, ["search", "  "])
    assert (result.exit_code, "blank" in result.stderr) == (2, True)


def test_several_collections_must_be_named(here: Path) -> None:
    run("index", "notes")
    run("index", "notes", "--collection", "second")
    result = CliRunner().invoke(app, ["search", "keys"])
    assert result.exit_code == 2
    assert "notes, second" in result.stderr
    assert run_json("search", "keys", "--collection", "second")["hits"]


def test_the_database_may_lie_in_the_folder_that_it_indexes(here: Path) -> None:
    report = run_json("index", "notes", "--db", "notes/database")
    assert report["added"] == 2
    again = run_json("index", "notes", "--db", "notes/database")
    assert (again["added"], again["unchanged"], again["skipped"]) == (0, 2, [])


def test_names_that_would_break_the_screen_are_escaped(here: Path) -> None:
    (here / "notes" / "two\nlines \x1b[31m.txt").write_text("A walrus [bold]here[/bold].")
    run("index", "notes")
    found = run("search", "walrus")
    assert "two\\nlines \\x1b[31m.txt" in found
    assert "\x1b" not in found
    assert "A walrus [bold]here[/bold]." in found


def test_a_folder_name_becomes_a_collection_name(tmp_path: Path) -> None:
    assert folder_name(tmp_path / "My notes") == "My notes"
    assert folder_name(tmp_path / 'a:b*c?"d|<e>') == "a-b-c--d--e-"
    assert folder_name(Path("/")) == "documents"


def on_a_terminal(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run a command on a pseudo-terminal and return all that it drew."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **(environment or {})},
    )
    os.close(slave)
    drawn = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        drawn += part
    process.wait()
    os.close(master)
    return drawn.decode()


def test_on_a_terminal_the_words_of_the_query_are_marked(here: Path) -> None:
    run("index", "notes")
    drawn = on_a_terminal("search", "rotating a key")
    assert "\x1b[1;33mRotate\x1b[0m the \x1b[1;33mkeys\x1b[0m" in drawn


def test_no_color_is_obeyed(here: Path) -> None:
    run("index", "notes")
    drawn = on_a_terminal("search", "rotating a key", environment={"NO_COLOR": "1"})
    assert "Rotate the keys" in drawn
    assert "\x1b[" not in drawn


def test_a_pipe_gets_plain_lines(here: Path) -> None:
    indexed = subprocess.run(
        [*PROGRAM, "index", "notes", "--embedder", "none"], capture_output=True, check=True
    )
    assert b"\x1b" not in indexed.stdout + indexed.stderr
    assert b"2 added" in indexed.stdout


def test_ctrl_c_ends_cleanly_and_keeps_what_was_committed(here: Path) -> None:
    for n in range(1000):
        (here / "notes" / f"{n}.txt").write_text(f"File {n}. " + "word " * 1500)
    # The program as it is, but for a line of progress after each batch, not every five seconds.
    program = (
        "import ragkit.cli, ragkit.console\n"
        "ragkit.console._PLAIN_EVERY_S = 0.0\n"
        "ragkit.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "index", "notes", "--embedder", "none"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "documents committed" in line and ", 0 documents committed" not in line:
                break
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted; what was committed is kept" in errors
    assert "Traceback" not in errors
    report = run_json("index", "notes")
    assert report["unchanged"] > 0
    assert report["unchanged"] + report["added"] == 1002


def test_a_second_process_is_told_who_holds_the_database(here: Path) -> None:
    run("index", "notes")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import ragkit, sys\n"
            "client = ragkit.connect('.ragkit')\n"
            "client.count('notes')\n"
            "print('open', flush=True)\n"
            "sys.stdin.read()\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    try:
        error = run_json("index", "notes", code=1)["error"]
    finally:
        holder.communicate()
    assert str(holder.pid) in error
    assert run_json("index", "notes")["unchanged"] == 2


def test_remove_takes_the_document_that_search_shows(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "notes" / "a.md").write_text("A zebra here.")
    (here / "notes" / "sub").mkdir()
    (here / "notes" / "sub" / "a.md").write_text("A walrus there.")
    run("index", "notes", "--db", str(here / "db"))
    monkeypatch.chdir(here / "notes" / "sub")
    assert "../a.md:1" in run("search", "zebra", "--db", str(here / "db"))
    result = CliRunner().invoke(app, ["remove", "a.md", "--yes", "--db", str(here / "db")])
    assert result.exit_code == 2
    assert "could be" in result.stderr
    run("remove", "../a.md", "--yes", "--db", str(here / "db"))
    assert "walrus" in run("search", "walrus", "--db", str(here / "db"))
    assert "Nothing found" in run("search", "zebra", "--db", str(here / "db"))


def test_remove_takes_from_one_folder_of_several(here: Path) -> None:
    for name in ("a", "b"):
        (here / name).mkdir()
        (here / name / "readme.md").write_text(f"A walrus in {name}.")
        run("index", name, "--collection", "k")
    run("remove", "readme.md", "--yes", code=2)
    run("remove", "b/readme.md", "--yes")
    assert [hit["text"] for hit in run_json("search", "walrus")["hits"]] == ["A walrus in a."]


def test_a_collection_that_is_not_ragkits_hides_no_other(here: Path) -> None:
    run("index", "notes")
    with ragkit.EdgeClient(".ragkit") as client:
        size = models.VectorParams(size=4, distance=models.Distance.DOT)
        client.create_collection("foreign", vectors_config=size)
    status = run_json("status")
    assert [each["name"] for each in status["collections"]] == ["notes"]
    assert "not made by ragkit" in status["others"][0]["error"]
    assert "foreign" in run("status")
    assert run_json("search", "rotate keys")["hits"]


def test_a_passage_cannot_steer_the_terminal(here: Path) -> None:
    (here / "notes" / "evil.txt").write_text("A walrus \x1b]0;pwned\x07\x1b[2J here.")
    run("index", "notes")
    shown = on_a_terminal("search", "walrus")
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown


def test_output_that_cannot_be_written_is_no_traceback(here: Path) -> None:
    run("index", "notes")
    with Path("/dev/full").open("w") as full:
        failed = subprocess.run(
            [*PROGRAM, "search", "keys", "--json"], stdout=full, stderr=subprocess.PIPE
        )
    assert failed.returncode != 0
    assert b"Traceback" not in failed.stderr


def test_usage_errors_are_json_too(here: Path) -> None:
    assert "ragkit index FOLDER" in run_json("search", "hi", code=2)["error"]
    run("index", "notes")
    assert "no document 'nope'" in run_json("remove", "nope", "--yes", code=2)["error"]


def test_a_name_that_is_not_utf_8_is_refused_in_words(here: Path) -> None:
    run("index", "notes")
    command = [os.fsencode(part) for part in [*PROGRAM, "search"]]
    failed = subprocess.run([*command, b"caf\xe9"], capture_output=True)
    assert failed.returncode == 2
    assert b"not UTF-8" in failed.stderr
