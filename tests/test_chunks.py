from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_text_splitters import Language

from ragkit.chunks import Chunk, Chunker, beginning
from ragkit.documents import Document
from ragkit.reading.content import join_pages
from ragkit.tokens import CHARACTER_TOKENS, estimate_tokens

FORMATS = ("text", "markdown", "rst", "code", "records")


def chunks_of(
    text: str,
    format: str = "text",  # noqa: A002  (the document's word)
    *,
    max_tokens: int = 300,
    overlap: int = 0,
    language: str | None = None,
    first_line: int | None = 1,
) -> list[Chunk]:
    document = Document(
        source="a/file",
        title="A title",
        text=text,
        format=format,
        language=language,
        first_line=first_line,
    )
    return Chunker(max_tokens=max_tokens, overlap=overlap)(document)


def tokens_of(*texts: str) -> int:
    """The limit that just holds each of the texts by itself."""
    return max(estimate_tokens(text) for text in texts)


def texts_of(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def check(text: str, chunks: list[Chunk], max_tokens: int) -> None:
    """What holds for the chunks of any text in any format."""
    assert [chunk.ordinal for chunk in chunks] == [*range(len(chunks))]
    line, start, end = 1, 0, 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert estimate_tokens(chunk.text) <= max_tokens
        line += text.count("\n", start, chunk.start)
        assert chunk.line == line
        assert not text[end : chunk.start].strip()
        start, end = chunk.start, chunk.end
    assert not text[end:].strip()
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end


# --- any text -------------------------------------------------------------------------------

LINES = st.one_of(
    st.sampled_from(
        [
            "",
            "",
            "   ",
            "\f",
            "# One",
            "## Two ##",
            "###### Six",
            "#",
            "Name",
            "====",
            "----",
            "~~~~",
            "```python",
            "```",
            "~~~",
            "---",
            "- a point",
            "| a | b |",
            ".. note::",
            "class A:",
            "    @cached",
            "    def f(self):",
            "        return 1",
            "key: value",
            "A sentence. Another one! And a third?",
            "windows\r",
            "\tindented",
            "漢字かな交じりの文。次の文!" * 3,
            "word " * 40,
            "x" * 150,
            "e\u0301" * 40,
            "👩\u200d💻🇩🇪👍🏽" * 6,
            " " * 90,
            "\ud800",
        ]
    ),
    st.text(max_size=30),
)
TEXTS = st.lists(LINES, max_size=25).map("\n".join) | st.lists(LINES, max_size=9).map("".join)
LANGUAGES = st.sampled_from([None, "unheard of", *(language.value for language in Language)])


@settings(max_examples=300, deadline=None)
@given(
    TEXTS, st.sampled_from(FORMATS), LANGUAGES, st.integers(2 * CHARACTER_TOKENS, 120), st.data()
)
def test_chunks_are_spans_that_fit_and_together_cover_the_text(
    text: str,
    format: str,  # noqa: A002
    language: str | None,
    max_tokens: int,
    data: st.DataObject,
) -> None:
    overlap = data.draw(st.integers(0, max_tokens - CHARACTER_TOKENS))
    document = Document(
        source="a", title="a", text=text, format=format, language=language, first_line=1
    )
    chunks = Chunker(max_tokens=max_tokens, overlap=overlap)(document)
    check(document.text, chunks, max_tokens)
    for before, after in pairwise(chunks):
        assert estimate_tokens(document.text[after.start : before.end]) <= overlap


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "unit",
    ["漢", "word ", "🎉", "a\n", "\n", "# h\n", "```\n", "=", "- ", "a\n=\n", "\u0301", "@\n"],
)
def test_much_of_one_thing_is_chunked(format: str, unit: str) -> None:  # noqa: A002
    text = "start " + unit * (100_000 // len(unit))
    check(text, chunks_of(text, format, overlap=40, language="python"), 300)


@pytest.mark.parametrize("format", FORMATS)
def test_a_line_of_a_megabyte_without_a_space_is_chunked(format: str) -> None:  # noqa: A002
    text = "x" * 1_000_000
    chunks = chunks_of(text, format, overlap=40, language="go")
    check(text, chunks, 300)
    assert all(estimate_tokens(chunk.text) > 290 for chunk in chunks[:-1])


@pytest.mark.parametrize("text", ["", " ", "\n\n\t\n", "\u3000\u2003", "\f"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_blank_document_has_no_chunks(text: str, format: str) -> None:  # noqa: A002
    assert chunks_of(text, format) == []


def test_a_short_text_is_one_chunk_without_its_outer_blank_lines() -> None:
    (chunk,) = chunks_of("\n\n  An indented line\nand another.  \n\n", first_line=4)
    assert chunk.text == "  An indented line\nand another."
    assert (chunk.source, chunk.title, chunk.line) == ("a/file", "A title", 6)


def test_a_converted_document_has_no_line_numbers() -> None:
    assert [chunk.line for chunk in chunks_of("a\n\nb", first_line=None)] == [None]


def test_a_chunk_knows_the_pages_that_it_begins_and_ends_on() -> None:
    pages = ["First page, " * 4, "", "Third page, " * 40, "Fourth page."]
    text, starts = join_pages(pages)
    chunks = Chunker(max_tokens=60, overlap=12)(
        Document(source="a.pdf", text=text, title="T", first_line=None, pages=starts)
    )
    names = {"First": 1, "Third": 3, "Fourth": 4}
    told = [[page for name, page in names.items() if name in chunk.text] for chunk in chunks]
    assert [(chunk.page, chunk.last_page) for chunk in chunks] == [(p[0], p[-1]) for p in told]
    assert {(chunk.page, chunk.last_page) for chunk in chunks} == {(1, 3), (3, 3), (3, 4)}


@pytest.mark.parametrize(("at", "pages"), [(0, (1, 1)), (3, (1, 1)), (4, (1, 2)), (9, (1, 2))])
def test_a_page_begins_with_its_first_character(at: int, pages: tuple[int, int]) -> None:
    text = "one two three"[: at + 1]
    (chunk,) = Chunker()(Document(source="a", text=text, title="T", pages=(0, 4)))
    assert (chunk.page, chunk.last_page) == pages


def test_a_document_without_pages_has_chunks_without_pages() -> None:
    assert [(chunk.page, chunk.last_page) for chunk in chunks_of("a\n\nb")] == [(None, None)]


def test_what_stands_before_the_first_page_goes_with_it() -> None:
    (chunk,) = Chunker()(Document(source="a", text="cover, text", title="T", pages=(7,)))
    assert (chunk.page, chunk.last_page) == (1, 1)


def test_repeated_passages_are_told_apart() -> None:
    passage = "The same words again and again.\n\n"
    chunks = chunks_of(passage * 8, max_tokens=12)
    assert [chunk.start for chunk in chunks] == [*range(0, 8 * len(passage), len(passage))]


# --- where text is cut ----------------------------------------------------------------------


def test_a_paragraph_that_fits_stays_whole() -> None:
    short, long = "Short. Very.", "These are the words. They make this the longer one."
    text = f"{short}\n\n{long}\n\n{short}"
    limit = tokens_of(f"{long}\n\n{short}")
    assert texts_of(chunks_of(text, max_tokens=limit)) == [short, f"{long}\n\n{short}"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    sentences = ["The first is here.", "The second follows it.", "A third one ends it."]
    chunks = chunks_of(" ".join(sentences), max_tokens=tokens_of(*sentences) + 1)
    assert texts_of(chunks) == sentences


def test_a_long_sentence_is_cut_between_words() -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota"]
    chunks = chunks_of(" ".join(words), max_tokens=8)
    assert len(chunks) > 1
    assert [word for chunk in chunks for word in chunk.text.split()] == words


def test_chinese_is_cut_between_sentences() -> None:
    assert texts_of(chunks_of("第一句话在这里。第二句话在这里。", max_tokens=10)) == [
        "第一句话在这里。",
        "第二句话在这里。",
    ]


@pytest.mark.parametrize("cluster", ["e\u0301\u0323", "👩\u200d💻", "👍🏽", "क\u093f"])
def test_what_a_reader_sees_as_one_character_is_not_cut(cluster: str) -> None:
    for chunk in chunks_of(cluster * 200, max_tokens=60, overlap=20):
        assert chunk.text == cluster * (len(chunk.text) // len(cluster))


def test_a_chunk_is_filled_up_before_a_text_that_has_to_be_cut_anyway() -> None:
    first, *_ = chunks_of("A line.\n\n" + "word " * 100, max_tokens=30)
    assert first.text.startswith("A line.\n\nword word")


# --- overlap --------------------------------------------------------------------------------


def test_a_chunk_repeats_the_end_of_the_one_before_from_a_word_on() -> None:
    text = " ".join(f"word{number}" for number in range(200))
    chunks = chunks_of(text, max_tokens=100, overlap=20)
    for before, after in pairwise(chunks):
        repeated = text[after.start : before.end]
        assert 15 <= estimate_tokens(repeated) <= 20
        assert repeated.startswith("word")


def test_an_overlap_begins_with_a_sentence_where_that_costs_little() -> None:
    text = "One is here now. Two is next to it. " * 9
    chunks = chunks_of(text, max_tokens=40, overlap=tokens_of("Two is next to it. One "))
    assert len(chunks) > 2
    for before, after in pairwise(chunks):
        assert text[after.start : before.end] in ("One is here now.", "Two is next to it.")


def test_an_overlap_gives_way_to_a_paragraph_that_needs_the_room() -> None:
    paragraph = "some words of text. " * 4
    chunks = chunks_of(f"{paragraph}\n\n{paragraph}", max_tokens=tokens_of(paragraph), overlap=10)
    assert texts_of(chunks) == [paragraph.strip()] * 2


@pytest.mark.parametrize("format", ["markdown", "rst"])
def test_no_overlap_reaches_back_over_a_heading(format: str) -> None:  # noqa: A002
    section = "Name\n====\n\n" + "some words here. " * 12 + "\n\n"
    chunks = chunks_of(section * 3, format, max_tokens=40, overlap=15)
    starts = [chunk.start for chunk in chunks if chunk.text.startswith("Name")]
    assert starts == [0, len(section), 2 * len(section)]
    ends = {chunk.end for chunk in chunks}
    assert {at - 3 for at in (len(section), 2 * len(section))} <= ends


# --- Markdown -------------------------------------------------------------------------------


def paths_of(text: str, format: str = "markdown") -> list[tuple[str, ...]]:  # noqa: A002
    """The heading path of each section, all of them too large to go together."""
    filler = "\n\n" + "body text " * 12 + "\n\n"
    return [chunk.headings for chunk in chunks_of(text.replace("…", filler), format, max_tokens=70)]


def test_a_section_knows_the_headings_above_it() -> None:
    assert paths_of("# A\n…\n## B\n…\n### C\n…\n## D\n…\n# E\n…") == [
        ("A",),
        ("A", "B"),
        ("A", "B", "C"),
        ("A", "D"),
        ("E",),
    ]


def test_a_skipped_level_stands_below_the_heading_above_it() -> None:
    assert paths_of("# A\n…\n#### B\n…\n### C\n…\n## D\n…") == [
        ("A",),
        ("A", "B"),
        ("A", "C"),
        ("A", "D"),
    ]


def test_text_before_the_first_heading_has_no_path() -> None:
    assert paths_of("…\n# A\n…") == [(), ("A",)]


def test_underlined_headings_count() -> None:
    assert paths_of("A\n=\n…\nThe next\n---\n…\n# C\n…") == [("A",), ("A", "The next"), ("C",)]


@pytest.mark.parametrize(
    "other",
    [
        "```\n# A\n```",
        "~~~ sh\n# A\n```\n# A\n~~~",
        "````\n```\n# A\n````",
        "```\nA\n===\n```",
        "    # A",
        "#A",
        "####### A",
        "- A\n---",
        "| A |\n---",
        "two lines\nof text\n---",
        "text\n\n---",
    ],
)
def test_what_only_looks_like_a_heading_is_none(other: str) -> None:
    assert paths_of(f"# Real\n…\n{other}\n") == [("Real",)]


def test_an_unclosed_fence_runs_to_the_end() -> None:
    assert paths_of("# Real\n…\n```\n# A\n") == [("Real",)]


def test_a_heading_is_named_without_its_marks() -> None:
    assert paths_of("##  Some \t name  ##\n…") == [("Some name",)]
    assert paths_of("# C#\n…") == [("C#",)]


def test_a_heading_without_a_name_ends_a_section_but_is_no_step_of_a_path() -> None:
    assert paths_of("# A\n…\n## B\n…\n##\n…") == [("A",), ("A", "B"), ("A",)]


def test_a_heading_of_thousands_of_characters_is_shortened_in_the_path() -> None:
    (path,) = {chunk.headings for chunk in chunks_of("# " + "long " * 2000, "markdown")}
    assert len(path[0]) == 120


def test_a_heading_goes_with_the_text_under_it() -> None:
    text = "# Guide\n\n## Start\n\n" + "some words here. " * 30
    first, *rest = chunks_of(text, "markdown", max_tokens=40)
    assert first.text.startswith("# Guide\n\n## Start\n\nsome words")
    assert {chunk.headings for chunk in (first, *rest)} == {("Guide", "Start")}


def test_a_heading_is_not_left_alone_by_a_paragraph_that_nearly_fits() -> None:
    text = "# A heading of some words\n\n" + "Plain text of words. " * 8
    assert all("Plain" in chunk.text for chunk in chunks_of(text, "markdown", max_tokens=50))


def test_small_sections_go_together_under_the_headings_they_share() -> None:
    text = "# Keys\n\nintro\n\n## Rotate\n\nweekly\n\n## Revoke\n\nat once\n"
    (chunk,) = chunks_of(text, "markdown")
    assert chunk.headings == ("Keys",)
    assert chunk.text == text.strip()


def test_sections_of_some_size_stay_apart() -> None:
    text = "# A\n\n" + "words " * 30 + "\n\n# B\n\n" + "words " * 30
    assert [chunk.headings for chunk in chunks_of(text, "markdown", max_tokens=150)] == [
        ("A",),
        ("B",),
    ]


def test_a_listing_that_fits_stays_whole() -> None:
    listing = "```python\na = 1\n\nb = 2\n\nc = 3\n```"
    text = f"# A\n\n{'Some words of text. ' * 5}\n{listing}\n\n{'More words of text. ' * 5}"
    assert any(listing in chunk.text for chunk in chunks_of(text, "markdown", max_tokens=40))


# --- reStructuredText -----------------------------------------------------------------------


def test_section_titles_take_their_levels_in_order_of_appearance() -> None:
    text = "=====\nGuide\n=====\n…\nOne\n---\n…\nSub\n~~~\n…\nTwo\n---\n…\n=====\nOther\n=====\n…"
    assert paths_of(text, "rst") == [
        ("Guide",),
        ("Guide", "One"),
        ("Guide", "One", "Sub"),
        ("Guide", "Two"),
        ("Other",),
    ]


def test_the_same_adornment_with_and_without_overline_is_two_levels() -> None:
    assert paths_of("===\nTop\n===\n…\nBelow\n=====\n…", "rst") == [("Top",), ("Top", "Below")]


@pytest.mark.parametrize(
    "other",
    [
        "text\n\n----\n\ntext",
        "::\n\n   Name\n   ----",
        "two lines\nof text\n-------",
        "=====  =====\nA      B\n=====  =====",
        "A name\n--",
    ],
)
def test_what_only_looks_like_a_section_title_is_none(other: str) -> None:
    assert paths_of(f"Real\n====\n…\n{other}\n", "rst") == [("Real",)]


# --- code -----------------------------------------------------------------------------------

PYTHON = [
    '''\
@cache
def first(path):
    """Say where."""

    return os.fspath(path)
''',
    """\
async def second(path):
    total = 0

    return total + 1
""",
    """\
class Third:
    def method(self):
        if self:

            return 1
""",
    """\
    @property
    def other(self):
        return 2, 3, 4, 5
""",
]


def test_a_python_function_that_fits_stays_whole_with_its_decorators() -> None:
    chunks = chunks_of(
        "\n\n".join(PYTHON), "code", language="python", max_tokens=tokens_of(*PYTHON)
    )
    assert texts_of(chunks) == [text.rstrip() for text in PYTHON]


def test_an_overlap_in_code_does_not_reach_back_into_another_definition() -> None:
    text = "\n\n".join(PYTHON)
    limit = tokens_of(*PYTHON) + 20
    chunks = chunks_of(text, "code", language="python", max_tokens=limit, overlap=20)
    assert len(chunks) > 2
    assert all(before.end <= after.start for before, after in pairwise(chunks))


@pytest.mark.parametrize(
    ("language", "first", "second"),
    [
        ("go", "func A() int {\n\n\treturn 1\n}", "func B() int {\n\n\treturn 2\n}"),
        ("js", "function a() {\n\n  return 1\n}", "function b() {\n\n  return 2\n}"),
        ("rust", "fn a() -> u8 {\n\n    1\n}", "fn b() -> u8 {\n\n    2\n}"),
        ("cpp", "void a() {\n\n  x();\n}", "int b() {\n\n  y();\n}"),
        ("latex", "\\section{A}\n\nText one.", "\\section{B}\n\nText two."),
    ],
)
def test_code_is_cut_between_definitions(language: str, first: str, second: str) -> None:
    limit = tokens_of(f"{first}\n", f"{second}\n")
    chunks = chunks_of(f"{first}\n{second}\n", "code", language=language, max_tokens=limit)
    assert texts_of(chunks) == [first, second]


@pytest.mark.parametrize("language", [None, "perl", "an unheard of one"])
def test_code_of_another_language_is_cut_between_blank_lines(language: str | None) -> None:
    chunks = chunks_of(
        "do $this;\ndo $that;\n\nand $more;", "code", language=language, max_tokens=10
    )
    assert texts_of(chunks) == ["do $this;\ndo $that;", "and $more;"]


# --- records --------------------------------------------------------------------------------


def test_a_record_that_fits_stays_whole_and_is_not_repeated() -> None:
    records = [f"name: n{number}\ncity: Ulm\nnote: a few words" for number in range(6)]
    pairs = ["\n\n".join(records[at : at + 2]) for at in (0, 2, 4)]
    limit = tokens_of(*pairs) + 2
    chunks = chunks_of("\n\n".join(records), "records", max_tokens=limit, overlap=limit // 2)
    assert texts_of(chunks) == pairs


# --- beginnings -----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(0, 80))
def test_a_beginning_of_a_text_fits_and_ends_with_ink(text: str, max_tokens: int) -> None:
    cut = beginning(text, max_tokens)
    assert text.startswith(cut)
    assert estimate_tokens(cut) <= max_tokens
    if cut != text:
        assert cut == cut.rstrip()
        assert estimate_tokens(text) > max_tokens


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One two. Three four five six\nseven. Eight nine ten", "One two. Three four five six"),
        ("One two three four. Five six seven eight nine ten.", "One two three four."),
        (
            "one two three four five six seven eight nine ten",
            "one two three four five six seven eight nine",
        ),
        ("漢字かな交じり。次の文は少し長い文です。", "漢字かな交じり。"),
        ("x" * 90, "x" * 24),
        ("e\u0301" * 20, "e\u0301" * 4),
        ("\U0001f1e9\U0001f1ea" * 9, "\U0001f1e9\U0001f1ea"),
    ],
)
def test_a_beginning_ends_with_a_line_or_a_sentence_or_a_word(text: str, cut: str) -> None:
    assert beginning(text, 10) == cut


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_tokens", "overlap", "complaint"),
    [
        (7, 0, "max_tokens must be at least 8, got 7"),
        (0, 0, "max_tokens must be at least 8, got 0"),
        (100, 100, "overlap must be from 0 to max_tokens - 4 = 96, got 100"),
        (100, -1, "overlap must be from 0"),
    ],
)
def test_settings_out_of_range_are_refused(max_tokens: int, overlap: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Chunker(max_tokens=max_tokens, overlap=overlap)


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'a/file' has the format 'html': expected text, markdown"):
        chunks_of("text", "html")


def test_the_fingerprint_tells_settings_apart_and_gives_them_back() -> None:
    chunker = Chunker(max_tokens=120, overlap=10)
    assert chunker.fingerprint != Chunker(max_tokens=120, overlap=11).fingerprint
    assert Chunker.from_fingerprint(chunker.fingerprint) == chunker
    assert Chunker.from_fingerprint("somebody.else") is None


def test_headings_are_named_without_the_marks_of_code_and_bold_words() -> None:
    document = Document(
        source="a.md", title="t", format="markdown", text="# `fileinput` and **more**\n\nWords.\n"
    )
    (chunk,) = Chunker()(document)
    assert chunk.headings == ("fileinput and more",)
    assert chunk.text.startswith("# `fileinput` and **more**")


def test_rst_titles_are_named_without_roles() -> None:
    text = ":mod:`fileinput` --- Lines\n==========================\n\nWords.\n"
    (chunk,) = Chunker()(Document(source="a.rst", title="t", format="rst", text=text))
    assert chunk.headings == ("fileinput --- Lines",)
