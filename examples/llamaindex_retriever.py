"""A ragkit collection as a LlamaIndex retriever: pip install "ragkit[llamaindex]"."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ragkit
from ragkit.integrations.llamaindex import RagkitRetriever


def main() -> None:
    """Ask one question; the retriever goes into any query engine in the same way."""
    with tempfile.TemporaryDirectory() as folder, ragkit.EdgeClient(folder) as client:
        docs = ragkit.Collection(client, "docs")
        ragkit.Indexer(docs).sync(Path(__file__).parent / "docs")
        retriever = RagkitRetriever(ragkit.Retriever(docs), limit=3, context=1)
        for node in retriever.retrieve("how do I rotate the keys?"):
            print(f"{node.metadata['citation']} ({node.score:.2f})\n{node.text}\n")


if __name__ == "__main__":
    main()
