from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert "21 unchanged" in run("demo.py", cwd=tmp_path)


def test_an_own_embedder_finds_by_its_own_meanings(tmp_path: Path) -> None:
    shown = run("own_embedder.py", cwd=tmp_path)
    assert "automobiles: The car needs new tyres. (garage.txt" in shown
    assert "animal: A walrus sleeps on the ice. (coast.txt" in shown


@pytest.mark.parametrize("embedder", ["none", "hash"])
def test_most_of_the_example_questions_are_answered(tmp_path: Path, embedder: str) -> None:
    shown = run("judge_answers.py", "--embedder", embedder, cwd=tmp_path)
    first, top, answered = (int(n) for n in re.findall(r": (\d+)$", shown, re.MULTILINE))
    assert 34 >= top >= first >= 20
    assert answered >= 20


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2  # the second goes on where the first ends
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "21 added" in shown
    assert "handbook/api-keys.md:" in shown
