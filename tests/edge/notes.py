"""A small database on disk, for the suites about its files."""

from __future__ import annotations

from pathlib import Path

from qdrant_client import models

from ragkit.edge import EdgeClient

_DENSE = {"dense": models.VectorParams(size=8, distance=models.Distance.COSINE)}
_SPARSE = {"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)}


def points(*ids: int) -> list[models.PointStruct]:
    return [
        models.PointStruct(
            id=n, vector={"dense": [1.0, n, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}, payload={"n": n}
        )
        for n in ids
    ]


def create(client: EdgeClient, name: str = "notes") -> None:
    client.create_collection(name, vectors_config=_DENSE, sparse_vectors_config=_SPARSE)


def shard(root: Path, name: str = "notes") -> Path:
    return root / "collections" / name / "shard"
