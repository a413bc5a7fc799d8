"""What a collection keeps of how its default search was found, and whether that still holds.

`ragkit.benchmark.tune` writes the record into the manifest (`tuned`), beside the options that it
found (`search`):

    at: when, ISO 8601 in UTC
    options: the names of the options in `search` that it decided; others were there before
    points: how many the collection held
    queries: how many queries it was validated on, none of which took part in choosing
    limit, target: what was asked for
    recall, recall_low, recall_high: of the validation, with the 95% interval of the mean
    p50_ms, p95_ms: of one search after another on that machine
    reached: whether the target was reached
    gain: by how much nDCG@10 is better than before, with its interval, where judgements decided
    quantization, store, ragkit: of what, where and with which version
"""

from __future__ import annotations

from dataclasses import replace
from shlex import quote

from ragkit.manifest import Manifest

# A collection with half as many points again has as many more that can push a neighbour out of the
# candidates. One that shrinks keeps its recall: the setting costs no more than it did.
_GROWN = 1.5


class OutgrownTuning(UserWarning):
    """A collection is searched by a setting that was found when it was much smaller."""


def outgrown(manifest: Manifest, points: int, *, name: str) -> str | None:
    """What to say of a collection that has outgrown its tuning; None if it has not.

    Args:
        manifest: The collection's.
        points: How many it holds.
        name: As its user calls it.
    """
    held = manifest.tuned.get("points")
    if not held or points < _GROWN * held:
        return None
    return (
        f"the default search of collection {name!r} was tuned when it held {held:,} chunks; it "
        f"holds {points:,} now, and recall may be lower: ragkit tune --collection {quote(name)}"
    )


def requantized(manifest: Manifest, quantization: str) -> Manifest:
    """The manifest with another quantization: what was tuned for the one before goes."""
    changed = replace(manifest, quantization=quantization)
    if quantization == manifest.quantization or not manifest.tuned:
        return changed
    found = set(manifest.tuned.get("options", ()))
    search = {key: value for key, value in manifest.search.items() if key not in found}
    return replace(changed, search=search, tuned={})
