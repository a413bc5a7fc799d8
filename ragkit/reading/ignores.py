"""The rules of `.gitignore` files, and of globs in their syntax."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

_log = logging.getLogger(__name__)

IGNORE_FILE = ".gitignore"
_GROUP_NAME = re.compile(r"\(\?P<\w+>")


def globs(patterns: Iterable[str], *, name: str) -> GitIgnoreSpec | None:
    """Compile globs that a caller gave; None for none.

    Raises:
        ValueError: One is not valid; `name` says in the message where it came from.
    """
    lines = [patterns] if isinstance(patterns, str) else list(patterns)
    try:
        return GitIgnoreSpec.from_lines(lines) if lines else None
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}; expected globs in the syntax of .gitignore") from exc


@dataclass(frozen=True, slots=True)
class _Level:
    """The rules of one folder's `.gitignore`.

    Attributes:
        offset: How many characters of a path stand for that folder, its last slash included.
        any_rule: Matches every path that a rule matches, and more: a quick no for most files.
        rules: The last line first: whether it ignores (False for "!…"), and its pattern.
    """

    offset: int
    any_rule: re.Pattern[str]
    rules: tuple[tuple[bool, re.Pattern[str]], ...]

    def verdict(self, path: str) -> bool | None:
        """Whether the last rule for a path ignores it, None if there is no rule for it."""
        path = path[self.offset :]
        if self.any_rule.search(path):
            for ignores, rule in self.rules:
                if _is_about(rule, path):
                    return ignores
        return None


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that hold in one folder: its own `.gitignore` and those above it.

    Attributes:
        prefix: The path from the top of the git work tree to the root of the walk, with a slash
            at its end, or "". Paths are given to `ignores` from the root of the walk.
        levels: Outermost first; the innermost that has a word on a path decides.
    """

    prefix: str = ""
    levels: tuple[_Level, ...] = ()

    def ignores(self, path: str) -> bool:
        """Whether a path is ignored; one of a folder ends in a slash.

        The folders above it are taken to have been asked before and not to be ignored.
        """
        if not self.levels:
            return False
        whole = self.prefix + path
        for level in reversed(self.levels):
            verdict = level.verdict(whole)
            if verdict is not None:
                return verdict
        return False

    def inside(self, folder: str, lines: Iterable[str]) -> IgnoreRules:
        """Return the rules that hold in a folder with these lines in its `.gitignore`.

        Args:
            folder: The path from the root of the walk with a slash at its end, "" for the root.
            lines: As they stand in the file.
        """
        level = _compile(lines, self.prefix + folder)
        return self if level is None else IgnoreRules(self.prefix, (*self.levels, level))


def rules_above(root: Path, read_lines: Callable[[Path], list[str]]) -> IgnoreRules:
    """Return the rules of the git work tree that a folder is in, without the folder's own.

    A folder that these rules themselves ignore was named on purpose: they do not hold in it.
    """
    top = next((folder for folder in root.parents if (folder / ".git").exists()), None)
    if top is None or (root / ".git").exists():
        return IgnoreRules()
    rules = IgnoreRules()
    parts = root.relative_to(top).parts
    for depth, part in enumerate(parts):
        folder = "".join(f"{name}/" for name in parts[:depth])
        rules = rules.inside(folder, read_lines(top.joinpath(*parts[:depth], IGNORE_FILE)))
        if rules.ignores(f"{folder}{part}/"):
            return IgnoreRules()
    return IgnoreRules("".join(f"{name}/" for name in parts), rules.levels)


def _compile(lines: Iterable[str], folder: str) -> _Level | None:
    """Compile rules one by one: git passes over a line that is no valid pattern."""
    rules = []
    for line in lines:
        try:
            patterns = GitIgnoreSpec.from_lines([line]).patterns
        except ValueError:
            _log.debug("%s%s: %r is no pattern and is passed over", folder, IGNORE_FILE, line)
            continue
        # A comment or an empty line gives a pattern without a verdict.
        rules += [(p.include, p.regex) for p in patterns if p.include is not None and p.regex]
    if not rules:
        return None
    union = "|".join(f"(?:{_GROUP_NAME.sub('(?:', rule.pattern)})" for _, rule in rules)
    return _Level(len(folder), re.compile(union), tuple(reversed(rules)))


def _is_about(rule: re.Pattern[str], path: str) -> bool:
    """Whether a rule is about a path itself, rather than about a folder above it.

    pathspec's patterns also match what is below: a slash in their one group is the end of a
    folder's name. Its own verdict on a whole path mixes both up where "!" is used; git goes down
    folder by folder, as the walk does.
    """
    name = path.removesuffix("/")
    found = rule.search(name)
    if found and found.lastindex is None:
        return True
    if name == path:
        return False
    found = rule.search(path)
    if not found or found.lastindex is None:
        return False
    # The pattern of "*/" is a mere slash, and found too early in "a/b/".
    return found.end() == len(path) or rule.search(path, len(name)) is not None
