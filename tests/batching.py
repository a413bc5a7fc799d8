"""What the tests of batch jobs share: a folder, a collection at the stand-in, and looks at both."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from gemini_server import BatchFaults, GeminiServer
from google import genai
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.gemini.batch import GeminiBatch
from ragkit.gemini.embedder import GeminiEmbedder

DIM = 768
TITLED = "gemini-embedding-001"
PREFIXED = "gemini-embedding-2"


def notes(parent: Path) -> Path:
    """A folder of three documents, one of them long."""
    root = parent / "notes"
    (root / "guide").mkdir(parents=True)
    (root / "guide" / "keys.md").write_text("# Keys\n\n## Rotation\n\nEvery 90 days.\n")
    (root / "bananas.txt").write_text("Bananas are yellow and grow in the tropics.\n")
    (root / "long.txt").write_text(paragraphs(range(30)))
    return root


def begin(store: QdrantBase, server: GeminiServer, model: str = TITLED) -> GeminiBatch:
    """As a new process would: nothing is known but what is on disk."""
    return GeminiBatch(collection(store, server, model), poll_s=0.01)


def collection(store: QdrantBase, server: GeminiServer, model: str = TITLED) -> Collection:
    client = sdk(server.url, server.key)
    embedder = GeminiEmbedder(model, DIM, client=client, rpm=1e9, tpm=1e12)
    return Collection(store, "notes", embedder=embedder)


@cache
def sdk(url: str, key: str) -> genai.Client:
    return genai.Client(api_key=key, http_options={"base_url": url, "api_version": "v1"})


def paragraphs(numbers: range) -> str:
    return "\n\n".join(f"Paragraph {n} " + f"tells of thing{n} at length. " * 12 for n in numbers)


def end(server: GeminiServer, **wrong: Any) -> None:
    server.batches.faults = BatchFaults(**wrong)
    server.advance("RUNNING")
    server.advance()


def stored(store: QdrantBase, name: str = "notes") -> dict[str, Any]:
    records, _ = store.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    return {str(record.id): record for record in records}


def sent(server: GeminiServer) -> list[dict[str, Any]]:
    """The requests of all jobs, as the service has them."""
    return [line.request for job in server.batches.jobs.values() for line in job.lines]


def keys(server: GeminiServer) -> list[str]:
    return [line.tag["key"] for job in server.batches.jobs.values() for line in job.lines]


def state_files(store: EdgeClient, pattern: str = "*") -> list[Path]:
    return [path for path in (store.path / "batches").rglob(pattern) if path.is_file()]
