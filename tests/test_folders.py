from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragkit.errors import DocumentError
from ragkit.reading.folders import FoundFile, Skipped, find_files, read_file

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make files of their paths, with "words" in them unless told otherwise."""

    def make(*paths: str, **contents: str) -> Path:
        for path in paths:
            file = tmp_path / "root" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("words")
        for path, text in contents.items():
            (tmp_path / "root" / path).write_text(text)
        return tmp_path / "root"

    return make


def sources(root: Path, **options: list[str]) -> list[str]:
    found = list(find_files(root, **options))  # type: ignore[arg-type]
    assert all(isinstance(item, FoundFile) for item in found), found
    return [item.source for item in found]


def ignore(folder: Path, *lines: str) -> None:
    (folder / ".gitignore").write_text("\n".join(lines) + "\n")


def test_files_come_sorted_by_source(tree: Tree) -> None:
    root = tree("b/z.md", "a.md", "b-c.md", "b.md", "b/a/x.md", "B.md")
    assert sources(root) == ["B.md", "a.md", "b-c.md", "b.md", "b/a/x.md", "b/z.md"]
    assert sources(root) == sorted(sources(root))


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert list(find_files(tmp_path)) == []


def test_a_folder_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no such folder: .*/none"):
        find_files(tmp_path / "none")


def test_a_file_as_root_is_an_error_that_tells_what_to_do(tree: Tree) -> None:
    root = tree("a.md")
    with pytest.raises(DocumentError, match=r"is a file, not a folder: .*include=\['a.md'\]"):
        find_files(root / "a.md")


def test_the_root_may_be_a_symlink_and_relative(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree("a.md")
    (tmp_path / "link").symlink_to("root")
    monkeypatch.chdir(tmp_path)
    (found,) = find_files("link")
    assert isinstance(found, FoundFile)
    assert (found.source, found.read()) == ("a.md", b"words")


def test_the_files_are_found_one_by_one(tree: Tree) -> None:
    root = tree("a/a.md", "b/b.md")
    finding = find_files(root)
    next(finding)
    (root / "b" / "b.md").unlink()
    assert list(finding) == []


def test_hidden_files_and_folders_are_left_out(tree: Tree) -> None:
    root = tree("a.md", ".env", ".cache/b.md", "c/.hidden.md", ".git/x.md", ".ragkit/y.md")
    assert sources(root) == ["a.md"]


def test_an_include_glob_that_names_hidden_files_finds_them(tree: Tree) -> None:
    root = tree(".github/ci.yml", ".github/x.md", ".env", "a.md", ".git/x.md", ".ragkit/y.md")
    assert sources(root, include=[".github/*.yml", "a.md"]) == [".github/ci.yml", "a.md"]
    assert sources(root, include=[".*"]) == [".env", ".github/ci.yml", ".github/x.md"]
    assert sources(root, include=["*.md"]) == ["a.md"]


def test_include_and_exclude_are_globs_in_the_syntax_of_gitignore(tree: Tree) -> None:
    root = tree("a.md", "a.txt", "docs/b.md", "docs/old/c.md", "src/d.py")
    assert sources(root, include=["*.md", "!a.md"]) == ["docs/b.md", "docs/old/c.md"]
    assert sources(root, include=["docs/"]) == ["docs/b.md", "docs/old/c.md"]
    assert sources(root, include=["*.md"], exclude=["old/"]) == ["a.md", "docs/b.md"]
    assert sources(root, exclude=["/docs", "*.py"]) == ["a.md", "a.txt"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_glob_that_is_not_valid_is_a_value_error(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: .*expected globs"):
        find_files(tmp_path, **{option: ["!"]})  # type: ignore[arg-type]


def test_gitignore_holds_at_every_level(tree: Tree) -> None:
    root = tree(
        "a.log", "keep.log", "build/x.md", "src/b.log", "src/out/y.md", "src/c.md", "out/z.md"
    )
    ignore(root, "# a comment", "*.log", "!keep.log", "/build/")
    ignore(root / "src", "/out", "!b.log")
    assert sources(root) == ["keep.log", "out/z.md", "src/b.log", "src/c.md"]


def test_what_is_in_an_ignored_folder_cannot_be_taken_back(tree: Tree) -> None:
    root = tree("build/keep.md", "docs/a.md", "docs/b.md")
    ignore(root, "build/", "!build/keep.md", "docs/*", "!docs/a.md")
    assert sources(root) == ["docs/a.md"]


def test_the_rules_of_a_git_work_tree_above_hold_in_its_folders(tree: Tree) -> None:
    top = tree("docs/a.md", "docs/a.log", "docs/sub/x.md", ".git/HEAD")
    ignore(top, "*.log", "/docs/sub/")
    assert sources(top / "docs") == ["a.md"]


def test_the_rules_above_do_not_hide_a_folder_that_was_named_itself(tree: Tree) -> None:
    top = tree("out/a.md", "out/b.tmp", ".git/HEAD")
    ignore(top, "out/")
    assert sources(top / "out") == ["a.md", "b.tmp"]


def test_the_rules_above_a_folder_outside_of_git_do_not_hold(tree: Tree) -> None:
    top = tree("docs/a.log")
    ignore(top, "*.log")
    assert sources(top / "docs") == ["a.log"]


def test_a_broken_gitignore_leaves_the_rest_of_its_rules(tree: Tree) -> None:
    root = tree("a.md", "b.log")
    (root / ".gitignore").write_bytes(b"!\n[\n\xff\xfe\x00\n*.log\r\n")
    assert sources(root) == ["a.md"]


def test_a_gitignore_that_is_a_pipe_does_not_block(tree: Tree) -> None:
    root = tree("a.md")
    os.mkfifo(root / ".gitignore")
    assert sources(root) == ["a.md"]


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git: install git")
@pytest.mark.parametrize(
    "rules",
    [
        ["*", "!*/", "!*.md"],
        ["a/**", "!a/b/"],
        ["**/b", "!a/b"],
        ["/*", "!/a/", "/a/*", "!/a/b"],
        ["*.tmp", "!a/"],
        ["a/**/b", "foo*", "[ab].md"],
        ["b/", "!b", "\\!x.md", "c d", "x.md "],
        ["*/", "!a/"],
    ],
)
def test_the_rules_mean_what_they_mean_to_git(tree: Tree, rules: list[str]) -> None:
    leaves = ("a.md", "b.md", "x.tmp", "!x.md", "c d", "foo.md")
    folders = ("", "a/", "a/b/", "a/c/b/", "b/", "c/x.tmp/")
    root = tree(*(folder + leaf for folder in folders for leaf in leaves))
    ignore(root, *rules)
    ignore(root / "a", "!x.tmp", "/c/b/a.md")
    subprocess.run(["git", "init", "-q", root], check=True)
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    want = [path for path in listed.split("\0") if path and not path.endswith(".gitignore")]
    assert sources(root) == sorted(want)


def test_a_symlink_to_a_file_that_is_found_anyway_is_left_out(tree: Tree) -> None:
    root = tree("real.md", "z/real.md")
    (root / "a.md").symlink_to("real.md")
    (root / "b.md").symlink_to("z/real.md")
    assert sources(root) == ["real.md", "z/real.md"]


def test_a_symlink_to_a_hidden_file_of_the_root_is_followed_once(tree: Tree) -> None:
    root = tree("..2024/config.md")
    (root / "..data").symlink_to("..2024")
    (root / "config.md").symlink_to("..data/config.md")
    (root / "other.md").symlink_to("..2024/config.md")
    (found,) = find_files(root)
    assert isinstance(found, FoundFile)
    assert (found.source, found.read()) == ("config.md", b"words")


def test_a_symlink_out_of_the_root_is_skipped(tree: Tree, tmp_path: Path) -> None:
    root = tree("a.md")
    (tmp_path / "root-secrets").mkdir()
    (tmp_path / "root-secrets" / "key.md").write_text("secret")
    (root / "file.md").symlink_to("../root-secrets/key.md")
    (root / "folder").symlink_to(tmp_path / "root-secrets")
    reason = "symlink out of the folder"
    assert list(find_files(root))[1:] == [
        Skipped(source="file.md", reason=reason, stale=True),
        Skipped(source="folder", reason=reason, stale=True),
    ]


def test_symlink_loops_end(tree: Tree) -> None:
    root = tree("a/b.md")
    (root / "a" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    assert sources(root) == ["a/b.md"]


def test_a_broken_symlink_is_skipped_and_not_stale(tree: Tree) -> None:
    root = tree("a.md")
    (root / "gone.md").symlink_to("nowhere")
    assert list(find_files(root))[1:] == [Skipped(source="gone.md", reason="broken symlink")]


def test_pipes_and_sockets_are_left_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("a.md")
    monkeypatch.chdir(root)  # a socket's path must be short
    os.mkfifo("pipe.md")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.md")
        assert sources(root) == ["a.md"]


def test_known_binary_files_are_skipped_without_being_opened(tree: Tree) -> None:
    root = tree("a.md", "photo.JPG", "data.zip")
    (root / "photo.JPG").chmod(0)
    assert list(find_files(root))[1:] == [
        Skipped(source="data.zip", reason="binary file", stale=True),
        Skipped(source="photo.JPG", reason="binary file", stale=True),
    ]


def test_a_name_with_newlines_is_found(tree: Tree) -> None:
    root = tree("two\nlines.md")
    (found,) = find_files(root)
    assert isinstance(found, FoundFile)
    assert (found.source, found.read()) == ("two\nlines.md", b"words")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8: use Linux")
def test_a_name_that_is_not_utf8_is_skipped_under_a_printable_one(tree: Tree) -> None:
    root = tree("a.md")
    (root / os.fsdecode(b"caf\xe9.md")).write_text("words")
    folder = root / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "b.md").write_text("words")
    reason = "its name is not valid UTF-8"
    assert list(find_files(root))[1:] == [
        Skipped(source="caf\\xe9.md", reason=reason),
        Skipped(source="\\xff/", reason=reason),
    ]


@pytest.fixture
def as_ordinary_user() -> Iterator[Path]:
    """Give a folder, and be nobody while root runs the tests: root may list everything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        if os.geteuid() == 0:
            os.seteuid(65_534)
            yield Path(folder)
            os.seteuid(0)
        else:
            yield Path(folder)


def test_a_folder_that_cannot_be_listed_is_skipped_with_a_slash(as_ordinary_user: Path) -> None:
    for name in ("a", "locked", "z"):
        (as_ordinary_user / name).mkdir()
        (as_ordinary_user / name / "x.md").write_text("words")
    (as_ordinary_user / "locked").chmod(0)
    try:
        found = list(find_files(as_ordinary_user))
    finally:
        (as_ordinary_user / "locked").chmod(0o700)
    assert found[1] == Skipped(source="locked/", reason="permission denied")
    assert [item.source for item in found] == ["a/x.md", "locked/", "z/x.md"]


def test_a_root_that_cannot_be_listed_is_an_error(as_ordinary_user: Path) -> None:
    locked = as_ordinary_user / "locked"
    locked.mkdir(0)
    with pytest.raises(DocumentError, match="locked cannot be listed: permission denied"):
        find_files(locked)


def test_a_folder_that_vanishes_during_the_walk_is_skipped_with_a_slash(tree: Tree) -> None:
    root = tree("a.md", "b/c.md")
    finding = find_files(root)
    next(finding)
    shutil.rmtree(root / "b")
    assert list(finding) == [Skipped(source="b/", reason="not there any more")]


def test_folders_nested_deeper_than_python_recurses_are_walked(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 200
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("a.md", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
    os.close(folder)
    try:
        (found,) = find_files(tmp_path)
        assert found.source == "d/" * depth + "a.md"
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree recurses


def test_a_huge_file_is_refused_by_its_size_alone(tree: Tree) -> None:
    root = tree("huge.txt")
    os.truncate(root / "huge.txt", 1 << 30)
    (found,) = find_files(root)
    assert isinstance(found, FoundFile)
    with pytest.raises(DocumentError) as caught:
        found.read()
    assert caught.value.reason == "too large: 1,024.0 MiB, the limit is 32.0 MiB"
    assert caught.value.stale


def test_the_size_limit_is_the_callers(tree: Tree) -> None:
    root = tree("a.md")
    (found,) = find_files(root, max_bytes=5)
    assert isinstance(found, FoundFile)
    assert found.read() == b"words"
    (found,) = find_files(root, max_bytes=4)
    assert isinstance(found, FoundFile)
    with pytest.raises(DocumentError, match="too large: 5 bytes, the limit is 4 bytes"):
        found.read()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * size)
    assert read_file(path) == b"x" * size


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc: use Linux")
def test_a_file_that_hides_its_size_is_read_within_the_limit() -> None:
    assert b"[stack]" in read_file("/proc/self/maps")
    with pytest.raises(DocumentError, match="too large"):
        read_file("/proc/self/maps", max_bytes=10)


def test_a_large_binary_file_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF" + bytes(1 << 20))
    with pytest.raises(DocumentError, match="binary file") as caught:
        read_file(path)
    assert caught.value.stale


def test_what_is_no_longer_a_regular_file_is_not_read(tree: Tree, tmp_path: Path) -> None:
    root = tree("fifo.md", "link.md", "folder.md")
    found = list(find_files(root))
    for path in root.iterdir():
        path.unlink()
    os.mkfifo(root / "fifo.md")
    (tmp_path / "secret").write_text("secret")
    (root / "link.md").symlink_to(tmp_path / "secret")
    (root / "folder.md").mkdir()
    for item in found:
        assert isinstance(item, FoundFile)
        with pytest.raises(DocumentError, match="not a regular file"):
            item.read()
