"""Any model that sentence-transformers can load, with its own prompts for queries and documents."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragkit.embeddings import Vectors
from ragkit.errors import EmbeddingError, ModelNotFound, require

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_STRING = r'"(?:[^"\\]|\\.)*"'
_FINGERPRINT = re.compile(
    rf"(?!\./)(\S+) dim=(\d+) weights=\S+ pieces=(\d+) query=({_STRING}) document=({_STRING}) "
    r"unit-norm by=sentence-transformers"
)
_MOST_PIECES = 32_768  # for a model without a limit, or with one that means none

# What these were trained with, and their configuration does not say: the query's prompt and the
# document's. https://huggingface.co/intfloat/e5-base-v2, https://huggingface.co/BAAI/bge-base-en-v1.5
_PROMPTS = (
    (r"intfloat/(?:multilingual-)?e5-(?:small|base|large)(?:-v2)?", "query: ", "passage: "),
    (
        r"BAAI/bge-(?:small|base|large)-en(?:-v1\.5)?",
        "Represent this sentence for searching relevant passages: ",
        "",
    ),
    (
        r"BAAI/bge-(?:small|base|large)-zh(?:-v1\.5)?",
        "为这个句子生成表示以用于检索相关文章：",  # noqa: RUF001  (a Chinese colon)
        "",
    ),
)
# How EmbeddingGemma's own prompt says that there is no title.
_NO_TITLE = "title: none |"


class SentenceTransformerEmbedder:
    """Embeds with a model of sentence-transformers (extra `torch`), for queries and documents.

    Prompts are the model's own: those of its configuration, else of E5 and BGE what their authors
    say, else none. A title goes where the document's prompt has "{title}" (or, as EmbeddingGemma's,
    "title: none |"), and behind the text where it has neither.

    The model is loaded when something of it is first asked for, `dim` and `fingerprint` included;
    sentence-transformers then downloads it, if it is not a folder and not on this machine yet.
    Calls from several threads take turns. A pickle holds the settings and not the model.

    Args:
        model: Its name, the folder it is in, or a `SentenceTransformer` for all that has no
            argument here: its revision, `trust_remote_code`, number format, backend.
        dim: Keep only so many of a vector's numbers, at unit length again; for models that were
            trained for it (Kusupati et al. 2022, "Matryoshka Representation Learning").
        device: As torch names it; None for the best there is.
        query_prompt: Instead of the model's own; "" for none.
        document_prompt: Likewise.
        batch_size: Texts in one pass through the model.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        dim: int | None = None,
        device: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("dim", dim), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        self._model, self._dim, self._device = model, dim, device
        self._prompts = (query_prompt, document_prompt)
        self._batch_size = batch_size
        self._expected: str | None = None  # the fingerprint that the model must turn out to have
        self._pieces: int | None = None  # what it then reads
        self._loaded: _Loaded | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_fingerprint(
        cls, fingerprint: str | None, *, device: str | None = None
    ) -> SentenceTransformerEmbedder | None:
        """The embedder that a collection was made with; None if it cannot be had by its name.

        A collection starts no download: the model must be on this machine already. When it is
        loaded, its weights must be those that the fingerprint has.
        """
        found = _FINGERPRINT.fullmatch(fingerprint or "")
        if found is None:
            return None
        model, dim, pieces, query, document = found.groups()
        embedder = cls(
            model,
            dim=int(dim),
            device=device,
            query_prompt=json.loads(query),
            document_prompt=json.loads(document),
        )
        embedder._expected, embedder._pieces = fingerprint, int(pieces)
        return embedder

    @property
    def dim(self) -> int:
        """The width of every vector."""
        return self._dim if self._dim is not None else self._model_loaded().dim

    @property
    def max_tokens(self) -> int:
        """What the model reads of an English text; of others it may be less, and it cuts them.

        A piece of its vocabulary is taken for one and a half tokens of `estimate_tokens`.
        """
        pieces = self._model_loaded().pieces if self._pieces is None else self._pieces
        return pieces * 3 // 2

    @property
    def fingerprint(self) -> str:
        """Model, dimension, a hash of the weights, how much is read, and both prompts."""
        return self._expected or self._model_loaded().fingerprint

    def __repr__(self) -> str:
        model = str(self._model) if isinstance(self._model, str | Path) else type(self._model)
        return f"SentenceTransformerEmbedder({model!r}, dim={self._dim}, device={self._device!r})"

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._model, str | Path):
            raise TypeError("an embedder with a model of its own cannot be pickled: give its name")
        return {**self.__dict__, "_loaded": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Embed each text with its title; shape (len(texts), dim), unit rows.

        Raises:
            MissingDependency: The extra `torch` is not installed.
            ModelNotFound: There is no such model, or it cannot be loaded.
            EmbeddingError: The model is not the one that the collection was made with.
        """
        loaded = self._model_loaded()
        if not texts:
            return np.zeros((0, loaded.dim), np.float32)
        prompt = loaded.document_prompt
        pairs = zip(texts, titles, strict=True)
        if "{title}" in prompt:  # it differs from text to text, so it goes in with the text
            inputs = [prompt.replace("{title}", title or "none") + text for text, title in pairs]
            prompt = ""
        else:
            inputs = [f"{text}\n{title}" if title else text for text, title in pairs]
        return self._encoded(loaded.model.encode_document, inputs, prompt)

    def embed_query(self, text: str) -> Vectors:
        """Embed a query; shape (dim,), unit length.

        Raises:
            MissingDependency, ModelNotFound, EmbeddingError: As `embed_documents`.
        """
        vector: Vectors = self.embed_queries([text])[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries, `batch_size` in one pass; shape (len(texts), dim), unit rows.

        Raises:
            MissingDependency, ModelNotFound, EmbeddingError: As `embed_documents`.
        """
        loaded = self._model_loaded()
        if not texts:
            return np.zeros((0, loaded.dim), np.float32)
        return self._encoded(loaded.model.encode_query, list(texts), loaded.query_prompt)

    def _encoded(self, encode: Any, inputs: list[str], prompt: str) -> Vectors:
        # Of a lone surrogate, which UTF-8 has no bytes for, the tokenizer would raise TypeError.
        plain = [text.encode(errors="replace").decode() for text in inputs]
        with self._lock:  # tokenizers keep the padding of a call in themselves
            vectors = encode(
                plain,
                prompt=prompt,
                batch_size=self._batch_size,
                show_progress_bar=False,
                normalize_embeddings=True,
                truncate_dim=self._dim,
            )
        return np.asarray(vectors, dtype=np.float32)

    def _model_loaded(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> _Loaded:
        model = self._model
        if isinstance(model, str | Path):
            model = _opened(str(model), self._device, local_files_only=self._expected is not None)
        loaded = _described(model, self._model, dim=self._dim, prompts=self._prompts)
        if self._expected not in (None, loaded.fingerprint):
            raise EmbeddingError(
                f"expected the model {self._expected}, found {loaded.fingerprint}: load the "
                "revision that made these vectors, or index again with this one"
            )
        return loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A model, and what follows from it and the settings."""

    model: SentenceTransformer
    dim: int
    pieces: int
    query_prompt: str
    document_prompt: str
    fingerprint: str


def _opened(name: str, device: str | None, *, local_files_only: bool) -> SentenceTransformer:
    library = require("sentence_transformers", "torch")
    try:
        model: SentenceTransformer = library.SentenceTransformer(
            name, device=device, local_files_only=local_files_only
        )
    except (OSError, ValueError) as exc:
        where = "on this machine" if local_files_only else "as a folder or by name"
        raise ModelNotFound(
            f"sentence-transformers finds no model {name!r} {where}: {exc}"
        ) from exc
    return model


def _described(
    model: SentenceTransformer,
    given: str | Path | SentenceTransformer,
    *,
    dim: int | None,
    prompts: tuple[str | None, str | None],
) -> _Loaded:
    name = _name(model, given)
    own = model.get_embedding_dimension()
    if own is None or (dim or 0) > own:
        raise ValueError(f"expected dim of at most the {own} that {name} has, got {dim}")
    dim = dim or own
    pieces = min(model.max_seq_length or _MOST_PIECES, _MOST_PIECES)
    query, document = (
        default if given is None else given
        for given, default in zip(prompts, _own_prompts(model, name), strict=True)
    )
    fingerprint = (
        f"{name} dim={dim} weights={_weights(model)} pieces={pieces} query={json.dumps(query)} "
        f"document={json.dumps(document)} unit-norm by=sentence-transformers"
    )
    return _Loaded(
        model=model,
        dim=dim,
        pieces=pieces,
        query_prompt=query,
        document_prompt=document,
        fingerprint=fingerprint,
    )


def _name(model: SentenceTransformer, given: str | Path | SentenceTransformer) -> str:
    """The model's name; of a folder the last part alone, so that no path gets into a collection."""
    if not isinstance(given, str | Path):
        given = getattr(model.config, "_name_or_path", "") or "unnamed"
    return f"./{Path(given).resolve().name}" if Path(given).is_dir() else str(given)


def _own_prompts(model: SentenceTransformer, name: str) -> Iterator[str]:
    """The query's prompt and the document's, by the names that sentence-transformers gives them."""
    known = next((each for each in _PROMPTS if re.fullmatch(each[0], name)), ("", "", ""))
    default = model.prompts.get(model.default_prompt_name or "", "")
    for keys, published in ((("query",), known[1]), (("document", "passage", "corpus"), known[2])):
        # The library puts an empty "document" beside a configured "passage", and then takes that.
        configured = next((model.prompts[key] for key in keys if model.prompts.get(key)), default)
        yield (configured or published).replace(_NO_TITLE, "title: {title} |")


def _weights(model: SentenceTransformer) -> str:
    """A hash of all parameters, whatever their names and order: both change between versions."""
    torch = require("torch", "torch")
    digests = []
    for parameter in model.parameters():
        raw = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
        described = f"{tuple(parameter.shape)} {parameter.dtype}".encode()
        digests.append(hashlib.sha256(described + raw.numpy().tobytes()).digest())
    joint = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    return f"{str(model.dtype).removeprefix('torch.')}-{joint[:12]}"
