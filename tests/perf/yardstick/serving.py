"""Runs one contender for the driver: `python -m perf.yardstick.serving MODULE.CLASS FOLDER`.

Requests and answers are lines of JSON. What a library prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from perf.yardstick.contender import Contender


def main(kind: str, folder: str) -> None:
    """Answer requests until the driver closes the pipe."""
    warnings.simplefilter("ignore")  # qdrant-client's local mode warns of its own size
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    module, _, name = kind.rpartition(".")
    found = importlib.import_module(f"perf.yardstick.{module}")  # imports what has to be there
    try:
        contender: Contender = getattr(found, name)(Path(folder))
    except ImportError as exc:
        print(json.dumps({"missing": str(exc)}), file=answers)
        return
    print(json.dumps({"versions": dict(contender.versions)}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(contender, json.loads(line))), file=answers)


def answer(contender: Contender, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request of the driver, and time it."""
    if request["do"] == "build":
        started = time.perf_counter()
        contender.build(request["count"])
        return {"seconds": time.perf_counter() - started}
    seconds, found = [], []
    for query in request["queries"]:
        started = time.perf_counter()
        hits = contender.search(query)
        seconds.append(time.perf_counter() - started)
        found.append([int(row) for row in contender.rows(hits)])
    return {"seconds": seconds, "found": found}


if __name__ == "__main__":
    main(*sys.argv[1:])
