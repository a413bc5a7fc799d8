from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.citations import Citation
from ragkit.hits import Hit

HIT = Hit(
    id="1",
    score=0.5,
    title="Keys",
    source="guide/keys.md",
    corpus="notes",
    text="one\ntwo\n\nfour",
    start=120,
    end=133,
    line=12,
    headings=("Server", "Keys"),
    ordinal=3,
    metadata={},
)


def test_a_citation_is_a_path_of_headings_and_the_lines_of_the_text() -> None:
    assert str(HIT.citation) == "guide/keys.md > Server > Keys, lines 12\u201315"
    assert (HIT.citation.line, HIT.citation.last_line) == (12, 15)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"text": "one line"}, "line 12"),
        ({"line": None}, "characters 120\u2013133"),
        ({"line": None, "page": 3, "last_page": 3}, "page 3"),
        ({"line": None, "page": 3, "last_page": 4}, "pages 3\u20134"),
        ({"line": None, "page": 3}, "page 3"),
        ({"page": 3, "last_page": 4}, "pages 3\u20134"),
    ],
)
def test_a_citation_names_pages_before_lines_before_characters(
    changes: dict[str, object], place: str
) -> None:
    hit = replace(HIT, headings=(), **changes)
    assert str(hit.citation) == f"guide/keys.md, {place}"


def test_a_text_without_lines_has_no_last_line() -> None:
    assert replace(HIT, line=None).citation.last_line is None


def test_a_citation_has_all_that_its_span_says_of_the_place() -> None:
    hit = replace(HIT, page=3, last_page=4)
    assert hit.citation == Citation(
        source="guide/keys.md",
        corpus="notes",
        title="Keys",
        headings=("Server", "Keys"),
        start=120,
        end=133,
        line=12,
        last_line=15,
        page=3,
        last_page=4,
    )


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1), st.lists(st.text(), max_size=3))
def test_no_name_breaks_the_line_of_a_citation(source: str, headings: list[str]) -> None:
    shown = str(replace(HIT, source=source, headings=tuple(headings)).citation)
    assert shown.splitlines() == [shown]
    shown.encode()  # a lone surrogate would not be text


def test_what_a_terminal_obeys_is_shown_as_an_escape() -> None:
    hit = replace(HIT, source="a\nb.md", headings=("\x1b[2J", "\u202egnp.exe"), text="x")
    assert str(hit.citation) == r"a\nb.md > \x1b[2J > \u202egnp.exe, line 12"


@pytest.mark.parametrize(
    "name",
    [
        "{0} {title}",
        "%s %(x)s",
        "[bold]",
        "Überblick \u0646\u0645\u06cc\u200c\u062e\u0648\u0631\u0645 👩\u200d💻",
    ],
)
def test_names_are_cited_as_they_are(name: str) -> None:
    hit = replace(HIT, source=f"{name}.md", headings=(name,), text="x")
    assert str(hit.citation) == f"{name}.md > {name}, line 12"
