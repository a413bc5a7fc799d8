from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.errors import DocumentError
from ragkit.reading.content import Content
from ragkit.reading.formats import read_code, read_markdown, read_rst, read_text
from ragkit.reading.records import read_csv, read_json, read_jsonl, read_notebook, read_tsv
from ragkit.reading.texts import decode, is_binary
from ragkit.reading.webpage import html_content, read_html

# ruff: noqa: RUF001  (other alphabets are the point)

GERMAN = (
    "Der Schlüssel wird jährlich gewechselt. Für größere Änderungen ist das Büro da, schöne Grüße."
)
FRENCH = (
    "La clé a été changée à l’été dernier; les élèves français préfèrent où ça coûte déjà moins."
)
SPANISH = "El niño soñó con la mañana en España; ¿cuándo llegará la información?"
POLISH = "Zażółć gęślą jaźń. Proszę o zmianę klucza, ponieważ bezpieczeństwo jest ważne."
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Klíče se mění každých devadesát dní."
TURKISH = "Türkiye'de ışık ve gölge; anahtarlar değiştirilmelidir, şifre güçlü olmalıdır. İstanbul."
RUSSIAN = "Ключи следует менять каждые девяносто дней, после чего старый ключ отзывается."
GREEK = "Τα κλειδιά πρέπει να αλλάζουν κάθε ενενήντα ημέρες για λόγους ασφαλείας."
JAPANESE = (
    "鍵は九十日ごとに交換してください。古い鍵は管理画面から無効にします。これは日本語の文章です。"
)
CHINESE = "密钥应每九十天更换一次。旧密钥可以在控制台中吊销。这是一个中文文本,用于测试。"
HUNGARIAN = (
    "Az őrült ötletű tűzoltó a kulcsokat minden kilencven nap után cseréli, és erről űrlap szól."
)
KOREAN = "키는 90일마다 교체해야 합니다. 이전 키는 콘솔에서 폐기할 수 있습니다."
DASHES = "The keys – all of them – are rotated “quarterly”; it’s automatic, and all else is ASCII."


# Encodings


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"),
        (GERMAN, "latin-1"),
        (FRENCH, "cp1252"),
        (SPANISH, "latin-1"),
        (DASHES, "cp1252"),
        (POLISH, "cp1250"),
        (HUNGARIAN, "cp1250"),
        (CZECH, "cp1250"),
        (CZECH, "iso8859-2"),
        (TURKISH, "cp1254"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (GREEK, "cp1253"),
        (JAPANESE, "shift-jis"),
        (JAPANESE, "euc-jp"),
        (CHINESE, "gb18030"),
        (KOREAN, "cp949"),
    ],
)
@pytest.mark.parametrize("times", [1, 500])
def test_old_encodings_are_detected(text: str, encoding: str, times: int) -> None:
    whole = (text + "\n") * times
    assert decode(whole.encode(encoding)) == whole


@pytest.mark.parametrize(
    "text",
    ["£5 each", "café", "20 °C ± 1", "# über\nx = 1", "§ 4", "It’s", "€ 30", "pão, ações e não"],
)
def test_a_few_accents_and_signs_are_taken_for_western(text: str) -> None:
    assert decode(text.encode("cp1252")) == text


def test_old_encodings_are_detected_behind_much_ascii() -> None:
    text = "plain words only\n" * 20_000 + GERMAN
    assert decode(text.encode("cp1252")) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", [GERMAN, JAPANESE, "😀 plain"])
def test_unicode_is_read_and_its_mark_is_dropped(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [GERMAN, DASHES, "odd"])
def test_utf16_without_a_mark_is_known_by_its_zeros(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_all_line_ends_become_newlines() -> None:
    assert decode(b"a\r\nb\rc\n\r\n") == "a\nb\nc\n\n"


def test_utf8_that_was_cut_off_keeps_all_but_the_last_character() -> None:
    assert decode(GERMAN.encode()[:-1] + "ü".encode()[:1]) == GERMAN[:-1] + "\ufffd"


def test_a_file_of_two_encodings_is_read_as_utf8_with_replacements() -> None:
    raw = (GERMAN + "\n").encode() * 3 + "Büro\n".encode("cp1252")
    assert decode(raw) == (GERMAN + "\n") * 3 + "B\ufffdro\n"


def test_a_declared_encoding_is_believed_where_the_text_is_not_utf8() -> None:
    assert decode("naïve".encode("cp1252"), declared="iso-8859-1") == "naïve"
    assert decode("дом".encode("koi8-r"), declared="koi8-r") == "дом"
    assert decode("naïve".encode(), declared="koi8-r") == "naïve"


@pytest.mark.parametrize("declared", ["hex", "no-such", "rot13", "x\x00y", "utf-7"])
def test_a_declared_encoding_that_makes_no_sense_does_no_harm(declared: str) -> None:
    assert decode((GERMAN + "\n").encode("cp1252"), declared=declared)


def test_stray_nuls_do_not_make_a_text_binary() -> None:
    text = "a line of a log that was cut off by a crash\x00\x00\nand goes on afterwards\n"
    assert not is_binary(text.encode())
    assert decode(text.encode()) == text


def test_terminal_colours_do_not_make_a_text_binary() -> None:
    assert not is_binary(b"\x1b[31mred\x1b[0m \x08\x0c" * 10)


@pytest.mark.parametrize("text", ["GIF89a is a format", "ID3 tags", "%PDF- begins PDFs", "MZ, PK"])
def test_a_text_about_binary_formats_is_a_text(text: str) -> None:
    assert not is_binary(text.encode())


def test_noise_behind_a_byte_order_mark_is_binary() -> None:
    with pytest.raises(DocumentError, match="binary file"):
        decode(b"\xff\xfe" + bytes(range(256)) * 20)


@pytest.mark.parametrize(
    "head",
    [
        b"\x7fELF\x02\x01",
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04 zip",
        b"\x1f\x8b\x08gzip",
        b"SQLite format 3\x00",
        bytes(1000),
        bytes(range(256)) * 4,
        b"\x01\x02\x03\x04 abc",
    ],
)
def test_binary_files_are_known_by_their_first_bytes(head: bytes) -> None:
    assert is_binary(head)
    with pytest.raises(DocumentError, match="binary file"):
        decode(head)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200))
def test_utf8_is_always_read_back(text: str) -> None:
    if not text.startswith("\ufeff"):
        assert decode(text.encode()) == text


# Markdown


def test_front_matter_in_yaml_is_title_and_metadata_and_not_text() -> None:
    content = read_markdown("---\ntitle: Keys\ndate: 2024-05-01\ntags: [a, b]\n---\n\n# H\n")
    assert content == Content(
        text="\n# H\n",
        title="Keys",
        format="markdown",
        metadata={"date": "2024-05-01", "tags": ["a", "b"]},
        first_line=6,
    )


def test_front_matter_in_toml_is_read_too() -> None:
    content = read_markdown('+++\ntitle = "Keys"\n[extra]\non = 2024-05-01\n+++\nBody.')
    assert (content.title, content.text, content.first_line) == ("Keys", "Body.", 6)
    assert content.metadata == {"extra": {"on": "2024-05-01"}}


@pytest.mark.parametrize(
    "text",
    [
        "---\ntitle: [\n---\nBody\n",
        "---\n- a list\n---\nBody\n",
        "---\njust a rule\n---\nBody\n",
        "---\ntitle: no end\n\nBody\n",
        "+++\nno toml\n+++\nBody\n",
        "---\na: !!python/object:os.system x\n---\nBody\n",
        "---\na: &a [*a]\n---\nBody\n",
        "---\na: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\n"
        "c: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n---\nx",
    ],
)
def test_front_matter_that_cannot_be_read_stays_in_the_text(text: str) -> None:
    content = read_markdown(text)
    assert (content.text, content.first_line, content.metadata) == (text, 1, {})


def test_odd_values_of_front_matter_become_text() -> None:
    content = read_markdown("---\n1: .nan\nbig: 99999999999999999999\nnone: ~\n---\nBody")
    assert content.metadata == {"1": "nan", "big": "99999999999999999999", "none": None}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# One\n\n# Two\n", "One"),
        ("## Badges\n\ntext\n\n# Project #\n", "Project"),
        ("### Only\n", "Only"),
        ("Under *lined*\n===\n", "Under lined"),
        ("Lower\n---\n\n# Higher\n", "Higher"),
        ("```sh\n# comment\n```\n\n# Real\n", "Real"),
        ("~~~\n# comment\n```\n# more\n~~~\n# Real\n", "Real"),
        ("```\n# never closed\n", None),
        ("    # code\n", None),
        ("#hashtag\n", None),
        ("# C#\n", "C#"),
        ("# ##\n", None),
        ("# `__init__` and [link](http://x/y) **bold** {#id}\n", "__init__ and link bold"),
        ("# snake_case and 2 \\* 3\n", "snake_case and 2 * 3"),
        ('<h1 align="center">Big <img src="x"> tool</h1>\n\n## a\n', "Big tool"),
        ("#\n\n# \n\ntext", None),
        ("no heading\n", None),
    ],
)
def test_the_title_of_markdown_is_its_first_heading(text: str, title: str | None) -> None:
    assert read_markdown(text).title == title


@pytest.mark.parametrize(
    "line", ["# " + "#" * 300_000 + "x", "\n<h1>" * 60_000, "# " + "[" * 300_000, "x\n" * 200_000]
)
def test_the_search_for_a_title_is_not_slowed_by_odd_texts(line: str) -> None:
    read_markdown(line)  # hangs for minutes if a pattern backtracks
    read_rst(line)


def test_long_titles_are_cut() -> None:
    title = read_markdown("# " + "long " * 1000 + "\n").title
    assert title is not None
    assert len(title) <= 200
    assert title.endswith("…")


# reStructuredText, plain text, code


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Title\n=====\n\ntext\n", "Title"),
        (".. _ref:\n\n####\nTop!\n####\n\nSub\n---\n", "Top!"),
        ("==============\n Indented one\n==============\n", "Indented one"),
        (":mod:`!json` --- JSON\n=====================\n", "json --- JSON"),
        ("A longer title\n===\n\nReal\n----\n", "Real"),
        ("just text\n\nmore\n", None),
        ("====  ====\nA     B\n====  ====\n", None),
    ],
)
def test_the_title_of_rst_is_that_of_its_first_section(text: str, title: str | None) -> None:
    content = read_rst(text)
    assert (content.title, content.format, content.text) == (title, "rst", text)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("git-add(1)\n==========\n\nNAME\n----\n", "git-add(1)"),
        ("= AsciiDoc Title\n:toc:\n", "AsciiDoc Title"),
        ("First line.\nSecond.\n", None),
        ("a\n\nTitle\n=====\n", None),
    ],
)
def test_plain_text_has_a_title_where_it_begins_with_one(text: str, title: str | None) -> None:
    assert read_text(text) == Content(text=text, title=title, first_line=1)


def test_code_has_its_language_and_its_name() -> None:
    content = read_code("def f(): ...\n", "src/a.py")
    assert (content.title, content.language, content.first_line) == ("a.py", "python", 1)
    assert read_code("all:\n", "src/Makefile").language is None


def test_code_in_long_lines_is_minified_but_a_small_file_is_not() -> None:
    with pytest.raises(DocumentError, match="minified"):
        read_code("x=1;" * 10_000, "a.js")
    assert read_code("x=1;" * 1_000, "a.js").title == "a.js"


# Records


def records(content: Content) -> list[str]:
    assert content.format == "records"
    assert content.first_line is None
    return content.text.removesuffix("\n").split("\n\n")


def test_an_array_of_objects_is_a_record_each() -> None:
    text = json.dumps(
        [
            {"id": 1, "name": {"first": "Ann"}, "tags": ["a", "b"], "none": None, "empty": {}},
            {"id": 2, "notes": "one\n\n\ntwo", "parts": [{"n": 1}, {"n": 2}]},
        ]
    )
    assert records(read_json(text)) == [
        "id: 1\nname.first: Ann\ntags: a, b",
        "id: 2\nnotes: one\ntwo\nparts.n: 1\nparts.n: 2",
    ]


def test_an_object_is_one_record_and_one_more_for_each_object_in_its_lists() -> None:
    text = '{"title": "T", "items": [{"a": 1, "b": {"c": true}}, {"a": 2}], "total": 2}'
    content = read_json(text)
    assert content.title == "T"
    assert records(content) == [
        "title: T",
        "items.a: 1\nitems.b.c: true",
        "items.a: 2",
        "total: 2",
    ]


def test_a_package_file_reads_well() -> None:
    text = '{"name": "pad", "scripts": {"test": "jest"}, "files": ["a"], "private": false}'
    content = read_json(text)
    assert content.title == "pad"
    assert records(content) == ["name: pad\nscripts.test: jest\nfiles: a\nprivate: false"]


@pytest.mark.parametrize("text", ["{", "{'a': 1}", "// c\n{}", "[" * 100_000])
def test_what_is_not_json_stays_plain_text(text: str) -> None:
    assert read_json(text) == Content(text=text, first_line=1)


def test_json_deeper_than_python_recurses_is_read_or_stays_text() -> None:
    text = '{"a":' * 400 + '"deep"' + "}" * 400
    assert "deep" in read_json(text).text


def test_a_bad_line_among_json_lines_is_kept() -> None:
    text = '{"a": 1, "b": {"c": [1, 2]}}\nnot json\n\n  \n{"a": [{"x": 1}, {"x": 2}]}\n'
    assert records(read_jsonl(text)) == ["a: 1\nb.c: 1, 2", "not json", "a.x: 1\na.x: 2"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_table_is_found(delimiter: str) -> None:
    rows = ["name,age", "Ann,3", '"Bob, or; Rob|x",4']
    text = "\n".join(row if n == 2 else row.replace(",", delimiter) for n, row in enumerate(rows))
    text = text.replace('",4', f'"{delimiter}4')
    assert records(read_csv(text)) == ["name: Ann\nage: 3", "name: Bob, or; Rob|x\nage: 4"]


def test_ragged_and_empty_rows_are_read() -> None:
    text = '\n,,\na, ,c\n1,2,3,4\n5\n,,\n\n\'x,"y\n\nz",\n'
    assert records(read_csv(text)) == [
        "a: 1\ncolumn 2: 2\nc: 3\ncolumn 4: 4",
        "a: 5",
        "a: 'x\ncolumn 2: y\nz",
    ]


def test_a_table_of_one_row_or_one_column_is_read() -> None:
    assert records(read_csv("only,header\n")) == ["only\nheader"]
    assert records(read_csv("word\none\ntwo\n")) == ["word: one", "word: two"]
    assert records(read_tsv("a,b\tc\n1,2\t3\n")) == ["a,b: 1,2\nc: 3"]


def test_a_table_with_an_endless_quote_stays_plain_text() -> None:
    text = 'a,b\n"' + "x,\n" * 100_000
    assert read_csv(text) == Content(text=text, first_line=1)


def notebook(*cells: object, **metadata: object) -> str:
    return json.dumps({"nbformat": 4, "cells": cells, "metadata": metadata})


def test_a_notebook_is_its_text_and_code_without_outputs() -> None:
    content = read_notebook(
        notebook(
            {"cell_type": "markdown", "source": ["# Study\n", "words"]},
            {"cell_type": "code", "source": "print(1)\n", "outputs": [{"text": "secret"}]},
            {"cell_type": "code", "source": ["s = '```'"]},
            {"cell_type": "code", "source": " \n"},
            language_info={"name": "julia"},
        )
    )
    assert content.title == "Study"
    assert content.format == "markdown"
    assert content.text == (
        "# Study\nwords\n\n```julia\nprint(1)\n```\n\n````julia\ns = '```'\n````\n"
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cells": 3}', "[" * 100_000])
def test_what_is_no_notebook_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="malformed notebook") as caught:
        read_notebook(text)
    assert caught.value.stale


def test_a_notebook_with_odd_cells_is_read() -> None:
    content = read_notebook(notebook(3, None, {"source": 7}, {"source": [1, "word"]}))
    assert content.text == "word\n"


# HTML


def html(body: str) -> str:
    return html_content(f"<!doctype html><html><body>{body}</body></html>").text


def test_a_page_is_its_main_text_without_what_surrounds_it() -> None:
    page = """
    <html><head><title>Keys — Site</title><style>x{}</style></head><body>
    <header><a href="/">Home</a></header>
    <nav>Menu</nav><div class="sphinxsidebar">Side</div><aside>Ads</aside>
    <div role="main"><h1>Rotate keys<a class="headerlink" href="#x">¶</a></h1>
    <script>evil()</script><p>Every <b>90</b>
    days &amp; <code>now</code>. See <a href="http://x/y">the guide</a>.</p>
    <aside>A note in the text.</aside></div>
    <form role="search"><input value="q">Search</form><footer>Imprint</footer></body></html>"""
    content = html_content(page)
    assert content.title == "Rotate keys"
    assert content.text == (
        "# Rotate keys\n\nEvery 90 days & `now`. See the guide.\n\nA note in the text.\n"
    )


def test_a_main_element_with_little_of_the_text_is_not_the_content() -> None:
    assert "much more" in html("<main>x</main><div>" + "much more text " * 20 + "</div>")


def test_the_title_is_the_first_h1_or_else_the_title_element() -> None:
    page = "<title> The\n title </title><h2>Sub</h2><p>x"
    assert html_content(page).title == "The title"
    assert html_content(page + "<h1>The <code>heading</code></h1>").title == "The heading"
    assert html_content("<p>x").title is None


def test_headings_and_nested_lists_become_markdown() -> None:
    assert html(
        "<h2>A <i>b</i></h2><h3> </h3><ul><li>one<ul><li>two</ul><li>three</ul>"
        "<ol><li><p>first</p><p>more</p><li>second</ol>"
    ) == ("## A b\n\n- one\n  - two\n- three\n\n1. first\n\n   more\n\n2. second\n")


def test_tables_of_data_become_rows_and_tables_of_layout_do_not() -> None:
    assert html(
        "<table><caption>Cap</caption><tr><th>a<th>b<tr><td>1|2<td>x<br>y<tr><td>3</table>"
    ) == ("Cap\n\n| a | b |\n| --- | --- |\n| 1\\|2 | x y |\n| 3 |  |\n")
    assert html("<table><tr><td>Note<td><p>One.</p><p>Two.</p></table>") == "Note\n\nOne.\n\nTwo.\n"


def test_tables_in_tables_are_written_once() -> None:
    inner = "<p>deep"
    for _ in range(40):
        inner = f"<table><tr><td>x<td>y<tr><td>{inner}<td>z</table>"
    assert html(inner).count("deep") == 1


def test_code_blocks_are_fenced_with_their_language() -> None:
    assert html('<div class="highlight-python"><pre>x  =\n  1\n</pre></div>') == (
        "```python\nx  =\n  1\n```\n"
    )
    assert html('<pre><code class="language-c++">a<br>```</code></pre>') == (
        "````c++\na\n```\n````\n"
    )


def test_definitions_stay_with_their_terms() -> None:
    assert html(
        "<dl><dt>-n<dt>--dry-run<dd>Do <em>nothing</em>.<p>Really.</p><dt>-v<dd><ul><li>x</ul></dl>"
    ) == ("-n\n--dry-run\n: Do nothing.\n\nReally.\n\n-v\n\n- x\n")


def test_quotes_details_and_line_breaks_are_kept() -> None:
    assert html("<blockquote><p>a</p><p>b</p></blockquote><details><summary>S</summary>d") == (
        "> a\n> \n> b\n\nS\n\nd\n"
    )
    assert html("<p>one<br>two <img alt='a cat'>") == "one\ntwo a cat\n"


def test_text_that_looks_like_markdown_structure_is_escaped() -> None:
    assert html("<p># not a heading</p><p>```</p><p>a<br>---</p><p>C# is not</p>") == (
        "\\# not a heading\n\n\\```\n\na\n\\---\n\nC# is not\n"
    )


def test_broken_html_is_read() -> None:
    assert html("<p>one<p>two<div><b>three</p></i><td>four &amp &lt;x&gt; &#128512;") == (
        "one\n\ntwo\n\nthree\n\nfour & <x> 😀\n"
    )


@pytest.mark.parametrize("depth", [100, 400, 1500])
def test_elements_nested_too_deep_do_not_lose_the_text(depth: int) -> None:
    text = html("<div><ul><li>" * (depth // 3) + "the text")
    assert "the text" in text


def test_the_charset_of_a_page_is_obeyed() -> None:
    page = '<html><head><meta charset="{}"></head><body><p>наука</p></body></html>'
    for charset in ("koi8-r", "windows-1251", "utf-8"):
        assert read_html(page.format(charset).encode(charset)).text == "наука\n"
    http = '<meta http-equiv="Content-Type" content="text/html; charset=shift_jis"><p>日本'
    assert read_html(http.encode("shift_jis")).text == "日本\n"


def test_a_page_that_declares_an_xml_encoding_is_read() -> None:
    page = '<?xml version="1.0" encoding="iso-8859-1"?><html><body><p>naïve</p></body></html>'
    assert read_html(page.encode("latin-1")).text == "naïve\n"
