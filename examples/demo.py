"""Index the documents beside this script with the command line and ask three questions."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

DOCUMENTS = Path(__file__).parent / "docs"
QUESTIONS = (
    "how do I rotate the keys?",
    "what happened when the certificates expired?",
    "how many deliveries per second can one worker make?",
)


def ragkit(*arguments: str) -> None:
    """Show a command, then run it."""
    print(f"$ ragkit {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "ragkit", *arguments], check=True)  # noqa: S603
    print(flush=True)


def main() -> None:
    """Index, then ask; the collection stays in .ragkit for questions of your own."""
    ragkit("index", os.path.relpath(DOCUMENTS))
    for question in QUESTIONS:
        ragkit("search", question, "--collection", "docs", "--limit", "2")
    program = Path(sys.executable).parent / "ragkit"
    print(f'Now ask your own: {os.path.relpath(program)} search "..."')


if __name__ == "__main__":
    main()
