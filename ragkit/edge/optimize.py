"""Optimize a shard in a process of its own: `python -m ragkit.edge.optimize SHARD_FOLDER`.

The engine holds the interpreter's lock for as long as it builds an index, seconds to minutes, so
that every thread of the process would stand still. A child process does not: the shard is closed
here, optimized there, and opened again. This module is run by its path and imports the engine
alone, which takes 20 ms.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def optimize_in_child(shard: Path, *, keep_open: Sequence[int] = ()) -> None:
    """Optimize a closed shard and wait for the end.

    Args:
        shard: The folder of the shard; nobody may have it open.
        keep_open: File descriptors that the child holds as long as it lives: the locks that
            must not become free while it works, even if this process dies.

    Raises:
        subprocess.CalledProcessError: The child failed; `stderr` says why.
    """
    subprocess.run(  # noqa: S603 - our own interpreter and file, no shell
        [sys.executable, "-P", __file__, str(shard)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=keep_open,
        # Ctrl-C is for the parent, which ends the child in order.
        start_new_session=True,
    )


def main(arguments: Sequence[str]) -> int:
    """Optimize the shard in the folder given."""
    import qdrant_edge

    if len(arguments) != 1:
        print("usage: python -m ragkit.edge.optimize SHARD_FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    shard = qdrant_edge.EdgeShard.load(arguments[0])
    shard.optimize()
    shard.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
