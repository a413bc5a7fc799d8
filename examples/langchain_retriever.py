"""A ragkit collection as a LangChain retriever: pip install "ragkit[langchain]"."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ragkit
from ragkit.integrations.langchain import RagkitRetriever


def main() -> None:
    """Ask one question; the retriever goes into any chain in the same way."""
    with tempfile.TemporaryDirectory() as folder, ragkit.EdgeClient(folder) as client:
        docs = ragkit.Collection(client, "docs")
        ragkit.Indexer(docs).sync(Path(__file__).parent / "docs")
        retriever = RagkitRetriever(retriever=ragkit.Retriever(docs), k=3)
        for document in retriever.invoke("how do I rotate the keys?", context=1):
            print(f"{document.metadata['citation']}\n{document.page_content}\n")


if __name__ == "__main__":
    main()
