from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from math import log2
from pathlib import Path

import numpy as np
import pytest

from ragkit.local.minilm import is_installed

ROOT = Path(__file__).parent.parent


def run(script: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_the_demo_indexes_and_answers_three_questions(tmp_path: Path) -> None:
    shown = run("demo.py", cwd=tmp_path)
    assert "docs: 21 added" in shown
    first, second, third = shown.split("$ ragkit search ")[1:]
    assert "handbook/api-keys.md" in first
    assert "incidents/2025-01-17-expired-roots.md" in second
    assert "capacity/" in third
    again = [
        sys.executable,
        "-m",
        "ragkit",
        "index",
        os.path.relpath(ROOT / "examples/docs", tmp_path),
    ]
    assert f"$ ragkit index {again[-1]}\n" in shown
    assert (
        b"21 unchanged"
        in subprocess.run(again, cwd=tmp_path, check=True, capture_output=True).stdout
    )


def test_an_own_embedder_finds_by_its_own_meanings(tmp_path: Path) -> None:
    shown = run("own_embedder.py", cwd=tmp_path)
    assert "automobiles: The car needs new tyres. (garage.txt" in shown
    assert "animal: A walrus sleeps on the ice. (coast.txt" in shown


def test_vectors_that_are_there_already_are_indexed_and_measured(tmp_path: Path) -> None:
    rows = [{"_id": f"p{n}", "text": f"passage {n}"} for n in range(40)]
    vectors = np.random.default_rng(0).normal(size=(40, 32))
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "queries.npy", vectors[:5])
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(map(json.dumps, rows)))
    given = ("corpus.jsonl", "vectors.npy", "--quantization", "binary")
    assert "40 passages of 32 dimensions" in run("given_vectors.py", *given, cwd=tmp_path)
    command = [sys.executable, "-m", "ragkit", "bench", "recall", "--queries", "queries.npy",
               "--limits", "1", "--json"]  # fmt: skip
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    best = max(row["recall"] for row in json.loads(shown)["rows"])
    assert best == 1.0  # each query is a passage's own vector
    corpus.write_text("\n".join(json.dumps({**row, "text": "the same"}) for row in rows))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("given_vectors.py", "corpus.jsonl", "vectors.npy", cwd=tmp_path)
    assert "p1 has the text of another passage and another vector" in caught.value.stderr


@pytest.mark.parametrize("embedder", ["none", "hash"])
def test_most_of_the_example_questions_are_answered(tmp_path: Path, embedder: str) -> None:
    shown = run("judge_answers.py", "--embedder", embedder, cwd=tmp_path)
    first, top, answered = (int(n) for n in re.findall(r": (\d+)$", shown, re.MULTILINE))
    assert 34 >= top >= first >= 20
    assert answered >= 20


@pytest.mark.skipif(
    not is_installed(), reason='needs the extra "local": pip install "ragkit[local]"'
)
def test_retrieval_of_the_example_questions_is_measured(tmp_path: Path) -> None:
    settings = ['{"mode": "sparse"}', "{}", '{"limit": 1}']
    shown = run("measure_retrieval.py", "--settings", *settings, cwd=tmp_path)
    assert "examples: 34 questions" in shown
    lines = [line.split(" | ") for line in shown.splitlines() if line.startswith("| `")]
    assert [line[0].strip("|` ") for line in lines] == settings
    sparse, hybrid, one = ([float(number) for number in line[1:4]] for line in lines)
    assert min(*sparse, *hybrid) > 0.5
    assert all(less < more for less, more in zip(one, hybrid, strict=True))


def test_measures_of_a_ranking_are_those_of_the_papers() -> None:
    scores = runpy.run_path(str(ROOT / "examples" / "measure_retrieval.py"))["scores"]
    a, b, c, other = (("a.md", 0), ("a.md", 1), ("b.md", 0), ("c.md", 0))
    wanted = {a: 1.0, b: 0.5, c: 0.5}
    ndcg, recall, mrr = scores([other, a, other, b], wanted)
    best = 1 + 0.5 / log2(3) + 0.5 / log2(4)
    assert ndcg == pytest.approx((1 / log2(3) + 0.5 / log2(5)) / best)
    assert (recall, mrr) == (0.75, 0.5)
    assert scores([a, c, b], wanted) == (1.0, 1.0, 1.0)
    assert scores([other] * 10 + [a], wanted) == (0.0, 0.0, 0.0)
    assert scores([], wanted) == (0.0, 0.0, 0.0)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3  # each goes on where the one before ends
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "21 added" in shown
    assert "handbook/api-keys.md:" in shown
