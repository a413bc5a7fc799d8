"""The command line with Gemini, against the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gemini_server import GeminiServer, faults
from typer.testing import CliRunner

from ragkit.cli import app


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, server: GeminiServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with notes, and a key in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("QDRANT_URL", "QDRANT_API_KEY", "NO_COLOR", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", server.key)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "keys.md").write_text("# Server\n\n## Keys\n\nRotate the keys every 90 days.\n")
    (notes / "bananas.txt").write_text("Bananas are yellow.\n")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def run_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    document = json.loads(run(*arguments, "--json", code=code))
    assert isinstance(document, dict)
    return document


def test_with_a_key_a_folder_is_embedded_by_gemini(here: Path, server: GeminiServer) -> None:
    report = run_json("index", "notes")
    assert (report["added"], report["embedded"]) == (2, 2)
    assert report["usage"]["texts"] == 2
    assert report["usage"]["cost_usd"] > 0
    (call,) = server.embed_calls
    assert sorted(request["title"] for request in call.requests) == ["Server > Keys", "bananas"]
    assert {request["taskType"] for request in call.requests} == {"RETRIEVAL_DOCUMENT"}
    (collection,) = run_json("status")["collections"]
    assert collection["embedder"].startswith("gemini-embedding-001 dim=768")
    found = run_json("search", "how do I rotate the keys?")
    assert found["hits"][0]["source"] == "keys.md"
    assert server.embed_calls[-1].requests[0]["taskType"] == "RETRIEVAL_QUERY"


def test_the_summary_tells_tokens_calls_and_cost(here: Path) -> None:
    shown = run("index", "notes")
    assert "2 texts embedded" in shown
    assert "1 calls; about $0.0000" in shown
    assert "Keyword search" not in shown


def test_a_dry_run_forecasts_time_and_cost_and_calls_nobody(
    here: Path, server: GeminiServer
) -> None:
    shown = run("index", "notes", "--dry-run", "--rpm", "1")
    assert "embedding takes 2.0 minutes at the least by the quota and costs about $" in shown
    plan = run_json("index", "notes", "--dry-run")
    assert plan["to_embed"] == 2
    assert plan["forecast"]["cost_usd"] > 0
    assert server.calls == []


def test_the_other_model_gets_prefixes(here: Path, server: GeminiServer) -> None:
    run("index", "notes", "--model", "gemini-embedding-2", "--dim", "1536")
    texts = {text for call in server.embed_calls for text in call.texts}
    assert "title: bananas | text: Bananas are yellow." in texts
    run("search", "rotate the keys")
    assert server.embed_calls[-1].texts == ["task: search result | query: rotate the keys"]


def test_another_model_than_the_collections_is_refused_before_any_call(
    here: Path, server: GeminiServer
) -> None:
    run("index", "notes")
    calls = len(server.calls)
    error = run_json("index", "notes", "--model", "gemini-embedding-2", code=1)["error"]
    assert "768-d vectors of gemini-embedding-001" in error
    assert len(server.calls) == calls


def test_without_a_key_the_search_says_so_and_shows_a_way(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", "notes")
    monkeypatch.delenv("GEMINI_API_KEY")
    error = run_json("search", "rotate the keys", code=1)["error"]
    assert "GEMINI_API_KEY" in error
    assert "--mode sparse" in error
    assert run_json("search", "rotate the keys", "--mode", "sparse")["hits"]


def test_a_day_quota_stops_the_run_and_a_later_one_goes_on(
    here: Path, server: GeminiServer
) -> None:
    run("index", "notes")
    for n in range(150):
        (here / "notes" / f"{n}.txt").write_text(f"Note {n} about thing{n}.")
    embed = [0]

    def second_call(call: Any) -> bool:
        embed[0] += 1
        return embed[0] > 1

    server.fail_when(second_call, faults.day_quota())
    error = run_json("index", "notes", code=1)["error"]
    assert "run again to go on" in error
    assert server.key not in error
    paid = sum(len(call.texts) for call in server.embed_calls if call.status == 200)
    server.heal()
    report = run_json("index", "notes")
    assert report["embedded"] == 152 - paid
    assert run_json("status")["collections"][0]["documents"] == 152


def test_a_batch_is_collected_by_another_process(here: Path, server: GeminiServer) -> None:
    job = run_json("batch", "submit", "notes")["job"]
    assert sum(part["requests"] for part in job["parts"]) == 2
    assert server.key not in json.dumps(job)
    assert "nothing new has to be embedded; under way" in run("batch", "submit", "notes")
    assert job["id"] in run("batch", "status")
    server.batches.advance()
    server.batches.advance()
    command = [sys.executable, "-m", "ragkit", "batch", "collect", "--wait", "--json"]
    collected = subprocess.run(command, capture_output=True, text=True, check=True)
    (report,) = json.loads(collected.stdout)["reports"]
    assert (report["collected"], report["waiting"], report["failed"]) == (2, 0, [])
    assert report["index"]["added"] == 2
    assert run_json("search", "rotate the keys")["hits"][0]["source"] == "keys.md"
    assert "no job is open" in run("batch", "status")
    assert run_json("index", "notes")["unchanged"] == 2


def test_a_batch_can_be_cancelled(here: Path, server: GeminiServer) -> None:
    job = run_json("batch", "submit", "notes")["job"]
    assert "cancelled" in run("batch", "cancel", job["id"])
    assert "no job is open" in run("batch", "collect")


def test_editing_one_file_of_five_hundred_embeds_its_changed_chunks_alone(
    here: Path, server: GeminiServer
) -> None:
    for n in range(500):
        (here / "notes" / f"{n}.md").write_text(
            f"# Note {n}\n\n## First\n\n{'About one thing. ' * 60}\n\n## Second\n\nThing {n}.\n"
            + "And more of it. " * 60
        )
    assert run_json("index", "notes", "--rpm", "1e6", "--tpm", "1e9")["added"] == 502
    calls = len(server.embed_calls)
    edited = here / "notes" / "123.md"
    edited.write_text(edited.read_text().replace("Thing 123.", "Whale 123."))
    report = run_json("index", "notes")
    assert (report["changed"], report["unchanged"]) == (1, 501)
    (call,) = server.embed_calls[calls:]
    # The edited words stand in two chunks: their own, and the overlap of the next.
    assert len(call.texts) == 2
    assert all("Whale 123." in text for text in call.texts)
    assert (report["embedded"], report["reused"]) == (2, report["chunks"] - 2)


def test_a_batch_that_cannot_be_collected_can_be_given_up(here: Path, server: GeminiServer) -> None:
    job = run_json("batch", "submit", "notes")["job"]
    server.batches.advance()
    server.batches.advance()
    (here / "notes").rename(here / "elsewhere")
    failed = run_json("batch", "collect", code=1)
    assert "no such folder" in failed["errors"][0]
    assert job["id"] in failed["errors"][0]
    run("batch", "cancel", job["id"])
    assert "no job is open" in run("batch", "collect")
