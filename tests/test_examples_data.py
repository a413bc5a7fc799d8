"""The example documents are valid, agree with each other, and answer the example questions."""

from __future__ import annotations

import ast
import csv
import hashlib
import hmac
import itertools
import json
import re
import runpy
import shutil
import sqlite3
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pathspec
import pytest
import yaml

from ragkit.documents import Document, read_folder

EXAMPLES = Path(__file__).parents[1] / "examples"
DOCS = EXAMPLES / "docs"

IGNORED = pathspec.GitIgnoreSpec.from_lines((DOCS / ".gitignore").read_text().splitlines())
# What a tool leaves behind is no document: its folders begin with a dot or an underscore.
FILES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*")
    if path.is_file() and not any(part[0] in "._" for part in path.relative_to(DOCS).parts)
)
PUBLISHED = [source for source in FILES if not IGNORED.match_file(source)]
QUESTIONS: list[dict[str, str]] = [
    json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text("utf-8").splitlines()
]


def read(source: str) -> str:
    return (DOCS / source).read_text("utf-8")


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    """What ragkit makes of the folder, by source; a skipped file fails the test."""
    found = list(read_folder(DOCS))
    assert [item for item in found if not isinstance(item, Document)] == []
    return {item.source: item for item in found if isinstance(item, Document)}


def published(*suffixes: str) -> list[str]:
    return [source for source in PUBLISHED if Path(source).suffix in suffixes]


def front_matter(text: str) -> Any:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


# The folder


def test_the_promised_formats_are_there() -> None:
    counts = Counter(Path(source).suffix for source in PUBLISHED)
    code = sum(counts[suffix] for suffix in (".py", ".sh", ".sql"))
    assert counts[".md"] >= 8
    assert counts[".html"] >= 3
    assert counts[".rst"] >= 2
    assert code >= 3
    assert all(counts[suffix] >= 1 for suffix in (".json", ".jsonl", ".csv", ".ipynb"))


def test_there_are_about_twenty_documents_in_several_folders() -> None:
    assert 18 <= len(PUBLISHED) <= 25
    assert len({Path(source).parent for source in PUBLISHED}) >= 5


@pytest.mark.parametrize("source", PUBLISHED)
def test_every_document_is_of_a_readable_length(source: str) -> None:
    assert 60 <= len(read(source).splitlines()) <= 250


def test_the_ignore_file_hides_a_draft_whose_subject_no_published_document_has() -> None:
    hidden = set(FILES) - set(PUBLISHED)
    assert hidden == {"drafts/version-3-plan.md"}
    assert "Marmalade" in read("drafts/version-3-plan.md")
    assert not [source for source in PUBLISHED if "marmalade" in read(source).lower()]


def test_ragkit_reads_every_published_document_and_no_draft(
    documents: dict[str, Document],
) -> None:
    assert sorted(documents) == PUBLISHED


# The formats


@pytest.mark.parametrize("source", published(".md"))
def test_a_markdown_document_has_one_title_and_sections_below_it(source: str) -> None:
    body = re.sub(r"^```.*?^```$", "", read(source), flags=re.DOTALL | re.MULTILINE)
    levels = [len(marks) for marks in re.findall(r"^(#+) \S", body, re.MULTILINE)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert levels.count(2) >= 3


def test_front_matter_is_yaml_with_a_title() -> None:
    matter = [front_matter(read(source)) for source in published(".md")]
    titled = [values for values in matter if values is not None]
    assert len(titled) >= 5
    assert len(titled) < len(matter), "some documents are to have no front matter"
    assert all(isinstance(values["title"], str) for values in titled)


class _Outline(HTMLParser):
    """Counts elements and notes those that are closed in the wrong order."""

    VOID = frozenset({"link", "meta", "input", "br", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: Counter[str] = Counter()
        self.misplaced: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.misplaced.append((self.getpos()[0], tag))


@pytest.mark.parametrize("source", published(".html"))
def test_an_html_page_is_well_formed_and_has_what_a_reader_must_drop(source: str) -> None:
    outline = _Outline()
    outline.feed(read(source))
    outline.close()
    assert outline.misplaced == []
    assert outline.open == []
    assert [outline.counts[tag] for tag in ("title", "main", "h1")] == [1, 1, 1]
    assert all(outline.counts[tag] for tag in ("nav", "script", "footer"))


@pytest.mark.parametrize("source", published(".rst"))
def test_every_rst_title_is_underlined_to_its_length(source: str) -> None:
    lines = read(source).splitlines()
    pairs = [
        (title, line)
        for title, line in itertools.pairwise(lines)
        if title.strip() and re.fullmatch(r"([=#*])\1{2,}", line)
    ]
    assert len(pairs) >= 8
    assert [title for title, line in pairs if len(title) != len(line)] == []


@pytest.mark.parametrize("source", published(".py"))
def test_python_code_parses(source: str) -> None:
    assert ast.get_docstring(ast.parse(read(source)))


@pytest.mark.parametrize("source", published(".sh"))
def test_a_shell_script_parses(source: str) -> None:
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("needs a POSIX shell named sh on the PATH")
    subprocess.run([shell, "-n", DOCS / source], check=True)


@pytest.mark.parametrize("source", published(".sql"))
def test_an_sql_schema_makes_a_database(source: str) -> None:
    if sqlite3.sqlite_version_info < (3, 37):
        pytest.skip("the schema has STRICT tables: needs a Python with SQLite 3.37 or later")
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(read(source))
        assert database.execute("SELECT count(*) FROM endpoint_backlog").fetchone() == (0,)
    finally:
        database.close()


@pytest.mark.parametrize("source", published(".json"))
def test_a_json_document_is_an_object_with_a_title(source: str) -> None:
    value = json.loads(read(source))
    assert isinstance(value["title"], str)


@pytest.mark.parametrize("source", published(".jsonl"))
def test_every_line_of_a_jsonl_document_is_an_object_in_order_of_time(source: str) -> None:
    records = [json.loads(line) for line in read(source).splitlines()]
    times = [record["time"] for record in records]
    assert times == sorted(times)


@pytest.mark.parametrize("source", published(".csv"))
def test_every_row_of_a_csv_document_fits_its_header(source: str) -> None:
    with (DOCS / source).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert len(set(header)) == len(header)
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("source", published(".ipynb"))
def test_a_notebook_has_prose_code_that_parses_and_outputs(source: str) -> None:
    notebook = json.loads(read(source))
    kinds = Counter(cell["cell_type"] for cell in notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4
    assert kinds["markdown"] >= 3
    assert kinds["code"] >= 3
    assert all(ast.parse("".join(cell["source"])).body for cell in code)
    assert any(cell["outputs"] for cell in code)


# The documents agree


def test_every_file_that_a_document_names_exists() -> None:
    named = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:md|rst|py|sh|sql|csv))`")
    missing = [
        (source, name)
        for source in PUBLISHED
        for name in named.findall(read(source))
        if not (DOCS / name).is_file() and not (DOCS / source).with_name(name).is_file()
    ]
    assert missing == []


def test_every_error_code_that_is_mentioned_is_in_the_list_of_error_codes() -> None:
    listed = set(re.findall(r"<td>(FP-\d{4})</td>", read("api/errors.html")))
    mentioned = {
        code for source in PUBLISHED for code in re.findall(r"\bFP-[1-9]\d{3}\b", read(source))
    }
    assert mentioned == listed


def test_every_setting_that_is_mentioned_is_in_the_reference() -> None:
    reference = read("reference/configuration.rst")
    sections = re.findall(r"^(\w+)\n=+$", reference, re.MULTILINE)
    setting = re.compile(rf"`(?:{'|'.join(sections)})\.([a-z_0-9]+)[` ]")
    listed = set(re.findall(r"^``([a-z_0-9]+)`` \(", reference, re.MULTILINE))
    mentioned = {name for source in PUBLISHED for name in setting.findall(read(source))}
    assert mentioned
    assert mentioned <= listed


def test_the_client_that_readers_copy_accepts_either_signature_and_refuses_old_ones() -> None:
    client = runpy.run_path(str(DOCS / "clients/fernpost_client.py"))
    verify, invalid = client["verify_signature"], client["InvalidSignature"]
    body, sent_at = b'{"invoice": "INV-1042"}', 1_762_245_000
    old, new = (
        hmac.new(secret, b"%d." % sent_at + body, hashlib.sha256).hexdigest()
        for secret in (b"old secret", b"new secret")
    )
    header = f"t={sent_at},v1={old},v1={new}"
    for secret in ("old secret", "new secret"):
        verify(body, header, secret, now=sent_at + 300)
        with pytest.raises(invalid, match="300 seconds"):
            verify(body, header, secret, now=sent_at + 301)
    with pytest.raises(invalid, match="no signature fits"):
        verify(body + b" ", header, "new secret", now=sent_at)


# The questions


def test_there_are_about_thirty_questions_with_ids_of_their_own() -> None:
    assert len(QUESTIONS) >= 30
    assert len({question["id"] for question in QUESTIONS}) == len(QUESTIONS)
    assert all(set(question) == {"id", "text", "source", "answer"} for question in QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["id"])
def test_the_source_of_a_question_is_published_and_holds_its_answer(
    question: dict[str, str],
) -> None:
    assert question["source"] in PUBLISHED
    assert question["answer"].strip()
    assert question["answer"] in read(question["source"])


def test_every_answer_is_still_there_in_the_text_that_ragkit_indexes(
    documents: dict[str, Document],
) -> None:
    lost = [
        each["id"] for each in QUESTIONS if each["answer"] not in documents[each["source"]].text
    ]
    assert lost == []


def test_every_document_answers_a_question() -> None:
    assert {question["source"] for question in QUESTIONS} == set(PUBLISHED)
