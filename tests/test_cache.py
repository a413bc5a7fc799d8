from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from ragkit.cache import CachedEmbedder
from ragkit.embeddings import (
    AsyncEmbedder,
    AsyncQueryBatchEmbedder,
    HashEmbedder,
    QueryBatchEmbedder,
    Vectors,
    aembed_queries,
    aembed_query,
    embed_queries,
)
from ragkit.errors import EmbeddingError, QuotaExhausted, TextsRefused
from ragkit.usage import Forecast


class Counting(HashEmbedder):
    """Remembers what it was asked."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__(dim)
        self.asked: list[str] = []

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        self.asked += texts
        return super().embed_documents(texts, titles=titles)

    def embed_query(self, text: str) -> Vectors:
        self.asked.append(text)
        return super().embed_query(text)


def test_a_text_is_embedded_once_and_comes_back_the_same(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    first = cached.embed_documents(["a b", "c d", "a b"], titles=["t", "t", "t"])
    second = cached.embed_documents(["c d", "e f", "a b"], titles=["t", "t", "t"])
    cached.close()
    assert inner.asked == ["a b", "c d", "e f"]
    np.testing.assert_array_equal(first[[1, 0]], second[[0, 2]])
    plain = HashEmbedder(16).embed_documents(["a b", "c d", "a b"], titles=["t"] * 3)
    np.testing.assert_allclose(first, plain, rtol=1e-6)


def test_title_and_side_are_part_of_the_key(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    cached.embed_documents(["text"], titles=["one"])
    cached.embed_documents(["text"], titles=["two"])
    cached.embed_query("text")
    cached.embed_query("text")
    cached.close()
    assert inner.asked == ["text", "text", "text"]


def test_embedders_of_different_fingerprints_share_a_file_without_mixing(tmp_path: Path) -> None:
    small = CachedEmbedder(HashEmbedder(16), tmp_path / "cache.db")
    large = CachedEmbedder(HashEmbedder(32), tmp_path / "cache.db")
    assert small.embed_query("keys").shape == (16,)
    assert large.embed_query("keys").shape == (32,)
    small.close()
    large.close()


def test_the_cache_outlives_the_process_and_holds_no_text(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with_secret = CachedEmbedder(Counting(), path)
    with_secret.embed_query("a canary sings")
    with_secret.close()
    assert b"canary" not in path.read_bytes()
    inner = Counting()
    again = CachedEmbedder(inner, path)
    again.embed_query("a canary sings")
    again.close()
    assert inner.asked == []


def test_many_processes_write_one_cache_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    program = """if True:
        import sys
        from ragkit.cache import CachedEmbedder
        from ragkit.embeddings import HashEmbedder
        cached = CachedEmbedder(HashEmbedder(16), sys.argv[1])
        for i in range(60):
            cached.embed_documents([f"text {i}", f"own {sys.argv[2]} {i}"], titles=["", ""])
        cached.close()
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(n)], stderr=subprocess.PIPE)
        for n in range(4)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    with sqlite3.connect(path) as database:
        (count,) = database.execute("SELECT count(*) FROM vectors").fetchone()
    database.close()
    assert count == 60 + 4 * 60


def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"this is no database at all, not even a small one" * 100)
    cached = CachedEmbedder(HashEmbedder(16), path)
    with pytest.raises(EmbeddingError, match=r"cache\.db does not work as an embedding cache"):
        cached.embed_query("keys")


def test_a_row_of_the_wrong_width_is_embedded_again(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    inner = Counting()
    cached = CachedEmbedder(inner, path)
    before = cached.embed_query("keys")
    cached.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE vectors SET vector = x'0000'")
    database.close()
    np.testing.assert_array_equal(cached.embed_query("keys"), before)
    cached.close()
    assert inner.asked == ["keys", "keys"]


def test_a_bad_vector_is_not_cached(tmp_path: Path) -> None:
    class Sick(HashEmbedder):
        sick = True

        def embed_query(self, text: str) -> Vectors:
            vector = super().embed_query(text)
            return vector * np.float32("nan") if self.sick else vector

    inner = Sick(16)
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    with pytest.raises(EmbeddingError, match="NaN"):
        cached.embed_query("keys")
    inner.sick = False
    assert np.isfinite(cached.embed_query("keys")).all()
    cached.close()


def test_no_texts_ask_for_nothing(tmp_path: Path) -> None:
    cached = CachedEmbedder(HashEmbedder(16), tmp_path / "cache.db")
    assert cached.embed_documents([], titles=[]).shape == (0, 16)
    cached.close()


@pytest.mark.parametrize("kind", [TextsRefused, QuotaExhausted])
def test_what_was_embedded_before_an_error_is_kept_and_handed_on(
    tmp_path: Path, kind: type[TextsRefused | QuotaExhausted]
) -> None:
    class Partial(Counting):
        def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
            vectors = super().embed_documents(texts, titles=titles)
            if "poison" not in texts:
                return vectors
            bad = list(texts).index("poison")
            good = {i: vector for i, vector in enumerate(vectors) if i != bad}
            raise kind("not all of it", failed={bad: "poison"}, vectors=good)

    inner = Partial()
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    cached.embed_documents(["old"], titles=[""])
    with pytest.raises(kind) as caught:
        cached.embed_documents(["old", "new", "poison", "new"], titles=[""] * 4)
    assert caught.value.failed == {2: "poison"}
    plain = HashEmbedder(16).embed_documents(["old", "new"], titles=["", ""])
    assert sorted(caught.value.vectors) == [0, 1, 3]
    for index, row in ((0, 0), (1, 1), (3, 1)):
        np.testing.assert_allclose(caught.value.vectors[index], plain[row], rtol=1e-6)
    inner.asked.clear()
    cached.embed_documents(["old", "new"], titles=["", ""])
    cached.close()
    assert inner.asked == []


class InOneCall(Counting):
    """Embeds many queries in one call, and may refuse some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.usage = "what was used"

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        self.asked += texts
        vectors = np.stack([HashEmbedder.embed_query(self, text) for text in texts])
        if "poison" not in texts:
            return vectors
        bad = list(texts).index("poison")
        good = {i: vector for i, vector in enumerate(vectors) if i != bad}
        raise TextsRefused("not all of it", failed={bad: "poison"}, vectors=good)

    def forecast(self, texts: int, tokens: int) -> Forecast:
        return Forecast(cost_usd=1.0 * texts, minutes=1.0 * tokens)


class Awaited(InOneCall):
    """The same from coroutines."""

    async def aembed_query(self, text: str) -> Vectors:
        return self.embed_query(text)

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.embed_queries(texts)


def together(cached: CachedEmbedder, texts: Sequence[str]) -> Vectors:
    """Through the coroutine where there is one."""
    if isinstance(cached, AsyncQueryBatchEmbedder):
        return asyncio.run(aembed_queries(cached, texts))
    return embed_queries(cached, texts)


@pytest.mark.parametrize("kind", [Counting, InOneCall, Awaited])
def test_of_many_queries_only_those_that_are_missing_are_embedded(
    tmp_path: Path, kind: type[Counting]
) -> None:
    inner = kind()
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    known = cached.embed_query("known")
    vectors = together(cached, ["new", "known", "other", "new"])
    assert inner.asked == ["known", "new", "other"]
    assert getattr(inner, "calls", 1) == 1
    np.testing.assert_array_equal(vectors[1], known)
    plain = np.stack([HashEmbedder(16).embed_query(text) for text in ("new", "other", "new")])
    np.testing.assert_allclose(vectors[[0, 2, 3]], plain, rtol=1e-6)
    np.testing.assert_array_equal(together(cached, ["other"])[0], cached.embed_query("other"))
    assert cached.embed_queries([]).shape == (0, 16)
    cached.close()
    assert inner.asked == ["known", "new", "other"]


@pytest.mark.parametrize("kind", [InOneCall, Awaited])
def test_refused_queries_have_the_places_of_the_call_and_the_others_are_kept(
    tmp_path: Path, kind: type[InOneCall]
) -> None:
    inner = kind()
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    cached.embed_query("known")
    with pytest.raises(TextsRefused, match=r"1 of 3 texts .*; text 1: poison") as caught:
        together(cached, ["known", "poison", "new"])
    assert (sorted(caught.value.failed), sorted(caught.value.vectors)) == ([1], [0, 2])
    inner.asked.clear()
    together(cached, ["new", "known"])
    cached.close()
    assert inner.asked == []


def test_a_blank_query_is_named_by_its_place_though_others_are_cached(tmp_path: Path) -> None:
    cached = CachedEmbedder(Awaited(), tmp_path / "cache.db")
    cached.embed_query("known")
    with pytest.raises(ValueError, match="query 1: expected"):
        cached.embed_queries(["known", " "])
    cached.close()


def test_a_query_is_awaited_once_and_then_recalled(tmp_path: Path) -> None:
    inner = Awaited()
    cached = CachedEmbedder(inner, tmp_path / "cache.db")
    assert isinstance(cached, AsyncEmbedder)
    first = asyncio.run(aembed_query(cached, "keys"))
    np.testing.assert_array_equal(first, asyncio.run(aembed_query(cached, "keys")))
    np.testing.assert_array_equal(first, cached.embed_query("keys"))
    cached.close()
    assert inner.asked == ["keys"]


def test_coroutines_and_counts_are_there_where_the_embedder_has_them(tmp_path: Path) -> None:
    plain = CachedEmbedder(HashEmbedder(16), tmp_path / "cache.db")
    assert isinstance(plain, QueryBatchEmbedder)
    assert not isinstance(plain, AsyncEmbedder)
    assert not any(hasattr(plain, name) for name in ("usage", "forecast", "aembed_queries"))
    full = CachedEmbedder(Awaited(), tmp_path / "cache.db")
    assert isinstance(full, AsyncQueryBatchEmbedder)
    assert full.usage == "what was used"
    assert full.forecast(2, 3) == Forecast(cost_usd=2.0, minutes=3.0)


def test_a_new_file_that_another_process_is_setting_up_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE begun (x)")
        other.execute("BEGIN IMMEDIATE")
        Timer(0.3, other.execute, ["COMMIT"]).start()
        with closing(CachedEmbedder(HashEmbedder(16), path)) as cached:
            assert cached.embed_documents(["text"], titles=[""]).shape == (1, 16)
