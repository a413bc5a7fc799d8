"""The walk of a folder: which files are there to be indexed, and how one is read.

What is found: regular files, in the order of their sources. What is left out without a word:
what `.gitignore` rules or the globs leave out, hidden files, devices, sockets and pipes,
symlinks to folders within the root (they are found under their own names, and loops end there).
What is `Skipped` with a reason: binary files known by their extension, symlinks out of the root,
folders that cannot be listed, names that are not UTF-8.

A symlink to a file within the root is followed if the walk does not find that file itself (it
may be hidden, as in Kubernetes' mounted configuration), and once if several lead to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pathspec import GitIgnoreSpec

from ragkit.errors import DocumentError
from ragkit.reading import ignores
from ragkit.reading.content import BINARY_EXTENSIONS, CONVERTED_EXTENSIONS, extension
from ragkit.reading.texts import is_binary

MAX_BYTES = 32 << 20

_HEAD_BYTES = 1 << 16
_MAX_IGNORE_BYTES = 1 << 20
# These are never a user's documents, whatever the globs say.
_NEVER = frozenset({".git", ".ragkit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that was not indexed, and why.

    Attributes:
        source: As in `Document`; ends in "/" for a folder that could not be listed.
        reason: A few words.
        stale: See `DocumentError.stale`.
    """

    source: str
    reason: str
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file that the walk found.

    Attributes:
        path: Where it is.
        source: Its path from the root of the walk, in posix form.
        max_bytes: The size above which `read` refuses it.
    """

    path: Path
    source: str
    max_bytes: int = MAX_BYTES

    def read(self) -> bytes:
        """Read the file.

        Raises:
            DocumentError: It is gone, may not be read, is too large, is binary, or is no longer
                a regular file.
        """
        return read_file(self.path, max_bytes=self.max_bytes)


def read_file(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file, without waiting for a pipe and without following a symlink.

    Raises:
        DocumentError: See `FoundFile.read`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return _read_open(handle, max_bytes, extension(os.fspath(path)))
        finally:
            os.close(handle)
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # what O_NOFOLLOW answers to a symlink
            raise DocumentError("not a regular file", stale=True) from exc
        raise DocumentError(_os_reason(exc)) from exc


def _read_open(handle: int, max_bytes: int, suffix: str) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError("not a regular file", stale=True)
    if status.st_size > max_bytes:
        raise _too_large(status.st_size, max_bytes)
    if status.st_size <= _HEAD_BYTES:
        raw = os.read(handle, _HEAD_BYTES + 1)
        if len(raw) == status.st_size > 0:
            return raw
    else:
        raw = os.read(handle, _HEAD_BYTES)
        if suffix not in CONVERTED_EXTENSIONS and not raw.startswith(b"%PDF-") and is_binary(raw):
            raise DocumentError("binary file", stale=True)
    return _read_rest(handle, raw, max_bytes)


def _read_rest(handle: int, head: bytes, max_bytes: int) -> bytes:
    """Read to the end: a file may have grown, and those of /proc say that they are empty."""
    parts = [head]
    size = len(head)
    while part := os.read(handle, max(_HEAD_BYTES, min(size, 1 << 23))):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _too_large(size, max_bytes)
    return b"".join(parts)


def _too_large(size: int, max_bytes: int) -> DocumentError:
    return DocumentError(
        f"too large: {_mebibytes(size)}, the limit is {_mebibytes(max_bytes)}", stale=True
    )


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB" if size >= 1 << 20 else f"{size:,} bytes"


def _os_reason(exc: OSError) -> str:
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return "not there any more"
    if isinstance(exc, PermissionError):
        return "permission denied"
    return f"cannot be read: {exc.strerror or exc}"


def find_files(
    root: str | os.PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> Iterator[FoundFile | Skipped]:
    """Find the files of a folder that are there to be indexed, sorted by source.

    Args:
        root: The folder; "~" is the user's home.
        include: Globs in the syntax of `.gitignore`; when there are any, only files that match
            are found. Hidden files and folders are found when a glob names them (".github/").
        exclude: Globs of what to leave out.
        max_bytes: The size above which `FoundFile.read` refuses a file.

    Raises:
        DocumentError: There is no such folder, or it is a file, or it cannot be listed.
        ValueError: A glob is not valid.
    """
    folder = Path(root).expanduser()
    walk = _Walk(
        root=os.path.realpath(folder),
        include=ignores.globs(include, name="include"),
        exclude=ignores.globs(exclude, name="exclude"),
        hidden=_hidden_names(include),
        max_bytes=max_bytes,
    )
    try:
        with os.scandir(folder):
            pass
    except OSError as exc:
        raise DocumentError(_root_reason(folder, exc)) from exc
    return walk.run()


def _root_reason(folder: Path, exc: OSError) -> str:
    if isinstance(exc, FileNotFoundError):
        return f"no such folder: {folder}"
    if isinstance(exc, NotADirectoryError):
        return (
            f"{folder} is a file, not a folder: pass the folder that holds it, "
            f"and include={[folder.name]!r} for this file alone"
        )
    return f"{folder} cannot be listed: {(exc.strerror or str(exc)).lower()}"


def _hidden_names(include: Sequence[str]) -> tuple[str, ...]:
    """Return the globs of hidden names in the include globs: "/.github/*.yml" → ".github"."""
    patterns = [include] if isinstance(include, str) else include
    names = {part for glob in patterns if glob[:1] != "!" for part in glob.split("/")}
    return tuple(sorted(name for name in names if name.startswith(".")))


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder on the way down: its source with a slash at its end, and the rules in it."""

    source: str
    rules: ignores.IgnoreRules


class _Walk:
    """One walk of one root. Every path is a plain string: `Path` is several times slower."""

    def __init__(
        self,
        *,
        root: str,
        include: GitIgnoreSpec | None,
        exclude: GitIgnoreSpec | None,
        hidden: tuple[str, ...],
        max_bytes: int,
    ) -> None:
        self._root = root
        self._include = include
        self._exclude = exclude
        self._hidden = hidden
        self._max_bytes = max_bytes
        self._followed: set[str] = set()
        self._rules_above = ignores.rules_above(Path(root), _ignore_lines)

    def run(self) -> Iterator[FoundFile | Skipped]:
        """Yield what is found, depth first."""
        top = _Folder("", self._rules_above)
        # A stack rather than recursion: folders may be nested deeper than Python's calls.
        stack = [self._entries(top)]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, _Folder):
                stack.append(self._entries(item))
            else:
                yield item

    def _entries(self, folder: _Folder) -> Iterator[FoundFile | Skipped | _Folder]:
        path = self._path(folder.source)
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=_sort_key)
        except OSError as exc:
            yield Skipped(source=folder.source or "./", reason=_os_reason(exc))
            return
        rules = folder.rules
        if any(entry.name == ignores.IGNORE_FILE for entry in entries):
            rules = rules.inside(folder.source, _ignore_lines(Path(path, ignores.IGNORE_FILE)))
        for entry in entries:
            found = self._entry(entry, _Folder(folder.source, rules))
            if found is not None:
                yield found

    def _entry(
        self, entry: os.DirEntry[str], folder: _Folder
    ) -> FoundFile | Skipped | _Folder | None:
        name = entry.name
        if name[0] == "." and not self._names_hidden(name):
            return None
        source = folder.source + name
        is_folder = entry.is_dir(follow_symlinks=False)
        if not (is_folder or entry.is_file(follow_symlinks=False) or entry.is_symlink()):
            return None
        if not self._wanted(source, folder.rules, is_folder=is_folder):
            return None
        if not name.isascii() and (bad := _undecodable(source)):
            return Skipped(source=bad + "/" * is_folder, reason="its name is not valid UTF-8")
        if is_folder:
            return _Folder(source + "/", folder.rules)
        if entry.is_symlink():
            return self._link(source)
        return self._file(source, entry.path)

    def _names_hidden(self, name: str) -> bool:
        return name not in _NEVER and any(fnmatchcase(name, glob) for glob in self._hidden)

    def _wanted(self, source: str, rules: ignores.IgnoreRules, *, is_folder: bool) -> bool:
        path = source + "/" if is_folder else source
        if rules.ignores(path):
            return False
        if self._exclude is not None and self._exclude.match_file(path):
            return False
        return is_folder or self._include is None or self._include.match_file(path)

    def _file(self, source: str, path: str) -> FoundFile | Skipped:
        if extension(source) in BINARY_EXTENSIONS:
            return Skipped(source=source, reason="binary file", stale=True)
        return FoundFile(path=Path(path), source=source, max_bytes=self._max_bytes)

    def _link(self, source: str) -> FoundFile | Skipped | None:
        path = self._path(source)
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116  (see the class)
        except OSError as exc:
            loop = exc.errno == errno.ELOOP
            return None if loop else Skipped(source=source, reason="broken symlink")
        real = os.path.realpath(path)
        if not f"{real}/".startswith(self._path("")):
            return Skipped(source=source, reason="symlink out of the folder", stale=True)
        if not stat.S_ISREG(mode) or real in self._followed or self._finds(real):
            return None
        self._followed.add(real)
        return self._file(source, real)

    def _finds(self, real: str) -> bool:
        """Whether the walk comes to a file of the root under its own name."""
        parts = real[len(self._root.rstrip("/")) + 1 :].split("/")
        rules = self._rules_above
        for depth, name in enumerate(parts):
            above = "".join(f"{part}/" for part in parts[:depth])
            ignore_file = Path(self._path(above), ignores.IGNORE_FILE)
            rules = rules.inside(above, _ignore_lines(ignore_file))
            if name[0] == "." and not self._names_hidden(name):
                return False
            if not self._wanted(above + name, rules, is_folder=depth < len(parts) - 1):
                return False
        return True

    def _path(self, source: str) -> str:
        return f"{self._root.rstrip('/')}/{source}"


def _sort_key(entry: os.DirEntry[str]) -> str:
    # With the slash, what is in a folder sorts as its sources do: "a-b" before "a/b".
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name


def _undecodable(source: str) -> str | None:
    """Return a name that is not UTF-8 with its bad bytes escaped, None for a good one."""
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(source).decode("utf-8", "backslashreplace")
    return None


def _ignore_lines(path: Path) -> list[str]:
    """Return the lines of a `.gitignore`, none if it is not there or cannot be read."""
    try:
        raw = read_file(path, max_bytes=_MAX_IGNORE_BYTES)
    except DocumentError:
        return []
    return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").splitlines()
