"""What is searched in the tests of searching, and the stores that it is in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from qdrant_client.client_base import QdrantBase
from servers import Server, opened, tidied

from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder

WIRES = [
    "rest",
    "grpc",
    pytest.param("server-rest", marks=pytest.mark.server),
    pytest.param("server-grpc", marks=pytest.mark.server),
]
STORES = ["edge", *WIRES]

EMBEDDER = HashEmbedder(64)
WORDS = [
    "walrus",
    "tusk",
    "sea",
    "ice",
    "key",
    "door",
    "house",
    "rotate",
    "lock",
    "banana",
    "yellow",
    "peel",
    "ninety",
    "days",
]
_dice = random.Random(3)
# Of many lengths and mixtures, so that no two score the same.
DOCUMENTS = [
    Document(
        source=f"{n:02}.md",
        title=WORDS[n % len(WORDS)],
        text=" ".join(_dice.choices(WORDS, k=9 + 3 * n)) + f" number{n}",
        metadata={
            "year": 2000 + n % 4,
            "lang": ("en", "de", "fr")[n % 3],
            "tags": [f"t{n % 2}", f"u{n % 5}"],
        },
    )
    for n in range(40)
]


@contextmanager
def store(request: pytest.FixtureRequest) -> Iterator[QdrantBase]:
    """The store that the fixture is asked for, as `client` has it, for a fixture of a module."""
    where, _, protocol = request.param.rpartition("-")
    if protocol == "edge":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("edge")
        with EdgeClient(folder) as edge:
            yield edge
        return
    server: Server = request.getfixturevalue(where or "standin")
    with opened(server, prefer_grpc=protocol == "grpc") as client, tidied(client):
        yield client
