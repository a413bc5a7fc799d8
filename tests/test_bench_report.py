"""Measurements as one page."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import about, chunking_rows, quality_rows, recall_rows

from ragkit.benchmark.files import write_rows
from ragkit.benchmark.report import page, write_report
from ragkit.benchmark.rows import Rows

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Reads a page as a browser does, and remembers what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.said: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        for tag in {*self.open[-1:], "page"}:
            self.said.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def whole() -> str:
    return page([recall_rows(), quality_rows(), chunking_rows()])


def test_a_page_is_written_of_all_that_is_measured(tmp_path: Path) -> None:
    for rows in (chunking_rows(), quality_rows()):
        write_rows(rows, tmp_path)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    read = Reader(path.read_text())
    assert read.said["h1"] == ["Search of squad, measured"]
    assert read.said["h2"] == ["Quality", "Chunking"]


def test_the_answers_come_first(whole: str) -> None:
    lead = whole.index("No setting reaches a recall of 0.95 at every limit.")
    assert lead < whole.index("hybrid has the highest nDCG@10") < whole.index("<h2")


def test_it_needs_no_network_and_no_script(whole: str) -> None:
    read = Reader(whole)
    assert not read.all("script")
    assert not read.all("link")
    assert not read.all("img")
    assert "http" not in whole
    assert "@import" not in whole
    assert not re.search(r"url\((?!#)", whole)
    asked = [each["href"] for each in read.all("a")]
    ids = {attributes.get("id") for _, attributes in read.elements}
    assert {str(each).removeprefix("#") for each in asked} <= ids


def test_it_is_well_formed_and_says_everything_once(whole: str) -> None:
    read = Reader(whole)
    assert read.wrong == []
    assert read.open == []
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_who_does_not_see_it_can_read_it(whole: str) -> None:
    read = Reader(whole)
    assert read.all("html") == [{"lang": "en"}]
    assert len(read.said["caption"]) == len(read.all("table"))
    assert all(head.get("scope") for head in read.all("th"))
    drawings = [each for each in read.all("div") if each.get("role") == "img"]
    assert len(drawings) == len(read.all("svg")) == 3
    assert all(each["aria-label"] for each in drawings)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_published_layout_has_headings_that_span_their_columns(whole: str) -> None:
    first = whole[whole.index("<table>") : whole.index("</table>")]
    spans = re.findall(r'<th scope="colgroup" colspan="2">(\d)</th>', first)
    assert spans == ["1", "2", "3"]
    assert '<th scope="row">100</th>' in first
    assert "<strong>0.956*</strong>" in first


def contrast(one: str, other: str) -> float:
    """Of two colours, as the Web Content Accessibility Guidelines 2.2 have it."""

    def light(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_letters_stand_out_in_light_and_dark(whole: str) -> None:
    schemes = re.findall(r":root \{([^}]*--paper[^}]*)\}", whole)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for letters in ("ink", "soft", "strong"):
            for ground in ("paper", "tint"):
                assert contrast(colours[letters], colours[ground]) >= 4.5, (letters, ground)


def test_nothing_in_the_data_becomes_part_of_the_page() -> None:
    evil = "<script>alert(1)</script>\"' onload=x &amp; $title ${style}"
    rows = quality_rows(label=evil)
    facts = about("quality", subject={"collection": evil, evil: evil}, machine={"processor": evil},
                  versions={evil: evil}, queries=evil, method=(evil,), notes=(evil,),
                  settings={"target": 0.9, evil: evil})  # fmt: skip
    text = page([Rows(rows, about=facts)])
    read = Reader(text)
    assert not read.all("script")
    assert not any("onload" in attributes for _, attributes in read.elements)
    assert read.wrong == []
    assert evil in "".join(read.said["title"])
    assert "".join(read.said["page"]).count(evil) >= 8


def test_what_the_words_mean_is_told(whole: str) -> None:
    terms = "".join(Reader(whole).said["dt"])
    for term in ("Recall", "Quantization", "Oversampling", "Rescore"):
        assert term in terms


def test_without_matplotlib_the_page_is_there_without_plots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = page([chunking_rows()])
    assert "<svg" not in text
    assert "ragkit[bench]" in text
    assert "<table>" in text


def test_a_measurement_without_rows_or_collection_is_told_as_such(tmp_path: Path) -> None:
    nothing = Rows[Any]([], about=replace(about("chunking"), subject={}))
    text = page([nothing])
    assert "<h1>Search, measured</h1>" in text
    assert "Nothing was measured." in text


def test_a_folder_without_measurements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of recall\.json, quantization\.json"):
        write_report(tmp_path)


def test_a_damaged_measurement_is_refused_and_an_older_page_stays(tmp_path: Path) -> None:
    write_rows(chunking_rows(), tmp_path)
    (tmp_path / "report.html").write_text("older")
    (tmp_path / "chunking.json").write_text("{")
    with pytest.raises(ValueError, match=r"chunking\.json"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "older"
