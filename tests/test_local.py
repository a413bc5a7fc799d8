"""The model that comes along, and those of sentence-transformers.

The latter need the extra `torch` and the official all-MiniLM-L6-v2 in a folder: RAGKIT_MINILM.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ragkit
from ragkit.embedders import embedder_of, is_cut_of, with_dim
from ragkit.embeddings import Embedder, QueryBatchEmbedder, embed_queries, embed_query, unread_note
from ragkit.errors import EmbeddingError, ModelNotFound
from ragkit.local import LocalEmbedder, SentenceTransformerEmbedder, minilm
from ragkit.local.minilm import is_installed

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "ragkit" / "local" / "models" / "all-MiniLM-L6-v2-int8"
OFFICIAL = os.environ.get("RAGKIT_MINILM", "")

needs_local = pytest.mark.skipif(
    not is_installed(), reason='needs the extra "local": pip install "ragkit[local]"'
)
needs_torch = pytest.mark.skipif(
    find_spec("sentence_transformers") is None or not OFFICIAL,
    reason='needs pip install "ragkit[torch]" and the folder of all-MiniLM-L6-v2 in RAGKIT_MINILM',
)

SENTENCES = [
    "How do I fix a puncture in my bicycle tyre?",
    "Repairing a flat on a bike wheel",
    "The recipe needs two eggs and some flour",
    "Bread is baked from dough in a hot oven",
    "def read_lines(path): return path.read_text().splitlines()",
    "Return the lines of a file as a list of strings",
]
# Their cosines by the official weights in float32, with sentence-transformers 6.2.
COSINES = [
    [1.000, 0.493, 0.094, 0.190, 0.104, 0.033],
    [0.493, 1.000, 0.036, 0.073, 0.018, 0.072],
    [0.094, 0.036, 1.000, 0.385, -0.073, -0.056],
    [0.190, 0.073, 0.385, 1.000, 0.036, 0.045],
    [0.104, 0.018, -0.073, 0.036, 1.000, 0.477],
    [0.033, 0.072, -0.056, 0.045, 0.477, 1.000],
]


def embed(texts: list[str], *, threads: int | None = None) -> np.ndarray:
    return LocalEmbedder(threads=threads).embed_documents(texts, titles=[""] * len(texts))


def run(program: str, *options: str, without: Sequence[str] = (), **environment: str) -> str:
    """What a program prints in a new process, where warnings are errors."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**kept, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_both_are_embedders() -> None:
    assert isinstance(LocalEmbedder(), Embedder)
    for name in ("dim", "max_tokens", "fingerprint", "embed_documents", "embed_query"):
        assert hasattr(SentenceTransformerEmbedder, name)


@needs_local
def test_vectors_are_those_of_the_official_model_within_the_error_of_eight_bits() -> None:
    vectors = embed(SENTENCES)
    assert vectors.dtype == np.float32
    assert vectors.shape == (6, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors @ vectors.T, COSINES, atol=0.02)


@needs_local
def test_a_question_finds_the_passage_that_shares_its_meaning_and_no_word() -> None:
    passages = ["Repairing cars", "Baking bread at home", "Opening a savings account"]
    scores = embed(passages) @ LocalEmbedder().embed_query("my automobile is broken")
    assert np.argmax(scores) == 0


@needs_local
def test_many_queries_have_the_vectors_that_each_has_alone_bit_for_bit() -> None:
    embedder = LocalEmbedder()
    assert isinstance(embedder, QueryBatchEmbedder)
    alone = np.stack([embedder.embed_query(text) for text in SENTENCES])
    np.testing.assert_array_equal(embedder.embed_queries(SENTENCES), alone)
    assert embedder.embed_queries([]).shape == (0, 384)


@needs_local
def test_a_query_that_is_a_little_long_is_searched_by_its_beginning_and_said_to_be() -> None:
    embedder, query = LocalEmbedder(), "How are bicycles repaired? " * 60
    cut = embed_query(embedder, query)
    np.testing.assert_array_equal(cut, embed_query(embedder, query[:1_400]))
    assert "the embedder reads about 400" in (unread_note(embedder, query) or "")
    assert unread_note(embedder, query[:1_000]) is None
    with pytest.raises(ValueError, match="at most 800 tokens for all-MiniLM-L6-v2"):
        embed_query(embedder, "x" * 100_000)


@needs_local
@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(), max_size=80))
@example(text="")
@example(text="half of a pair: \ud83d")
@example(text="[PAD] [MASK] [SEP] \0")
@example(text="日本語 и русский")
def test_any_text_gives_a_finite_unit_vector(text: str) -> None:
    vector = LocalEmbedder().embed_documents([text], titles=[text])[0]
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@needs_local
def test_a_vector_depends_on_its_own_text_alone() -> None:
    texts = [" ".join(SENTENCES[: n % 6 + 1]) for n in range(24)]
    together = embed(texts, threads=4)
    assert np.array_equal(together, np.stack([embed([text])[0] for text in texts]))
    assert np.array_equal(together, embed(texts, threads=1))
    assert np.array_equal(together[0], LocalEmbedder().embed_query(texts[0]))


@needs_local
def test_a_title_counts_and_goes_behind_the_text() -> None:
    titled = LocalEmbedder().embed_documents(["It is yellow."], titles=["Bananas"])
    assert np.array_equal(titled, embed(["It is yellow.\nBananas"]))
    assert not np.array_equal(titled, embed(["It is yellow."]))


@needs_local
def test_of_a_long_text_its_first_256_pieces_count_and_a_title_takes_none_of_them() -> None:
    words = ["dog"] * 254  # and the marks of begin and end
    full = embed([" ".join(words)])
    assert np.array_equal(full, embed([" ".join([*words, "cat", "cat"])]))
    assert np.array_equal(
        full, LocalEmbedder().embed_documents([" ".join(words)], titles=["Cats and mice"])
    )
    assert not np.array_equal(full, embed([" ".join([*words[:-1], "cat"])]))
    assert np.isfinite(embed(["x y " * 1_000_000])).all()


@needs_local
def test_nothing_to_embed_gives_no_vectors() -> None:
    assert embed([]).shape == (0, 384)


@needs_local
def test_threads_may_share_an_embedder() -> None:
    embedder = LocalEmbedder()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(embedder.embed_query, SENTENCES * 8))
    assert np.array_equal(np.stack(found), np.tile(embed(SENTENCES), (8, 1)))


@needs_local
def test_a_pickle_holds_the_settings_and_not_the_model() -> None:
    embedder = LocalEmbedder(threads=2)
    embedder.embed_query("loaded")
    packed = pickle.dumps(embedder)
    assert len(packed) < 500
    copy = pickle.loads(packed)  # noqa: S301  (just packed)
    assert repr(copy) == "LocalEmbedder(threads=2)"
    assert np.array_equal(copy.embed_query("a"), embedder.embed_query("a"))


@needs_local
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system has not")
def test_a_forked_child_goes_on_with_the_model() -> None:
    assert run(
        "import os, ragkit.local as local\n"
        "embedder = local.LocalEmbedder(threads=2)\n"
        "embed = lambda: embedder.embed_documents(['a', 'b b', 'c'], titles=[''] * 3)\n"
        "before = embed()\n"
        "child = os.fork()\n"
        "if not child: os._exit(0 if (embed() == before).all() else 1)\n"
        "print(os.waitpid(child, 0)[1])\n"
    ) == "0"  # fmt: skip


@needs_local
def test_it_works_without_a_network_and_writes_nothing(tmp_path: Path) -> None:
    program = (
        "import socket, ragkit.local as local\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "print(local.LocalEmbedder().embed_query('a').shape)\n"
    )
    # Were the runtime's telemetry not switched off, it would keep a database at home.
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME")}
    assert run(program, "-B", without=("ORT_DISABLE_TELEMETRY",), **places) == "(384,)"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_loaded_before_the_first_use() -> None:
    loaded = run(
        "import sys, ragkit.local as local\n"
        "local.LocalEmbedder(); local.SentenceTransformerEmbedder('some/model')\n"
        "print(*sys.modules)"
    ).split()
    assert not {"onnxruntime", "tokenizers", "sentence_transformers", "torch"} & {*loaded}


def test_without_the_extras_the_error_names_them() -> None:
    shown = run(
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['onnxruntime', 'sentence_transformers']))\n"
        "import ragkit.local as local, ragkit.errors as errors\n"
        "from ragkit.local.minilm import is_installed\n"
        "print(is_installed())\n"
        "for embedder in local.LocalEmbedder(), local.SentenceTransformerEmbedder('some/model'):\n"
        "    try: embedder.embed_query('a')\n"
        "    except errors.MissingDependency as exc: print(exc)\n"
    ).splitlines()
    assert shown[0] == "False"
    assert "ragkit[local]" in shown[1]
    assert "ragkit[torch]" in shown[2]


@needs_local
def test_a_damaged_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    damaged = bytearray((FOLDER / "model.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(damaged)
    monkeypatch.setattr(minilm, "_FOLDER", tmp_path)
    monkeypatch.setattr(minilm, "_loaded", None)
    with pytest.raises(EmbeddingError, match="install ragkit again"):
        LocalEmbedder().embed_query("a")


def test_less_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LocalEmbedder(threads=0)


def test_the_model_comes_with_its_licence_and_says_what_was_changed() -> None:
    assert "Apache License" in (FOLDER / "LICENSE").read_text()
    notice = (FOLDER / "NOTICE").read_text()
    assert "quantised to int8" in notice
    assert "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2" in notice
    (expected,) = [line for line in notice.splitlines() if line.startswith("53aa5117")]
    assert expected.rstrip(".") in (ROOT / "examples" / "quantise_minilm.py").read_text()


def test_the_fingerprint_names_the_file_that_is_there() -> None:
    found = hashlib.sha256((FOLDER / "model.onnx").read_bytes()).hexdigest()
    assert f"weights=int8-{found[:12]} " in LocalEmbedder.fingerprint


def test_a_fingerprint_leads_back_to_its_embedder() -> None:
    assert isinstance(embedder_of(LocalEmbedder.fingerprint), LocalEmbedder)
    other = LocalEmbedder.fingerprint.replace("int8-", "int8-0")
    assert embedder_of(other) is None


@needs_local
def test_a_folder_is_searched_by_meaning_and_embedded_once(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("Vehicles are repaired in the garage on Mondays.")
    (notes / "b.txt").write_text("Bread is baked every morning.")
    with ragkit.EdgeClient(tmp_path / "edge") as client:
        docs = ragkit.Collection(client, "notes", embedder=LocalEmbedder())
        assert docs.chunker == ragkit.Chunker()  # as without a model
        assert ragkit.Indexer(docs).sync(notes).embedded == 2
        assert ragkit.Indexer(docs).sync(notes).embedded == 0
        (hit,) = ragkit.Retriever(docs).search("who mends automobiles?", limit=1, mode="dense")
    assert hit.source == "a.txt"


@pytest.mark.skipif(
    not OFFICIAL or find_spec("onnx") is None,
    reason="needs pip install onnx and the folder of all-MiniLM-L6-v2 in RAGKIT_MINILM",
)
def test_the_script_makes_the_same_bytes_of_the_official_weights(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "quantise_minilm.py")
    subprocess.run([sys.executable, script, OFFICIAL, "--to", str(tmp_path)], check=True)
    for name in ("model.onnx", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


# sentence-transformers


@pytest.fixture(scope="module")
def torch_minilm() -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(OFFICIAL, device="cpu")


@pytest.fixture
def with_prompts(tmp_path: Path) -> Callable[[dict[str, str]], SentenceTransformerEmbedder]:
    """Makes an embedder of the same model in a folder whose configuration has these prompts."""

    def made(prompts: dict[str, str]) -> SentenceTransformerEmbedder:
        folder = shutil.copytree(OFFICIAL, tmp_path / "prompted", dirs_exist_ok=True)
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
        return SentenceTransformerEmbedder(folder, device="cpu")

    return made


@needs_torch
@needs_local
def test_both_embedders_agree_about_the_same_model(
    torch_minilm: SentenceTransformerEmbedder,
) -> None:
    texts = [
        *SENTENCES,
        *(part for part in (ROOT / "README.md").read_text().split("\n\n") if part.strip()),
    ]
    titles = ["A title" if n % 3 else "" for n in range(len(texts))]
    exact = torch_minilm.embed_documents(texts, titles=titles)
    ours = LocalEmbedder().embed_documents(texts, titles=titles)
    cosines = (exact * ours).sum(axis=1)
    assert cosines.mean() > 0.99
    assert cosines.min() > 0.98
    # Each text's nearest other is the same, or as near within the error.
    ranked, found = (v @ v.T - 2 * np.eye(len(v)) for v in (exact, ours))
    lost = ranked.max(axis=1) - ranked[np.arange(len(texts)), found.argmax(axis=1)]
    assert lost.max() < 0.05


@needs_torch
def test_a_model_is_described_by_its_fingerprint_without_its_path(
    torch_minilm: SentenceTransformerEmbedder, with_prompts: Callable[..., Embedder]
) -> None:
    name = f"./{Path(OFFICIAL).resolve().name}"
    found = torch_minilm.fingerprint
    assert found.startswith(f"{name} dim=384 weights=float32-")
    assert found.endswith('pieces=256 query="" document="" unit-norm by=sentence-transformers')
    assert (torch_minilm.dim, torch_minilm.max_tokens) == (384, 384)
    # The same weights in another folder, with other prompts.
    other = with_prompts({"query": "Q: ", "passage": "P: "}).fingerprint
    assert 'query="Q: " document="P: "' in other
    assert other.split()[2] == found.split()[2]


@needs_torch
def test_queries_and_documents_get_the_prompts_of_the_model(
    torch_minilm: SentenceTransformerEmbedder, with_prompts: Callable[..., Embedder]
) -> None:
    prompted = with_prompts({"query": "query: ", "passage": "passage: "})
    plain = torch_minilm.embed_documents(["query: a dog", "passage: a dog"], titles=["", ""])
    ours = [prompted.embed_query("a dog"), prompted.embed_documents(["a dog"], titles=[""])[0]]
    np.testing.assert_allclose(np.stack(ours), plain, atol=1e-5)


@needs_torch
def test_many_queries_have_the_vectors_that_each_has_alone(
    torch_minilm: SentenceTransformerEmbedder, with_prompts: Callable[..., Embedder]
) -> None:
    prompted = with_prompts({"query": "query: ", "passage": "passage: "})
    for embedder in (torch_minilm, prompted):
        alone = np.stack([embedder.embed_query(text) for text in SENTENCES])
        np.testing.assert_allclose(embed_queries(embedder, SENTENCES), alone, atol=1e-5)
        assert isinstance(embedder, QueryBatchEmbedder)
        assert embedder.embed_queries([]).shape == (0, 384)


@needs_torch
def test_a_title_goes_where_the_prompt_of_embedding_gemma_has_it(
    torch_minilm: SentenceTransformerEmbedder, with_prompts: Callable[..., Embedder]
) -> None:
    prompted = with_prompts({"query": "", "document": "title: none | text: "})
    ours = prompted.embed_documents(["It is a dog."] * 3, titles=["Rex", "", "{title}"])
    plain = torch_minilm.embed_documents(
        [f"title: {title} | text: It is a dog." for title in ("Rex", "none", "{title}")],
        titles=[""] * 3,
    )
    np.testing.assert_allclose(ours, plain, atol=1e-5)


@needs_torch
def test_fewer_numbers_are_the_first_ones_at_unit_length(
    torch_minilm: SentenceTransformerEmbedder,
) -> None:
    narrow = SentenceTransformerEmbedder(OFFICIAL, dim=128, device="cpu")
    wide = torch_minilm.embed_query("a dog")[:128]
    np.testing.assert_allclose(narrow.embed_query("a dog"), wide / np.linalg.norm(wide), atol=1e-5)
    assert narrow.embed_documents([], titles=[]).shape == (0, 128)
    with pytest.raises(ValueError, match="at most the 384"):
        SentenceTransformerEmbedder(OFFICIAL, dim=385, device="cpu").embed_query("a dog")


@needs_torch
def test_texts_that_no_tokenizer_takes_are_embedded(
    torch_minilm: SentenceTransformerEmbedder,
) -> None:
    vectors = torch_minilm.embed_documents(["half: \ud83d", "", "\0"], titles=["", "", ""])
    assert np.isfinite(vectors).all()


@needs_torch
def test_threads_take_turns_and_a_pickle_has_no_model(
    torch_minilm: SentenceTransformerEmbedder,
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = np.stack([*pool.map(torch_minilm.embed_query, SENTENCES * 2)])
    packed = pickle.dumps(torch_minilm)
    assert len(packed) < 1_000
    copy = pickle.loads(packed)  # noqa: S301  (just packed)
    again = np.stack([copy.embed_query(text) for text in SENTENCES])
    np.testing.assert_allclose(found, np.tile(again, (2, 1)), atol=1e-5)


@needs_torch
def test_other_weights_than_the_collection_was_made_with_are_refused(
    torch_minilm: SentenceTransformerEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model").symlink_to(Path(OFFICIAL).resolve())
    monkeypatch.chdir(tmp_path)  # where a folder may stand for a name
    name = f"./{Path(OFFICIAL).resolve().name}"
    made_with = torch_minilm.fingerprint.replace(name, "owner/model").replace("float32-", "bf16-")
    embedder = SentenceTransformerEmbedder.from_fingerprint(made_with, device="cpu")
    assert embedder is not None
    with pytest.raises(EmbeddingError, match="expected the model owner/model dim=384 weights=bf16"):
        embedder.embed_query("a dog")


@needs_torch
def test_a_model_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="finds no model"):
        SentenceTransformerEmbedder(tmp_path / "nothing" / "here").embed_query("a dog")


FINGERPRINT = (
    "intfloat/e5-base-v2 dim=768 weights=float32-0123456789ab pieces=512 "
    r'query="query: \"" document="passage: " unit-norm by=sentence-transformers'
)


def test_a_fingerprint_with_a_name_leads_back_to_its_model_without_loading_it() -> None:
    embedder = embedder_of(FINGERPRINT)
    assert isinstance(embedder, SentenceTransformerEmbedder)
    assert (embedder.fingerprint, embedder.dim, embedder.max_tokens) == (FINGERPRINT, 768, 768)
    assert repr(embedder).startswith("SentenceTransformerEmbedder('intfloat/e5-base-v2', dim=768")
    narrow = with_dim(FINGERPRINT, 256)
    assert narrow is not None
    assert narrow.dim == 256
    assert is_cut_of(narrow.fingerprint, FINGERPRINT)
    assert embedder_of(FINGERPRINT.replace("intfloat/", "./")) is None


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"batch_size": 0}])
def test_a_wrong_size_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SentenceTransformerEmbedder("some/model", **wrong)  # type: ignore[arg-type]
