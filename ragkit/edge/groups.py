"""Grouping of search results by a payload value, which the engine leaves to its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdrant_client import models
from qdrant_client.local.payload_value_extractor import value_by_key

from ragkit.edge.scoring import DEFAULT_LIMIT

# Each round asks for this many times as many points as the one before.
_GROWTH = 4


def find_groups(
    search: Callable[[int], list[models.ScoredPoint]],
    *,
    group_by: str,
    limit: int,
    group_size: int,
) -> list[models.PointGroup]:
    """The best `limit` groups with the best `group_size` points of each.

    Args:
        search: The best points, that many of them, with the payload of `group_by`.
        group_by: The payload key; a point with several values is in several groups.
        limit: How many groups.
        group_size: How many points in each at most.
    """
    count = limit * group_size
    while True:
        points = search(count)
        groups = _grouped(points, group_by, limit, group_size)
        full = len(groups) == limit and all(len(g.hits) == group_size for g in groups)
        if full or len(points) < count:
            return groups
        count *= _GROWTH


def _grouped(
    points: list[models.ScoredPoint], group_by: str, limit: int, group_size: int
) -> list[models.PointGroup]:
    groups: dict[Any, list[models.ScoredPoint]] = {}
    for point in points:
        for group_id in group_ids(point.payload or {}, group_by):
            hits = groups.get(group_id)
            if hits is None and len(groups) < limit:
                hits = groups[group_id] = []
            if hits is not None and len(hits) < group_size:
                hits.append(point)
    return [models.PointGroup(id=group_id, hits=hits) for group_id, hits in groups.items()]


def group_ids(payload: dict[str, Any], group_by: str) -> list[int | str]:
    """The groups that a point belongs to: none if any of its values is no text or integer."""
    values = value_by_key(payload, group_by) or []
    if any(type(value) not in (int, str) for value in values):
        return []
    return list(dict.fromkeys(values))


def wider(prefetch: Any, factor: int) -> Any:
    """The prefetches with room for whole groups, as the server makes it."""
    if prefetch is None:
        return None
    if isinstance(prefetch, list):
        return [wider(item, factor) for item in prefetch]
    limit = DEFAULT_LIMIT if prefetch.limit is None else prefetch.limit
    inner = wider(prefetch.prefetch, factor)
    return prefetch.model_copy(update={"limit": limit * factor, "prefetch": inner})
