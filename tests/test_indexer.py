from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunk, Chunker
from ragkit.collection import Collection
from ragkit.documents import Document, Skipped
from ragkit.edge import EdgeClient
from ragkit.edge.responses import bad_request
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import CollectionMismatch, DocumentError, EmbeddingError, QuotaExhausted
from ragkit.indexer import Indexer
from ragkit.packing import update_points
from ragkit.reading.folders import FoundFile
from ragkit.reports import IndexReport, Progress
from ragkit.retriever import Retriever
from ragkit.schema import DENSE
from ragkit.tokens import estimate_tokens


class Recording(HashEmbedder):
    """Remembers the texts it embedded; refuses those that hold a poison word."""

    def __init__(self, dim: int = 32, poison: str | None = None) -> None:
        super().__init__(dim)
        self.texts: list[str] = []
        self.titles: list[str] = []
        self._poison = poison

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        if self._poison and any(self._poison in text for text in texts):
            raise EmbeddingError("this text is poison")
        self.texts += texts
        self.titles += titles
        return super().embed_documents(texts, titles=titles)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    (root / "guide").mkdir(parents=True)
    (root / "guide" / "keys.md").write_text("# Keys\n\nRotate the keys every 90 days.\n")
    (root / "bananas.txt").write_text("Bananas are yellow and grow in the tropics.\n")
    (root / "long.txt").write_text(paragraphs(range(40)))
    return root


def paragraphs(numbers: Sequence[int]) -> str:
    return "\n\n".join(f"Paragraph {n} " + f"tells of thing{n} at length. " * 12 for n in numbers)


def stored(client: QdrantBase, name: str = "notes") -> dict[str, dict[str, Any]]:
    """All that a collection holds, without what depends on when it was written."""
    records, rest = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    assert rest is None
    points = {}
    for record in records:
        assert isinstance(record.vector, dict)
        dense = record.vector.get(DENSE)
        points[str(record.id)] = {
            "payload": record.payload,
            "dense": None if dense is None else np.round(np.asarray(dense), 5).tolist(),
            "bm25": record.vector["bm25"],
        }
    return points


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.removed


def test_a_folder_becomes_a_collection_of_all_its_chunks(client: QdrantBase, folder: Path) -> None:
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    report = Indexer(docs).sync(folder)
    assert counts(report) == (3, 0, 0, 0)
    assert report.embedded == report.chunks == len(embedder.texts)
    points = [point["payload"] for point in stored(client).values()]
    assert {point["source"] for point in points} == {"guide/keys.md", "bananas.txt", "long.txt"}
    for source in ("bananas.txt", "long.txt"):
        text = (folder / source).read_text()
        own = sorted((p for p in points if p["source"] == source), key=lambda p: p["ordinal"])
        assert [p["ordinal"] for p in own] == list(range(own[0]["chunk_count"]))
        assert all(text[p["start"] : p["end"]] == p["text"] for p in own)
        assert own[0]["line"] == 1


def test_an_unchanged_folder_is_not_embedded_nor_written(client: QdrantBase, folder: Path) -> None:
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    Indexer(docs).sync(folder)
    before = stored(client)
    embedder.texts.clear()
    again = Indexer(Collection(client, "notes", embedder=embedder)).sync(folder)
    assert counts(again) == (0, 0, 3, 0)
    assert (again.chunks, again.embedded, embedder.texts) == (0, 0, [])
    assert stored(client) == before


def test_a_changed_document_embeds_only_its_changed_chunks(
    client: QdrantBase, folder: Path
) -> None:
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    Indexer(docs).sync(folder)
    embedder.texts.clear()
    text = (folder / "long.txt").read_text()
    (folder / "long.txt").write_text(text + "\n\nOne more paragraph about walruses.\n")
    report = Indexer(docs).sync(folder)
    assert counts(report) == (0, 1, 2, 0)
    assert 1 <= report.embedded <= 2
    assert report.reused == report.chunks - report.embedded > 5
    assert any("walruses" in text for text in embedder.texts)
    fresh = Collection(client, "fresh", embedder=HashEmbedder(32))
    Indexer(fresh).sync(folder)
    assert without_average(stored(client)) == without_average(stored(client, "fresh"))


def without_average(points: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Points without BM25 weights, which depend on the average length measured at the start."""
    return {key: {**point, "bm25": None} for key, point in points.items()}


def test_a_document_that_shrank_leaves_no_chunk_behind(client: QdrantBase, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(paragraphs(range(100)))
    docs = Collection(client, "notes", chunker=Chunker(max_tokens=120, overlap=0))
    assert Indexer(docs).sync(tmp_path).chunks >= 50
    (tmp_path / "a.txt").write_text(paragraphs(range(2)))
    report = Indexer(docs).sync(tmp_path)
    assert counts(report) == (0, 1, 0, 0)
    assert len(stored(client)) == report.chunks < 6


def test_a_removed_file_leaves_the_collection(client: QdrantBase, folder: Path) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)
    (folder / "bananas.txt").unlink()
    assert counts(Indexer(docs).sync(folder)) == (0, 0, 2, 1)
    assert Retriever(docs).search("bananas") == []


def test_a_moved_file_is_not_embedded_again(client: QdrantBase, folder: Path) -> None:
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    Indexer(docs).sync(folder)
    embedder.texts.clear()
    (folder / "guide" / "keys.md").rename(folder / "keys-moved.md")
    report = Indexer(docs).sync(folder)
    assert counts(report) == (1, 0, 2, 1)
    assert embedder.texts == []
    assert report.reused == report.chunks


def test_two_files_with_the_same_text_are_both_found_and_embedded_once(
    client: QdrantBase, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("# Walrus\n\nThe walrus has tusks.\n")
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    report = Indexer(docs).sync(tmp_path)
    assert (report.added, report.embedded, report.reused) == (2, 1, 1)
    hits = Retriever(docs).search("walrus tusks")
    assert {hit.source for hit in hits} == {"one/a.md", "two/a.md"}


def test_each_text_is_embedded_with_its_own_title_and_headings(
    client: QdrantBase, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("# Server\n\n## Keys\n\nRotate them.\n")
    (tmp_path / "b_c.txt").write_text("Plain words.\n")
    embedder = Recording()
    Indexer(Collection(client, "notes", embedder=embedder)).sync(tmp_path)
    titles = dict(zip(embedder.texts, embedder.titles, strict=True))
    assert any("Rotate" in t and titles[t].startswith("Server") for t in titles)
    assert titles["Plain words."] == "b c"


def test_folders_in_one_collection_do_not_remove_each_others_documents(
    client: QdrantBase, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text(f"This is about {name}.")
    docs = Collection(client, "notes")
    Indexer(docs).sync(tmp_path / "one")
    assert counts(Indexer(docs).sync(tmp_path / "two")) == (1, 0, 0, 0)
    assert counts(Indexer(docs).sync(tmp_path / "one")) == (0, 0, 1, 0)
    assert len(stored(client)) == 2


def test_documents_can_be_added_and_replaced_without_a_folder(client: QdrantBase) -> None:
    docs = Collection(client, "notes", embedder=HashEmbedder(32))
    keys = Document(source="k", title="Keys", text="Rotate the keys.", metadata={"year": 2024})
    fruit = Document(source="f", title="Fruit", text="Bananas are yellow.")
    assert counts(Indexer(docs).add([keys, fruit])) == (2, 0, 0, 0)
    newer = Document(source="k", title="Keys", text="Rotate the keys daily.")
    assert counts(Indexer(docs).add([newer, fruit])) == (0, 1, 1, 0)
    hits = Retriever(docs).search("rotate keys", limit=1)
    assert hits[0].text == "Rotate the keys daily."
    assert hits[0].metadata == {}


def test_pages_are_stored_where_there_are_any_and_belong_to_the_document(
    client: QdrantBase,
) -> None:
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    plain = Document(source="a", title="A", text="One. Two.")
    assert counts(Indexer(docs).add([plain])) == (1, 0, 0, 0)
    (point,) = stored(client).values()
    assert not {"page", "last_page"} & point["payload"].keys()
    embedder.texts.clear()
    paged = Document(source="a", title="A", text="One. Two.", pages=(0, 5))
    assert counts(Indexer(docs).add([paged])) == (0, 1, 0, 0)
    assert counts(Indexer(docs).add([paged])) == (0, 0, 1, 0)
    assert embedder.texts == []
    (point,) = stored(client).values()
    assert (point["payload"]["page"], point["payload"]["last_page"]) == (1, 2)


def test_a_second_document_of_the_same_source_is_skipped_and_said(client: QdrantBase) -> None:
    docs = Collection(client, "notes")
    one = Document(source="k", title="Keys", text="First.")
    two = Document(source="k", title="Keys", text="Second.")
    report = Indexer(docs).add([one, two, Skipped(source="x", reason="binary file")])
    assert report.added == 1
    assert [(s.source, s.reason[:10]) for s in report.skipped] == [
        ("k", "a document"),
        ("x", "binary fil"),
    ]


def test_a_poison_chunk_is_found_and_only_its_document_is_skipped(
    client: QdrantBase, folder: Path
) -> None:
    (folder / "bad.txt").write_text(paragraphs(range(5)) + "\n\nkryptonite " + paragraphs([9]))
    docs = Collection(client, "notes", embedder=Recording(poison="kryptonite"))
    report = Indexer(docs).sync(folder)
    assert report.added == 3
    assert [skipped.source for skipped in report.skipped] == ["bad.txt"]
    assert "poison" in report.skipped[0].reason
    assert all(point["payload"]["source"] != "bad.txt" for point in stored(client).values())


def test_an_embedder_that_refuses_every_text_stops_the_run(
    client: QdrantBase, folder: Path
) -> None:
    docs = Collection(client, "notes", embedder=Recording(poison="a"))
    with pytest.raises(EmbeddingError, match="poison"):
        Indexer(docs).sync(folder)


def test_what_the_store_refuses_costs_only_its_document(
    client: QdrantBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        if "kryptonite" in str(operations):
            raise bad_request("kryptonite is not stored here")
        return update_points(client, name, operations)

    monkeypatch.setattr("ragkit.points.update_points", picky)
    docs = Collection(client, "notes", embedder=HashEmbedder(32))
    good = [Document(source=f"g{n}", title="t", text=f"Text {n}.") for n in range(5)]
    bad = Document(source="bad", title="t", text="Some kryptonite.")
    report = Indexer(docs).add([*good[:2], bad, *good[2:]])
    assert (report.added, report.embedded) == (5, 6)
    (skipped,) = report.skipped
    assert skipped.source == "bad"
    assert skipped.reason == "refused by the store: kryptonite is not stored here"


def test_a_chunker_that_fails_costs_only_its_document(client: QdrantBase) -> None:
    def chunker(document: Document) -> list[Chunk]:
        if document.source == "bad":
            raise RuntimeError("chunker is broken")
        return Chunker()(document)

    docs = Collection(client, "notes", chunker=chunker)
    documents = [Document(source=name, title="t", text="Text.") for name in ("a", "bad", "b")]
    report = Indexer(docs).add(documents)
    assert report.added == 2
    assert report.skipped[0].reason == "RuntimeError: chunker is broken"


def test_a_chunk_longer_than_the_embedder_reads_is_skipped_not_cut(client: QdrantBase) -> None:
    class Short(HashEmbedder):
        max_tokens = 20

    def whole(document: Document) -> list[Chunk]:
        text = document.text
        return [Chunk(source="a", ordinal=0, text=text, start=0, end=len(text), title="t")]

    docs = Collection(client, "notes", embedder=Short(32), chunker=whole)
    report = Indexer(docs).add([Document(source="a", title="t", text="word " * 100)])
    assert "the embedder reads 20" in report.skipped[0].reason


def test_the_default_chunker_keeps_within_what_the_embedder_reads(client: QdrantBase) -> None:
    class Short(HashEmbedder):
        max_tokens = 64

    docs = Collection(client, "notes", embedder=Short(32))
    report = Indexer(docs).add([Document(source="a", title="t", text=paragraphs(range(5)))])
    assert report.skipped == ()
    assert report.added == 1


def test_a_title_is_cut_to_what_the_embedder_reads_beside_the_text(client: QdrantBase) -> None:
    class Short(Recording):
        max_tokens = 40

    embedder = Short(32)
    docs = Collection(client, "notes", embedder=embedder)
    title = "A title of many words " * 20
    report = Indexer(docs).add([Document(source="a", title=title, text="A walrus has tusks.")])
    assert report.added == 1
    (text,), (cut,) = embedder.texts, embedder.titles
    assert cut
    assert title.startswith(cut)
    assert estimate_tokens(text) + estimate_tokens(cut) <= 40
    assert stored(client).popitem()[1]["payload"]["title"] == title


def test_a_longer_chunker_than_the_embedder_reads_is_refused(client: QdrantBase) -> None:
    class Short(HashEmbedder):
        max_tokens = 64

    with pytest.raises(ValueError, match="at most 64 tokens"):
        Collection(client, "notes", embedder=Short(32), chunker=Chunker(max_tokens=65, overlap=0))


def test_another_chunker_splits_again_says_so_and_keeps_vectors(
    client: QdrantBase, folder: Path
) -> None:
    embedder = Recording()
    Indexer(Collection(client, "notes", embedder=embedder)).sync(folder)
    embedder.texts.clear()
    other = Collection(
        client, "notes", embedder=embedder, chunker=Chunker(max_tokens=150, overlap=0)
    )
    report = Indexer(other).sync(folder)
    assert counts(report) == (0, 3, 0, 0)
    assert "the chunker changed" in report.notes[0]
    # The short documents are one chunk under either chunker.
    assert all("Paragraph" in text for text in embedder.texts)
    assert report.reused >= 2
    # The collection keeps the new chunker: nobody needs to name it again.
    later = Indexer(Collection(client, "notes", embedder=embedder)).sync(folder)
    assert counts(later) == (0, 0, 3, 0)
    assert later.notes == ()


@pytest.mark.parametrize("other", [HashEmbedder(64), None])
def test_another_embedder_is_refused_before_anything_is_embedded(
    client: QdrantBase, folder: Path, other: HashEmbedder | None
) -> None:
    Indexer(Collection(client, "notes", embedder=HashEmbedder(32))).sync(folder)
    before = stored(client)
    (folder / "new.txt").write_text("Something new.")
    with pytest.raises(CollectionMismatch, match="32-d vectors of hash-v1 dim=32") as caught:
        Indexer(Collection(client, "notes", embedder=other)).sync(folder)
    assert "embedder it was made with" in str(caught.value)
    assert stored(client) == before


def test_a_plan_says_what_a_sync_then_does(client: QdrantBase, folder: Path) -> None:
    embedder = Recording()
    docs = Collection(client, "notes", embedder=embedder)
    plan = Indexer(docs).plan(folder)
    assert plan.added == ("bananas.txt", "guide/keys.md", "long.txt")
    assert not docs.exists()
    report = Indexer(docs).sync(folder)
    assert (plan.chunks, plan.to_embed) == (report.chunks, report.embedded)
    assert plan.tokens > 1000
    (folder / "bananas.txt").unlink()
    (folder / "guide" / "keys.md").write_text("# Keys\n\nNever rotate the keys.\n")
    (folder / "new.txt").write_text("Something new.")
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    embedder.texts.clear()
    plan = Indexer(docs).plan(folder)
    assert (plan.added, plan.changed, plan.removed) == (
        ("new.txt",),
        ("guide/keys.md",),
        ("bananas.txt",),
    )
    assert (plan.unchanged, plan.to_embed, len(plan.skipped)) == (1, 2, 1)
    assert embedder.texts == []
    assert counts(Indexer(docs).sync(folder)) == (1, 1, 1, 1)


def test_documents_are_removed_by_source(client: QdrantBase, folder: Path) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)
    assert Indexer(docs).remove(["bananas.txt", "no-such-file", "bananas.txt"]) == 1
    assert Retriever(docs).search("bananas") == []
    assert docs.status().documents == 2


def test_an_empty_folder_is_an_error_and_removes_nothing(client: QdrantBase, folder: Path) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)
    empty = folder / "guide"
    for path in (empty / "keys.md", folder / "bananas.txt", folder / "long.txt"):
        path.unlink()
    with pytest.raises(DocumentError, match=r"no files to index.*the 3 documents.*were kept"):
        Indexer(docs).sync(folder)
    assert docs.status().documents == 3
    with pytest.raises(DocumentError, match="no files to index"):
        Indexer(Collection(client, "other")).sync(empty)


@pytest.mark.parametrize("what", ["missing", "file"])
def test_a_folder_that_is_none_is_an_error_that_says_so(
    client: QdrantBase, folder: Path, what: str
) -> None:
    path = folder / "nowhere" if what == "missing" else folder / "bananas.txt"
    with pytest.raises(DocumentError, match=path.name):
        Indexer(Collection(client, "notes")).sync(path)


def test_a_file_that_vanishes_during_the_run_is_skipped_and_kept(
    client: QdrantBase, folder: Path
) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)

    class Vanishing(Collection):
        @property
        def chunker(self) -> Chunker:
            # Asked for after the walk and before the first file is read.
            (folder / "bananas.txt").unlink(missing_ok=True)
            return Chunker()

    report = Indexer(Vanishing(client, "notes")).sync(folder)
    assert [skipped.source for skipped in report.skipped] == ["bananas.txt"]
    assert report.unchanged == 2
    assert len(Retriever(docs).search("bananas")) == 1
    assert counts(Indexer(docs).sync(folder)) == (0, 0, 2, 1)


def test_a_file_that_became_empty_or_binary_is_skipped_and_its_old_text_removed(
    client: QdrantBase, folder: Path
) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)
    (folder / "bananas.txt").write_text("   \n")
    (folder / "long.txt").write_bytes(b"\0\1\2\3" * 100)
    report = Indexer(docs).sync(folder)
    assert {skipped.source for skipped in report.skipped} == {"bananas.txt", "long.txt"}
    assert report.removed == 2
    assert Retriever(docs).search("bananas thing7") == []


def test_what_cannot_be_read_this_time_keeps_what_was_indexed_of_it(
    client: QdrantBase, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)

    def partly_closed(root: Path, **options: Any) -> Iterator[FoundFile | Skipped]:
        yield Skipped(source="guide/", reason="permission denied")
        yield Skipped(source="bananas.txt", reason="permission denied")
        yield FoundFile(path=root / "long.txt", source="long.txt")

    monkeypatch.setattr("ragkit.indexer.find_files", partly_closed)
    report = Indexer(docs).sync(folder)
    assert counts(report) == (0, 0, 1, 0)
    assert len(report.skipped) == 2
    assert docs.status().documents == 3


def test_progress_goes_up_to_the_total(client: QdrantBase, folder: Path) -> None:
    seen: list[Progress] = []
    report = Indexer(Collection(client, "notes")).sync(folder, progress=seen.append)
    assert [p.seen for p in seen] == sorted(p.seen for p in seen)
    last = seen[-1]
    assert (last.seen, last.total) == (3, 3)
    assert (last.committed, last.chunks) == (report.added, report.chunks)


def test_include_and_exclude_choose_files(client: QdrantBase, folder: Path) -> None:
    docs = Collection(client, "notes")
    assert counts(Indexer(docs).sync(folder, include=["*.txt"], exclude=["long*"])) == (1, 0, 0, 0)
    assert counts(Indexer(docs).sync(folder)) == (2, 0, 1, 0)


def test_a_file_name_with_a_newline_is_indexed_under_its_name(
    client: QdrantBase, tmp_path: Path
) -> None:
    (tmp_path / "two\nlines.txt").write_text("A walrus.")
    docs = Collection(client, "notes")
    Indexer(docs).sync(tmp_path)
    assert Retriever(docs).search("walrus")[0].source == "two\nlines.txt"


def test_one_of_two_corpora_loses_its_document_and_the_other_keeps_its_own(
    client: QdrantBase, tmp_path: Path
) -> None:
    docs = Collection(client, "notes")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.md").write_text("A walrus.")
        Indexer(docs).sync(tmp_path / name, corpus=name)
    with pytest.raises(ValueError, match="expected corpus to be one of"):
        Indexer(docs).remove(["readme.md"])
    assert Indexer(docs).remove(["readme.md"], corpus="two") == 1
    assert [hit.corpus for hit in Retriever(docs).search("walrus")] == ["one"]


def test_a_root_that_cannot_be_listed_any_more_removes_nothing(
    client: QdrantBase, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)
    unlistable = [Skipped(source="./", reason="Input/output error")]
    monkeypatch.setattr("ragkit.indexer.find_files", lambda *_, **__: iter(unlistable))
    with pytest.raises(DocumentError, match=r"cannot list .*: Input/output error"):
        Indexer(docs).sync(folder)
    assert docs.status().documents == 3


@pytest.mark.parametrize("length", [30, 300])
def test_a_changed_document_that_is_given_up_leaves_its_stored_version_whole(
    client: QdrantBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr("ragkit.writer.MAX_CHUNKS", 16)
    (tmp_path / "a.txt").write_text(paragraphs(range(length)))
    (tmp_path / "b.txt").write_text("A walrus.")
    docs = Collection(client, "notes", embedder=Recording(poison="kryptonite"))
    Indexer(docs).sync(tmp_path)
    before = stored(client)
    worse = paragraphs(range(1, length)) + "\n\nkryptonite " + paragraphs([9])
    (tmp_path / "a.txt").write_text(worse)
    report = Indexer(docs).sync(tmp_path)
    assert counts(report) == (0, 0, 1, 0)
    assert [skipped.source for skipped in report.skipped] == ["a.txt"]
    assert stored(client) == before


def test_what_an_interrupted_addition_left_is_swept_and_can_be_removed(
    client: QdrantBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.writer.MAX_CHUNKS", 16)

    class Dying(HashEmbedder):
        calls = 0

        def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("the machine is on fire")
            return super().embed_documents(texts, titles=titles)

    long = Document(source="x", title="x", text=paragraphs(range(200)))
    for again in ("removed", "added"):
        docs = Collection(client, again, embedder=Dying(32))
        with pytest.raises(RuntimeError, match="on fire"):
            Indexer(docs).add([long])
        assert client.count(again).count == 32
        healthy = Collection(client, again, embedder=HashEmbedder(32))
        if again == "removed":
            Indexer(healthy).remove(["x"], corpus="documents")
            assert client.count(again).count == 0
        else:
            short = Document(source="x", title="x", text="Short.")
            Indexer(healthy).add([short])
            assert client.count(again).count == 1


def test_two_poison_texts_alone_in_a_batch_do_not_stop_the_run(
    client: QdrantBase, folder: Path
) -> None:
    docs = Collection(client, "notes", embedder=Recording(poison="kryptonite"))
    Indexer(docs).sync(folder)
    (folder / "bananas.txt").unlink()
    for name in ("p", "q"):
        (folder / f"{name}.md").write_text(f"kryptonite {name}")
    report = Indexer(docs).sync(folder)
    assert counts(report) == (0, 0, 2, 1)
    assert [skipped.source for skipped in report.skipped] == ["p.md", "q.md"]


@pytest.mark.parametrize("wrong", [{"ordinal": 5}, {"source": "other"}])
def test_a_chunker_that_misnumbers_or_renames_its_chunks_is_caught(
    client: QdrantBase, wrong: dict[str, Any]
) -> None:
    def chunker(document: Document) -> list[Chunk]:
        fields = {"source": document.source, "ordinal": 0, "start": 0, "end": 1, "title": "t"}
        return [Chunk(text="x", **{**fields, **wrong})]

    report = Indexer(Collection(client, "notes", chunker=chunker)).add(
        [Document(source="a", title="t", text="x")]
    )
    assert report.added == 0
    assert "expected chunks numbered 0, 1, ... of 'a'" in report.skipped[0].reason


def test_a_plan_counts_the_removal_of_what_became_binary(client: QdrantBase, folder: Path) -> None:
    docs = Collection(client, "notes")
    Indexer(docs).sync(folder)
    (folder / "bananas.txt").unlink()
    (folder / "bananas.txt").symlink_to("/etc/hostname")
    plan = Indexer(docs).plan(folder)
    report = Indexer(docs).sync(folder)
    assert len(plan.removed) == report.removed == 1


@pytest.mark.parametrize("name", ["db [1]", "db*", "!db", "#db", "d\\b", " db "])
def test_a_database_of_any_name_is_not_indexed_with_its_folder(folder: Path, name: str) -> None:
    with EdgeClient(folder / name) as client:
        docs = Collection(client, "notes")
        assert Indexer(docs).sync(folder).added == 3
        assert counts(Indexer(docs).sync(folder)) == (0, 0, 3, 0)


def test_a_lone_pattern_is_one_pattern(client: QdrantBase, folder: Path) -> None:
    assert Indexer(Collection(client, "notes")).sync(folder, exclude="*.txt").added == 1


def test_an_embedder_that_becomes_unavailable_keeps_what_was_paid_for(
    client: QdrantBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.writer.MAX_CHUNKS", 16)

    class Metered(Recording):
        budget = 40

        def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
            most, self.budget = self.budget, max(0, self.budget - len(texts))
            if len(texts) <= most:
                return super().embed_documents(texts, titles=titles)
            head = super().embed_documents(texts[:most], titles=titles[:most])
            raise QuotaExhausted("the day's quota is used up", vectors=dict(enumerate(head)))

    (tmp_path / "a.txt").write_text("A walrus.")
    (tmp_path / "b.txt").write_text(paragraphs(range(200)))
    embedder = Metered()
    docs = Collection(client, "notes", embedder=embedder)
    with pytest.raises(QuotaExhausted, match="used up") as caught:
        Indexer(docs).sync(tmp_path)
    assert "1 documents were committed in this run" in caught.value.__notes__[0]
    assert len(embedder.texts) == 40
    assert Retriever(docs).search("walrus", mode="sparse")[0].source == "a.txt"
    embedder.budget = 10_000
    report = Indexer(docs).sync(tmp_path)
    assert (report.added, report.unchanged) == (1, 1)
    assert report.embedded == len(embedder.texts) - 40
    assert len(set(embedder.texts)) == len(embedder.texts)


def test_a_poison_text_that_stands_in_two_documents_costs_both_and_no_other(
    client: QdrantBase, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n.md").write_text("# Same\n\nkryptonite in here")
    (tmp_path / "good.md").write_text("# Good\n\nA walrus.")
    docs = Collection(client, "notes", embedder=Recording(poison="kryptonite"))
    report = Indexer(docs).sync(tmp_path)
    assert report.added == 1
    assert [skipped.source for skipped in report.skipped] == ["a/n.md", "b/n.md"]


def test_an_interrupted_run_stops_its_embedder(client: QdrantBase, folder: Path) -> None:
    class Closing(HashEmbedder):
        closed = False

        def close(self) -> None:
            self.closed = True

    def interrupt(progress: Progress) -> None:
        if progress.committed:
            raise KeyboardInterrupt

    embedder = Closing(32)
    docs = Collection(client, "notes", embedder=embedder)
    with pytest.raises(KeyboardInterrupt):
        Indexer(docs).sync(folder, progress=interrupt)
    assert embedder.closed
