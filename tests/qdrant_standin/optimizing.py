"""Optimization in the background, which a server does by itself and the engine does not."""

from __future__ import annotations

import threading

from qdrant_client import models

from qdrant_standin.sharding import Place


class Optimizers:
    """Optimizes collections, one thread for each."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[threading.Thread, models.CollectionInfo]] = {}
        self._mutex = threading.Lock()

    def before(self, name: str) -> models.CollectionInfo | None:
        """What a collection was like when its optimization began, while that lasts."""
        with self._mutex:
            thread, info = self._running.get(name, (None, None))
        return info if thread is not None and thread.is_alive() else None

    def start(self, name: str, places: list[Place], info: models.CollectionInfo) -> None:
        """Optimize what a collection consists of, unless that is being done."""
        with self._mutex:
            thread, _ = self._running.get(name, (None, None))
            if thread is not None and thread.is_alive():
                return
            thread = threading.Thread(target=_optimize, args=(places,), daemon=True)
            self._running[name] = (thread, info)
            thread.start()

    def wait(self, name: str | None = None) -> None:
        """Until nothing is being optimized, or not that collection."""
        with self._mutex:
            running = dict(self._running)
        for key, (thread, _) in running.items():
            if name in (None, key):
                thread.join()


def _optimize(places: list[Place]) -> None:
    for place in places:
        place.client.optimize(place.name)
