from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from test_chunks import FORMATS, LANGUAGES, TEXTS
from test_converters import WITHOUT_EXTRA, pdf

from ragkit.budget import MIN_TOKEN_BUDGET, Passages, pack
from ragkit.chunks import Chunk, Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.hits import Hit, read_hit
from ragkit.indexer import Indexer
from ragkit.passages import CONTEXT_FIELDS, Passage, joined, neighbours, with_context
from ragkit.schema import point_id
from ragkit.tokens import CHARACTER_TOKENS, estimate_tokens

SMALL = Chunker(max_tokens=40, overlap=8)
PROSE = "\n\n".join(
    f"Paragraph {n} tells of thing{n}. It is short.\nAnd it has a second line, number {n}."
    for n in range(30)
)


def hit_of(chunk: Chunk, score: float = 1.0, *, corpus: str = "notes") -> Hit:
    return Hit(
        id=point_id(corpus, chunk.source, chunk.ordinal),
        score=score,
        title=chunk.title,
        source=chunk.source,
        corpus=corpus,
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        line=chunk.line,
        headings=chunk.headings,
        ordinal=chunk.ordinal,
        metadata={"year": 2024},
        page=chunk.page,
        last_page=chunk.last_page,
    )


def hits_of(
    text: str, source: str = "a.txt", *, chunker: Chunker = SMALL, **more: Any
) -> list[Hit]:
    """A hit for each chunk of a document, the first with the best score."""
    chunks = chunker(Document(source=source, text=text, title="A title", **more))
    return [hit_of(chunk, 1 - chunk.ordinal / 1000) for chunk in chunks]


def a_hit(text: str, start: int = 0, **changes: Any) -> Hit:
    """The first chunk of a file of one line, unless said otherwise."""
    chunk = Chunk(
        source="a.txt", ordinal=0, text=text, start=start, end=start + len(text), title="T", line=1
    )
    return replace(hit_of(chunk), **changes)


def only(passages: Sequence[Passage]) -> Passage:
    (passage,) = passages
    return passage


def check_reads_as(passage: Passage, text: str) -> None:
    """The passage is the document's text at its offsets, but for the kind of its white space."""
    assert len(passage.text) == passage.end - passage.start
    for shown, real in zip(passage.text, text[passage.start : passage.end], strict=True):
        assert shown == real or (shown in " \n" and real.isspace())


# --- joining --------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.sampled_from(FORMATS), LANGUAGES, st.integers(2 * CHARACTER_TOKENS, 60), st.data())
def test_all_chunks_of_a_document_read_as_its_text(
    text: str,
    format: str,  # noqa: A002
    language: str | None,
    max_tokens: int,
    data: st.DataObject,
) -> None:
    overlap = data.draw(st.integers(0, max_tokens - CHARACTER_TOKENS))
    first_line = data.draw(st.sampled_from([None, 1, 8]))
    chunker = Chunker(max_tokens=max_tokens, overlap=overlap)
    document = Document(
        source="a", text=text, title="T", format=format, language=language, first_line=first_line
    )
    text = document.text
    chunks = chunker(document)
    passages = joined(data.draw(st.permutations([hit_of(chunk) for chunk in chunks])))
    wide = sum(after.start - before.end > 20 for before, after in pairwise(chunks))
    assert len(passages) == (wide + 1 if chunks else 0)
    assert sum((passage.ordinals for passage in passages), ()) == tuple(range(len(chunks)))
    for passage in passages:
        check_reads_as(passage, text)
        if first_line is not None:
            own, citation = text[passage.start : passage.end], passage.citation
            assert citation.line == first_line + text.count("\n", 0, passage.start)
            assert citation.last_line == citation.line + own.count("\n")
    # No chunk lost its place, and what no passage holds is blank.
    for chunk in chunks:
        place = next(p for p in passages if p.start <= chunk.start and chunk.end <= p.end)
        assert place.text[chunk.start - place.start :].startswith(chunk.text)
    ends = [0, *(passage.end for passage in passages)]
    starts = [*(passage.start for passage in passages), len(text)]
    assert not any(text[end:start].strip() for end, start in zip(ends, starts, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 29)), st.integers(0, 15))
def test_some_chunks_of_a_document_are_runs_that_do_not_touch(
    chosen: set[int], overlap: int
) -> None:
    hits = hits_of(PROSE, chunker=Chunker(max_tokens=40, overlap=overlap))
    picked = [hit for hit in hits if hit.ordinal in chosen]
    passages = joined(picked)
    assert sum((passage.ordinals for passage in passages), ()) == tuple(
        hit.ordinal for hit in picked
    )
    for passage in passages:
        assert passage.text == PROSE[passage.start : passage.end]
        assert passage.score == max(hits[ordinal].score for ordinal in passage.ordinals)
        assert [*passage.ordinals] == [*range(passage.ordinals[0], passage.ordinals[-1] + 1)]
    for before, after in pairwise(passages):
        assert before.end < after.start
        assert before.ordinals[-1] + 1 < after.ordinals[0]


def test_passages_and_hits_join_to_the_same_whatever_has_been_joined_before() -> None:
    hits = hits_of(PROSE)
    assert joined([*joined(hits[::2]), *hits[1::2]]) == joined(hits)
    assert joined(joined(hits)) == joined(hits)


def test_documents_and_corpora_of_one_name_stay_apart() -> None:
    hits = hits_of("One text.")
    others = [hits[0], replace(hits[0], source="b.txt"), replace(hits[0], corpus="other")]
    assert [(each.corpus, each.source) for each in joined(others[::-1])] == [
        ("notes", "a.txt"),
        ("notes", "b.txt"),
        ("other", "a.txt"),
    ]


def test_a_passage_stands_under_the_headings_that_its_chunks_share() -> None:
    text = "\n\n".join(
        ["# Server", *(f"## {name}\n\n" + f"All about {name}. " * 6 for name in ("Keys", "Ports"))]
    )
    hits = hits_of(text, "a.md", format="markdown")
    assert {hit.headings[-1] for hit in hits} == {"Keys", "Ports"}
    assert only(joined(hits)).headings == ("Server",)
    keys = [hit for hit in hits if hit.headings[-1] == "Keys"]
    assert only(joined(keys)).headings == ("Server", "Keys")


def test_a_passage_goes_from_the_first_page_of_its_chunks_to_the_last() -> None:
    text = "\n\n".join(["First page. " * 10, "Second page. " * 10, "Third page. " * 10])
    pages = tuple(text.index(word) for word in ("First", "Second", "Third"))
    hits = hits_of(text, "a.pdf", pages=pages, first_line=None)
    passage = only(joined(hits))
    assert (passage.page, passage.last_page) == (1, 3)
    assert str(passage.citation) == "a.pdf, pages 1\u20133"


def test_lines_of_converted_text_are_kept_apart_where_chunks_meet() -> None:
    hits = [a_hit("one", line=None), a_hit("two", 4, ordinal=1, line=None)]
    assert only(joined(hits)).text == "one\ntwo"
    hits = [a_hit("one", line=None), a_hit("two", 7, ordinal=1, line=None)]
    assert only(joined(hits)).text == "one  \n\ntwo"


def test_blank_lines_and_indentation_between_chunks_are_those_of_the_file() -> None:
    # "one  \n\r\n    two" in the file: a chunk begins with the indentation of its line.
    hits = [a_hit("one"), a_hit("    two", 8, ordinal=1, line=3)]
    assert only(joined(hits)).text == "one   \n\n    two"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(a_hit("Two three", 4, ordinal=1), id="another text where they overlap"),
        pytest.param(a_hit("two three", 4, ordinal=1, line=2), id="another line"),
        pytest.param(a_hit("two three", 4, ordinal=1, line=None), id="lines of one alone"),
        pytest.param(a_hit("two three", 4, ordinal=1, page=1), id="pages of one alone"),
        pytest.param(a_hit("two three", 4, ordinal=1, title="New"), id="another title"),
        pytest.param(a_hit("two three", 4, ordinal=1, metadata={"year": 2025}), id="metadata"),
        pytest.param(a_hit("two three", 4, ordinal=1, end=99), id="a text not as in the document"),
        pytest.param(a_hit("three", 9, ordinal=2), id="a chunk between them is not there"),
        pytest.param(a_hit("three", 9, ordinal=1, line=9), id="more line breaks than room"),
        pytest.param(a_hit("three", 40, ordinal=1), id="a gap that may have held text"),
    ],
)
def test_what_does_not_fit_together_is_not_joined(other: Hit) -> None:
    first = a_hit("one two")
    assert [each.text for each in joined([other, first])] == [first.text, other.text]


def test_what_fits_together_is_joined() -> None:
    """The counterpart of what is refused above."""
    assert (
        only(joined([a_hit("one two"), a_hit("two three", 4, ordinal=1)])).text == "one two three"
    )
    assert only(joined([a_hit("one two"), a_hit("three", 8, ordinal=1)])).text == "one two three"
    assert only(joined([a_hit("one two"), a_hit(" three", 7, ordinal=5)])).text == "one two three"
    assert only(joined([a_hit("one two"), a_hit("two", 4, ordinal=1)])).text == "one two"


def test_two_versions_of_a_document_come_out_one_beside_the_other() -> None:
    old, new = hits_of(PROSE), hits_of(PROSE.replace("short", "brief"))
    mixed = [hit for pair in zip(old, new, strict=True) for hit in pair]
    # Chunks without a word of what changed fit both; here each has one.
    assert all("short" in hit.text for hit in old)
    first, second = joined(mixed)
    assert {first.text, second.text} == {PROSE, PROSE.replace("short", "brief")}


# --- context --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    root.mkdir()
    (root / "prose.txt").write_text("\n\n" + PROSE + "\n")
    (root / "guide.md").write_text(
        "---\ntitle: A guide\n---\n# Server\n\n## Keys\n\n"
        + "Rotate the keys every 90 days.\n" * 20
        + "\n## Ports\n\n"
        + "\n".join(f"- port {n} is open" for n in range(40))
    )
    (root / "one.txt").write_text("A single chunk.\n")
    return root


def indexed(client: QdrantBase, folder: Path, *, tenant: str | None = None) -> list[Hit]:
    """A hit for each chunk of a folder, sorted."""
    docs = Collection(client, "notes", embedder=None, chunker=SMALL, tenant=tenant)
    Indexer(docs).sync(folder, corpus="c")
    records, rest = client.scroll("notes", limit=10_000)
    assert rest is None
    points = [
        models.ScoredPoint(id=each.id, version=0, score=1.0, payload=each.payload)
        for each in records
    ]
    return sorted(map(read_hit, points), key=lambda hit: (hit.source, hit.ordinal))


def in_context(
    client: QdrantBase, hits: Sequence[Hit], n: int, tenant: str | None = None
) -> list[Hit]:
    ids = neighbours(hits, n, tenant=tenant)
    assert len(ids) == len(set(ids))
    records = client.retrieve("notes", ids, with_payload=[*CONTEXT_FIELDS])
    return with_context(hits, records, n)


def test_each_hit_stands_in_its_context_as_in_the_file(edge: EdgeClient, folder: Path) -> None:
    hits = indexed(edge, folder)
    for n in (0, 1, 3, 1000):
        check_context(hits, in_context(edge, hits, n), n, folder)


def check_context(hits: list[Hit], found: list[Hit], n: int, folder: Path) -> None:
    assert [replace(hit, context=None) for hit in found] == hits
    counts = {hit.source: hit.ordinal + 1 for hit in hits}  # sorted: the last one's
    assert min(counts.values()) == 1
    for hit in found:
        context = hit.context
        assert context is not None
        text = (folder / hit.source).read_text()
        if hit.source == "guide.md":
            text = text[text.index("# Server") :]  # what is indexed begins after the front matter
        last = min(hit.ordinal + n, counts[hit.source] - 1)
        assert context.ordinals == tuple(range(max(0, hit.ordinal - n), last + 1))
        assert context.text == text[context.start : context.end]
        assert context.text[hit.start - context.start :].startswith(hit.text)
        assert (context.score, context.metadata) == (hit.score, hit.metadata)


def test_the_neighbours_of_a_tenants_hit_are_the_tenants(edge: EdgeClient, folder: Path) -> None:
    hits = indexed(edge, folder, tenant="ann")
    prose = [hit for hit in hits if hit.source == "prose.txt"]
    (found,) = in_context(edge, [prose[2]], 1, tenant="ann")
    assert found.context is not None
    assert found.context.ordinals == (1, 2, 3)
    assert not edge.retrieve("notes", neighbours([prose[2]], 1, tenant="bob"))


def test_a_hit_of_a_document_that_was_replaced_since_stands_alone(
    edge: EdgeClient, folder: Path
) -> None:
    hits = indexed(edge, folder)
    (folder / "prose.txt").write_text("Something new. " + PROSE.replace("short", "brief"))
    indexed(edge, folder)
    prose = [hit for hit in hits if hit.source == "prose.txt"]
    for hit in in_context(edge, prose, 2):
        assert hit.context is not None
        assert (hit.context.text, hit.context.ordinals) == (hit.text, (hit.ordinal,))


def test_neighbours_of_another_version_of_the_document_are_left_out(
    edge: EdgeClient, folder: Path
) -> None:
    hits = indexed(edge, folder)
    prose = [hit for hit in hits if hit.source == "prose.txt"]
    edge.set_payload("notes", {"document_hash": "another"}, points=[prose[4].id])
    found = in_context(edge, [prose[2], prose[4], prose[6]], 3)
    assert [hit.context and hit.context.ordinals for hit in found] == [
        (0, 1, 2, 3),
        (4,),
        (5, 6, 7, 8, 9),
    ]


def test_a_hit_that_was_deleted_since_stands_alone(edge: EdgeClient, folder: Path) -> None:
    hits = indexed(edge, folder)
    edge.delete("notes", models.PointIdsList(points=[hits[3].id]))
    (found,) = in_context(edge, [hits[3]], 1)
    assert found.context is not None
    assert found.context.text == hits[3].text


# --- packing --------------------------------------------------------------------------------


def prompt(passages: Iterable[Passage]) -> str:
    return "\n\n".join(f"{each.citation}\n{each.text}" for each in passages)


SOURCES = {
    "a.txt": PROSE,
    "b.md": "# Server\n\n" + PROSE.replace("thing", "server"),
    "copy.txt": PROSE,
    "long.txt": "An unusually long paragraph that goes on and on. " * 12,
}
ALL = [
    hit
    for source, text in SOURCES.items()
    for hit in hits_of(text, source, chunker=Chunker(max_tokens=60, overlap=10))
]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(ALL), max_size=25),
    st.integers(MIN_TOKEN_BUDGET, 600),
    st.lists(st.integers(0, 2), min_size=25, max_size=25),
)
def test_a_pack_keeps_its_budget_and_its_promises(
    hits: list[Hit], budget: int, widths: list[int]
) -> None:
    found = [_widened(hit, width) for hit, width in zip(hits, widths, strict=False)]
    packed = pack(found, budget)
    assert packed.tokens == sum(passage.tokens for passage in packed) <= budget
    assert estimate_tokens(prompt(packed)) <= packed.tokens
    assert bool(packed) == bool(hits)
    for place, passage in enumerate(packed):
        assert passage.text == SOURCES[passage.source][passage.start : passage.end]
        for other in packed[:place]:
            apart = passage.end <= other.start or other.end <= passage.start
            assert apart or passage.source != other.source
    if hits:
        text = packed[0].text
        assert hits[0].text in text or (hits[0].text.startswith(text) and packed.notes)


def _widened(hit: Hit, width: int) -> Hit:
    around = range(hit.ordinal - width, hit.ordinal + width + 1)
    own = [each for each in ALL if each.source == hit.source and each.ordinal in around]
    return replace(hit, context=only(joined(own))) if width else hit


def test_passages_come_in_the_order_of_the_best_hit_of_each() -> None:
    prose, other = hits_of(PROSE), hits_of("Something else.", "b.txt")
    packed = pack([prose[5], other[0], prose[9], prose[4], prose[10]], 1000)
    assert [(each.source, each.ordinals) for each in packed] == [
        ("a.txt", (4, 5)),
        ("b.txt", (0,)),
        ("a.txt", (9, 10)),
    ]
    assert [each.score for each in packed] == [prose[4].score, other[0].score, prose[9].score]


def test_a_hit_between_two_passages_makes_one_of_them() -> None:
    prose = hits_of(PROSE)
    assert [each.ordinals for each in pack([prose[3], prose[5]], 1000)] == [(3,), (5,)]
    assert only(pack([prose[3], prose[5], prose[4]], 1000)).ordinals == (3, 4, 5)


def test_hits_are_taken_in_the_order_given_whatever_their_scores() -> None:
    """So a diverse or a grouped ranking stays what it is."""
    first = a_hit("First in the ranking. " * 6, score=0.1)
    second = a_hit("Nearer, but the same. " * 6, score=0.9, source="b.txt")
    assert [each.source for each in pack([first, second], 200)] == ["a.txt", "b.txt"]
    assert only(pack([first, second], 60)).source == "a.txt"


def test_what_is_too_large_for_the_rest_is_passed_over_for_what_fits() -> None:
    first = a_hit("A first text of some words, and of more words.")
    large = a_hit("A large text. " * 20, source="large.txt")
    small = a_hit("A small text of a few words.", source="small.txt")
    budget = sum(only(pack([each], 1000)).tokens for each in (first, small))
    packed = pack([first, large, small], budget)
    assert [each.source for each in packed] == ["a.txt", "small.txt"]
    assert (packed.tokens, packed.notes) == (budget, ())


def test_one_token_less_is_one_passage_less() -> None:
    hits = [a_hit("One text. " * 9), a_hit("Another text. " * 9, source="b.txt")]
    tokens = pack(hits, 1000).tokens
    assert len(pack(hits, tokens)) == 2
    assert len(pack(hits, tokens - 1)) == 1


def test_equal_texts_of_different_documents_are_taken_once() -> None:
    first, copy = a_hit("The same words."), a_hit("The same words.", 90, source="b.txt", ordinal=4)
    assert [each.source for each in pack([first, copy], 1000)] == ["a.txt"]
    assert [each.source for each in pack([copy, first], 1000)] == ["b.txt"]


def test_a_copy_of_what_stands_in_a_longer_passage_is_left_out() -> None:
    prose, copy = hits_of(PROSE), hits_of(PROSE, "copy.txt")
    wide = replace(prose[5], context=only(joined(prose[3:8])))
    assert [each.source for each in pack([wide, copy[4], copy[7]], 1000)] == ["a.txt"]


def test_a_hit_that_stands_in_the_context_of_another_brings_its_own_context() -> None:
    prose = hits_of(PROSE)
    wide = [replace(prose[at], context=only(joined(prose[at - 2 : at + 3]))) for at in (5, 7)]
    assert len(prose[7].text) > 80  # long enough to be a copy if it stood elsewhere
    assert only(pack(wide, 1000)).ordinals == tuple(range(3, 10))


def test_hits_with_text_between_them_stay_apart_in_a_pack() -> None:
    hits = [a_hit("One two."), a_hit("Three.", 40, ordinal=1)]
    assert [each.text for each in pack(hits, 1000)] == ["One two.", "Three."]


def test_a_short_text_that_stands_in_another_by_chance_is_taken() -> None:
    hits = [a_hit("Founded in 1942, with 42 rooms."), a_hit("42", source="rooms.csv")]
    assert len(pack(hits, 1000)) == 2


def test_a_hit_is_taken_without_its_context_where_that_is_too_large() -> None:
    prose = hits_of(PROSE)
    wide = replace(prose[5], context=only(joined(prose[:12])))
    assert only(pack([wide], 1000)).ordinals == tuple(range(12))
    small = pack([wide], 80)
    assert (only(small).ordinals, small.notes) == ((5,), ())


def test_a_score_given_after_the_context_was_read_counts() -> None:
    hit = a_hit("One text.")
    wide = replace(hit, context=only(joined([hit])), score=7.0)
    assert only(pack([wide], 1000)).score == 7.0


LINES = "\n".join(f"This is line {n} of a table without a sentence" for n in range(9))
SENTENCES = " ".join(f"This is sentence number {n} of a long line." for n in range(9))
WORDS = "several words in a row without any end " * 9


@pytest.mark.parametrize(
    ("text", "end"), [(LINES, "sentence"), (SENTENCES, "line."), (WORDS, "")], ids=["l", "s", "w"]
)
def test_a_first_passage_larger_than_the_budget_is_cut(text: str, end: str) -> None:
    hit = a_hit(text, 100, line=5)
    packed = pack([hit], 70)
    passage = only(packed)
    assert 30 <= packed.tokens <= 70
    assert text.startswith(passage.text)
    assert passage.text.endswith(end)
    assert text[len(passage.text)].isspace()
    assert (passage.start, passage.end, passage.ordinals) == (100, 100 + len(passage.text), ())
    assert passage.citation.last_line == 5 + passage.text.count("\n")
    assert packed.notes == (
        f"the first passage is cut: it takes about {only(joined([hit])).tokens} tokens, and the "
        "budget is 70",
    )


@pytest.mark.parametrize("unit", ["x", "\u6f22", "e\u0301", "\u0e01\u0e34"])
def test_a_text_without_any_joint_is_cut_between_letters(unit: str) -> None:
    text = unit * 900
    passage = only(pack([a_hit(text)], 60))
    assert passage.text
    assert passage.text == unit * (len(passage.text) // len(unit))


def test_what_follows_a_cut_passage_is_not_joined_over_what_was_cut_off() -> None:
    first = a_hit("A beginning of several words, and an end that is cut. " * 4)
    cut = only(pack([first], 60))
    end = a_hit("More.", first.end + 1, ordinal=1)
    near = a_hit("More.", cut.end + 3, ordinal=1)
    for other in (end, near):
        assert [each.text for each in pack([cut, other], 1000)] == [cut.text, other.text]


def test_a_citation_larger_than_the_budget_leaves_room_for_others_and_is_said() -> None:
    endless = a_hit("A text.", source="folder/" * 200 + "a.txt")
    packed = pack([endless], 100)
    assert (packed, packed.tokens) == ([], 0)
    assert packed.notes == ("no passage fits into 100 tokens with its citation",)
    packed = pack([endless, a_hit("Another.")], 100)
    assert (only(packed).text, packed.notes) == ("Another.", ())


def test_nothing_found_is_nothing_packed() -> None:
    packed = pack([], 1000)
    assert isinstance(packed, Passages)
    assert (packed, packed.tokens, packed.notes) == ([], 0, ())


@pytest.mark.parametrize("budget", [0, -5, MIN_TOKEN_BUDGET - 1, float("nan")])
def test_a_budget_for_nothing_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=rf"at least {MIN_TOKEN_BUDGET}, got {budget!r}: less"):
        pack([], budget)


def test_texts_are_data() -> None:
    text = "{0} {source.__class__} %s %(x)d [red]bold[/] ${HOME} `rm` {{ x }}"
    assert only(pack([a_hit(text)], 1000)).text == text


# --- end to end -----------------------------------------------------------------------------


def test_a_folder_is_cited_by_the_lines_of_its_files(edge: EdgeClient, folder: Path) -> None:
    hits = indexed(edge, folder)
    passages = pack(in_context(edge, hits[::5], 1), 2000)
    assert {each.source for each in passages} == {"guide.md", "prose.txt"}
    for each in [*hits, *passages]:
        lines = (folder / each.source).read_text().split("\n")
        citation = each.citation
        assert citation.line is not None
        assert citation.last_line is not None
        told = "\n".join(lines[citation.line - 1 : citation.last_line])
        assert each.text in told
        assert told.strip() == each.text.strip() or each.text.count("\n") == told.count("\n")


def test_a_pdf_is_cited_by_its_pages(edge: EdgeClient, tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason=WITHOUT_EXTRA)
    words = ["apple", "", "cherry", "damson"]
    sheets = [
        "\n".join(f"The {word} is number {n}." for n in range(9)) if word else "" for word in words
    ]
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "paper.pdf").write_bytes(pdf(*sheets))
    hits = indexed(edge, folder)
    for each in [*hits, *pack(in_context(edge, hits, 1), 2000)]:
        named = [page for page, word in enumerate(words, 1) if word and word in each.text]
        assert (each.page, each.last_page) == (named[0], named[-1])
        assert each.line is None
    assert only(joined(hits)).citation.last_page == 4
    assert str(only(joined(hits)).citation) == "paper.pdf, pages 1\u20134"
