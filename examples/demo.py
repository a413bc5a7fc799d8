"""Index the example documents with the command line and ask three questions."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCUMENTS = Path(__file__).parent / "docs"
QUESTIONS = (
    "how do I rotate the keys?",
    "QUESTION-2",
    "QUESTION-3",
)


def ragkit(*arguments: str) -> None:
    """Show a command, then run it."""
    print(f"$ ragkit {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "ragkit", *arguments]
    subprocess.run(command, check=True)  # noqa: S603
    print()


def main() -> None:
    """Index, then ask."""
    with tempfile.TemporaryDirectory(prefix="ragkit-demo-") as database:
        ragkit("index", str(DOCUMENTS), "--db", database)
        for question in QUESTIONS:
            ragkit("search", question, "--db", database, "--limit", "2")


if __name__ == "__main__":
    main()
