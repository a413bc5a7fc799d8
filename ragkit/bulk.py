"""A large load into a server: its optimizer waits until all points are in.

Meanwhile every write is quicker, since nothing is indexed twice, searches compare with every
vector, and the collection's status is yellow. The manifest holds what to go back to, so a load that
was killed is found and ended by the next run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qdrant_client import models

from ragkit.collection import Collection

_AUTO = models.MaxOptimizationThreadsSetting.AUTO.value


def hold(collection: Collection) -> None:
    """Hold the optimizer back until `release`."""
    manifest = collection.open()
    if manifest.held_threads is None:
        threads = collection.config.optimizer_config.max_optimization_threads
        manifest = replace(manifest, held_threads=_AUTO if threads is None else threads)
    collection.record(manifest, **_threads(0))


def release(collection: Collection) -> bool:
    """Let the optimizer go as it went before; returns whether it was held back."""
    manifest = collection.open()
    if manifest.held_threads is None:
        return False
    collection.record(replace(manifest, held_threads=None), **_threads(manifest.held_threads))
    return True


def _threads(number: int | str) -> dict[str, Any]:
    threads = models.MaxOptimizationThreadsSetting(number) if isinstance(number, str) else number
    return {"optimizers_config": models.OptimizersConfigDiff(max_optimization_threads=threads)}
