"""Ask the 34 questions of questions.jsonl and count how often the right passage comes up.

python examples/judge_answers.py [--embedder hash]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import ragkit

HERE = Path(__file__).parent


def main() -> None:
    """Index the example documents, ask, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedder", choices=["none", "hash"], default="none")
    embedder = ragkit.HashEmbedder() if parser.parse_args().embedder == "hash" else None
    questions = [json.loads(line) for line in (HERE / "questions.jsonl").open()]
    first = top = answered = 0
    with tempfile.TemporaryDirectory() as folder, ragkit.EdgeClient(folder) as client:
        docs = ragkit.Collection(client, "docs", embedder=embedder)
        ragkit.Indexer(docs).sync(HERE / "docs")
        for question in questions:
            hits = ragkit.Retriever(docs).search(question["text"], limit=5)
            sources = [hit.source for hit in hits]
            first += sources[:1] == [question["source"]]
            top += question["source"] in sources
            answered += any(question["answer"] in hit.text for hit in hits)
    print(f"of {len(questions)} questions, with {embedder or 'keywords alone'}:")
    print(f"  the right document first: {first}")
    print(f"  the right document among five passages: {top}")
    print(f"  the very words of the answer among five passages: {answered}")


if __name__ == "__main__":
    main()
