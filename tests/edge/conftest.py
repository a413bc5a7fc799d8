"""What the suites on the embedded engine and the server share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import notes
import pytest
from books import POINTS, create
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.edge import EdgeClient


@pytest.fixture(params=["edge", pytest.param("server-rest", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]) -> QdrantBase:
    """The embedded engine, and the server that it is to be like: over REST, whose errors it has."""
    return open_store(request.param)


@pytest.fixture
def books(client: QdrantBase) -> QdrantBase:
    """Ten points, with indexes on `kind` and `rank`."""
    create(client)
    client.create_payload_index("books", "kind", field_schema=models.PayloadSchemaType.KEYWORD)
    client.create_payload_index("books", "rank", field_schema="integer")
    client.upsert("books", POINTS)
    return client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A closed database with the collection `notes` of 30 points."""
    folder = tmp_path / "db"
    with EdgeClient(folder) as client:
        notes.create(client)
        client.upsert("notes", notes.points(*range(30)))
    return folder
