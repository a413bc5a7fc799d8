"""A server's optimizer: waiting for it, and holding it back during a large load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.delivery import WRITING, deliver
from ragkit.errors import CollectionError

_POLL_S = 1.0
# The server takes up changed settings some moments after it has answered: one green light may be
# that of before.
_GREENS = 3

_HELD = models.OptimizersConfigDiff(max_optimization_threads=0)
_FREE = models.OptimizersConfigDiff(
    max_optimization_threads=models.MaxOptimizationThreadsSetting.AUTO
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexing:
    """How far a server has come with indexing.

    Attributes:
        indexed: Vectors in an index so far, dense and sparse ones.
        points: Points in the collection. Small segments stay unindexed, so `indexed` need not
            reach any number for the server to be done.
        status: The server's word for the collection's state: "yellow" while it works.
    """

    indexed: int
    points: int
    status: str


IndexingCallback: TypeAlias = Callable[[Indexing], None]


def wait_until_indexed(
    client: QdrantBase,
    name: str,
    *,
    progress: IndexingCallback | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when a server's optimizer has nothing left to do.

    Args:
        client: The server.
        name: The collection, or an alias of it.
        progress: Called about once a second.
        sleep: How to wait.

    Raises:
        CollectionError: The optimizer has failed; the server's reason is in it.
    """
    greens = 0
    while greens < _GREENS:
        info = deliver(lambda: client.get_collection(name), what=f"reading collection {name!r}")
        check_optimizer(info, name)
        if is_held_back(info.config):
            raise CollectionError(
                f"the optimizer of collection {name!r} is held back by a bulk load: wait for that, "
                'or let go what a killed one left ("ragkit doctor --fix")'
            )
        if progress is not None:
            progress(_state(info))
        greens = greens + 1 if info.status is models.CollectionStatus.GREEN else 0
        if info.status is models.CollectionStatus.GREY:
            # After a restart the optimizer waits for any update; an empty one will do.
            _set(client, name, models.OptimizersConfigDiff())
        if greens < _GREENS:
            sleep(_POLL_S)


@contextmanager
def held_back(client: QdrantBase, name: str) -> Iterator[None]:
    """Hold a server's optimizer back, and let it go at the end, also after an error."""
    _set(client, name, _HELD)
    try:
        yield
    finally:
        release(client, name)


def is_held_back(config: models.CollectionConfig) -> bool:
    """Whether the optimizer of a collection is held back."""
    return config.optimizer_config.max_optimization_threads == 0


def release(client: QdrantBase, name: str) -> None:
    """Let the optimizer go on with as many threads as it finds right."""
    _set(client, name, _FREE)


def _set(client: QdrantBase, name: str, optimizers: models.OptimizersConfigDiff) -> None:
    deliver(
        lambda: client.update_collection(name, optimizers_config=optimizers),
        what=f"changing collection {name!r}",
        retry=WRITING,
    )


def _state(info: models.CollectionInfo) -> Indexing:
    return Indexing(
        indexed=info.indexed_vectors_count or 0,
        points=info.points_count or 0,
        status=str(info.status),
    )


def check_optimizer(info: models.CollectionInfo, name: str) -> None:
    """Refuse a collection whose optimizer has failed.

    Raises:
        CollectionError: It has; the server's reason is in it.
    """
    failed = info.optimizer_status
    if isinstance(failed, models.OptimizersStatusOneOf1):
        raise CollectionError(
            f"the server's optimizer failed on collection {name!r}: {failed.error}; its log has "
            "more, and after the cause is mended any update starts it again"
        )
    if info.status is models.CollectionStatus.RED:
        raise CollectionError(f"collection {name!r} is red: see the server's log")
