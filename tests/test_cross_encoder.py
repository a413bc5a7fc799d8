"""Rerankers of sentence-transformers, which need the extra `torch`; the model is made here."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import ragkit
from ragkit.errors import MissingDependency, ModelNotFound
from ragkit.local import CrossEncoderReranker
from ragkit.reranking import rerank

needs_torch = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason='needs pip install "ragkit[torch]"'
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(40))]
TEXTS = ["word1 word2", "word3", "word4 word5 word6 word7", "", "word8 \ud83d", "word9 word1"]


def made(folder: Path, *, labels: int = 1, kind: str = "BertForSequenceClassification") -> Path:
    """A model of one small random layer that reads 32 tokens."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=labels,
        initializer_range=0.3,  # with the usual 0.02 all scores would be about the same
    )
    torch.manual_seed(7)
    getattr(transformers, kind)(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=32)
    assert tokenizer.tokenize("word1 word39") == ["word1", "word39"]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> CrossEncoderReranker:
    return CrossEncoderReranker(folder, device="cpu")


@needs_torch
def test_scores_are_those_of_the_library_for_query_and_text(
    folder: Path, tiny: CrossEncoderReranker
) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    texts = [text for text in TEXTS if text.isascii()]
    scores = tiny("word1", texts)
    assert scores.shape == (len(texts),)
    assert len(set(scores.tolist())) == len(texts)
    np.testing.assert_allclose(scores, model.predict([("word1", t) for t in texts]), atol=1e-6)
    assert not np.allclose(scores, tiny("word2", texts))
    given = CrossEncoderReranker(model)
    np.testing.assert_array_equal(given("word1", texts), scores)


@needs_torch
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_each_text_has_the_score_it_has_alone(tiny: CrossEncoderReranker, count: int) -> None:
    texts = TEXTS[:count]
    alone = [float(tiny("word1 word4", [text])[0]) for text in texts]
    np.testing.assert_allclose(tiny("word1 word4", texts), alone, atol=1e-6)


@needs_torch
def test_a_text_is_read_to_the_limit_of_the_model_and_no_further(
    tiny: CrossEncoderReranker,
) -> None:
    long = " ".join(f"word{i % 40}" for i in range(200))
    shorter, shortest = " ".join(long.split()[:50]), " ".join(long.split()[:20])
    scores = tiny("word1", [long, shorter, shortest])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0] != pytest.approx(scores[2], abs=1e-5)


@needs_torch
def test_threads_take_turns_and_a_pickle_has_no_model(tiny: CrossEncoderReranker) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tiny("word1", TEXTS), range(8)))
    packed = pickle.dumps(tiny)
    assert len(packed) < 1_000
    copy = pickle.loads(packed)  # noqa: S301  (just packed)
    for scores in found:
        np.testing.assert_allclose(scores, copy("word1", TEXTS), atol=1e-6)


@needs_torch
def test_a_reranker_with_a_model_of_its_own_is_not_pickled(folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    with pytest.raises(TypeError, match="give its name"):
        pickle.dumps(CrossEncoderReranker(CrossEncoder(str(folder), device="cpu")))


@needs_torch
def test_it_ranks_the_hits_of_a_search(tiny: CrossEncoderReranker, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, text in (("a", "word1 word2"), ("b", "word1 word3 word4"), ("c", "word1 word9")):
        (notes / f"{name}.txt").write_text(text)
    with ragkit.EdgeClient(tmp_path / "edge") as client:
        docs = ragkit.Collection(client, "notes")
        ragkit.Indexer(docs).sync(notes)
        hits = ragkit.Retriever(docs).search("word1")
    found = rerank(tiny, "word1", hits)
    assert found.notes == ()
    assert {each.source for each in found} == {"a.txt", "b.txt", "c.txt"}
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, tiny("word1", [each.text for each in found]), atol=1e-6)


@needs_torch
def test_a_model_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="finds no cross-encoder"):
        CrossEncoderReranker(tmp_path / "nothing" / "here")("word1", ["word2"])


@needs_torch
def test_a_model_for_embeddings_is_refused_for_its_scores_would_be_random(tmp_path: Path) -> None:
    folder = made(tmp_path / "embeds", kind="BertModel")
    with pytest.raises(ValueError, match="a BertModel that was never trained to score pairs"):
        CrossEncoderReranker(folder, device="cpu")("word1", ["word2"])


@needs_torch
def test_a_model_with_several_labels_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "labels", labels=3)
    with pytest.raises(ValueError, match=r"one score for a pair, got .* with 3"):
        CrossEncoderReranker(folder, device="cpu")("word1", ["word2"])


@needs_torch
def test_a_wrong_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CrossEncoderReranker("some/model", batch_size=0)


def test_without_the_library_it_says_at_once_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ragkit.local.cross_encoder.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependency, match=r'pip install "ragkit\[torch\]"'):
        CrossEncoderReranker("some/model")


def test_naming_it_loads_no_torch() -> None:
    program = (
        "import sys; from ragkit.local import CrossEncoderReranker; "
        "print({'torch', 'sentence_transformers'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"
