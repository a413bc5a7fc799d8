"""One process at a time: a lock file that names its holder."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from ragkit.errors import StoreError, StoreLocked

_POLL_S = 0.05


class HeldLock:
    """An exclusive lock on a collection, held until `release` or the end of the process.

    The lock is the kernel's (`flock`), so it can neither go stale nor outlive its holders; the
    text in the file only tells people who holds it. A child process that inherits `descriptor`
    shares the lock: while a child optimizes for us nobody else gets in, even if we die.

    Attributes:
        descriptor: The open lock file, to be passed on to such a child.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._released = False

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others in."""
        if not self._released:
            self._released = True
            os.ftruncate(self.descriptor, 0)
            os.close(self.descriptor)

    def forget(self) -> None:
        """In a forked child: close our copy and leave the lock to the parent."""
        if not self._released:
            self._released = True
            os.close(self.descriptor)


def acquire(path: Path, *, what: str, timeout_s: float) -> HeldLock:
    """Take the lock, waiting up to `timeout_s` for another process to let go of it.

    Raises:
        StoreLocked: Somebody else kept it; the message names them.
        StoreError: The folder cannot be written.
    """
    descriptor = _open(path)
    deadline = time.monotonic() + timeout_s
    while not _try_lock(descriptor):
        holder = _Holder.read(path)
        if holder.pid == os.getpid() or time.monotonic() >= deadline:
            os.close(descriptor)
            raise StoreLocked(f"{what} is open in {holder.describe()}")
        time.sleep(_POLL_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _Holder.myself().to_json(), 0)
    return HeldLock(descriptor)


def try_acquire(path: Path) -> HeldLock | None:
    """Take the lock if it is free."""
    try:
        return acquire(path, what="", timeout_s=0)
    except StoreLocked:
        return None


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise StoreError(
            f"{path.parent} cannot be written ({exc.strerror}): the embedded engine needs that "
            "even to search; use a copy that this user may write"
        ) from exc


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Holder:
    """What a lock file says of the process that wrote it."""

    def __init__(self, pid: int | None, command: str, since: str, started: str | None) -> None:
        self.pid = pid
        self._command = command
        self._since = since
        self._started = started

    @classmethod
    def myself(cls) -> _Holder:
        # The program's name only: an argument may be a secret.
        command = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), command, since, _start_of(os.getpid()))

    @classmethod
    def read(cls, path: Path) -> _Holder:
        """Who wrote the file; unknown while it is empty or half written."""
        try:
            text = json.loads(path.read_bytes())
            return cls(text["pid"], text["command"], text["since"], text["started"])
        except (OSError, ValueError, KeyError, TypeError):
            return cls(None, "", "", None)

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "pid": self.pid,
                "command": self._command,
                "since": self._since,
                "started": self._started,
            }
        ).encode()

    def describe(self) -> str:
        """Who holds the lock and what to do about it."""
        if self.pid is None:
            return "another process: wait for it, or stop it"
        if self.pid == os.getpid():
            return (
                f"this process already (since {self._since}): "
                "use one EdgeClient for a folder, and close it before opening another"
            )
        who = f"process {self.pid} ({self._command}, since {self._since})"
        if self._is_alive():
            return f"{who}: wait for it, or stop it"
        return f"a child of {who}, which has ended: wait for the child, or stop it"

    def _is_alive(self) -> bool:
        """Whether that very process still runs: numbers of ended processes are given anew."""
        if self.pid is None:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return self._started is None or _start_of(self.pid) == self._started


def _start_of(pid: int) -> str | None:
    """When the process started, in the kernel's clock ticks; None where /proc is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in brackets and may hold spaces: count after it.
    return stat.rpartition(")")[2].split()[19]
