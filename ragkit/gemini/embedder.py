"""Embeddings by Google's Gemini, used the way their documentation asks for."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ragkit.embeddings import QUERY_SLACK, Vectors, readdressed
from ragkit.errors import EmbedderUnavailable, TextsRefused
from ragkit.fanout import in_tasks, in_threads
from ragkit.gemini.calls import Run, Terms
from ragkit.gemini.client import Secret, checked_key, connect, key_of
from ragkit.gemini.models import DOCUMENT, QUERY_SIDES, TASK_TYPES, check_dim, model_profile
from ragkit.gemini.send import Sender
from ragkit.gemini.wire import MAX_TEXTS, Text, body
from ragkit.pacing import Limiter, Retry, shared_limiter
from ragkit.usage import Forecast, Usage, UsageMeter, cost_usd

if TYPE_CHECKING:
    from typing import Self

    from google import genai

_PAID_ITEMS_PER_MINUTE = 3_000.0  # paid tier 1; a 429 that names another quota is obeyed
_PAID_TOKENS_PER_MINUTE = 1_000_000.0
_TIMEOUT_S = 60.0  # an attempt
_QUERY_AHEAD_S = 5.0  # of the schedule: a search does not queue behind an indexing run
_QUERIES_KEPT = 256
_FINGERPRINT = re.compile(r"(\S+) dim=(\d+) task=([a-z-]+) form=(?:fields|prefix) unit-norm")


class GeminiEmbedder:
    """Embeds with a Gemini model: task, title and unit length as the model wants them.

    Documents are embedded as documents, each with its own title; queries for the task. Calls hold
    up to 100 texts and run ten at once, at an even pace below the quota that all embedders of
    this model in the process share. What fails in passing is repeated until a deadline.

    Nothing is imported from google, and no key is looked for, before the first call. A pickle
    holds neither key nor connection; where it is opened, the environment's key is used.

    On Vertex AI (`client=genai.Client(vertexai=True, ...)`) each call holds one text. That has
    been tried with the SDK against no live service, for gemini-embedding-001 alone.

    Args:
        model: Its name. One that is unknown here is used with a warning that says what is assumed.
        dim: Width of the vectors, 128 to 3072; 768, 1536 and 3072 are recommended.
        task: What queries are for: "retrieval", "code retrieval", "question answering" or
            "fact verification".
        client: To use instead of one made here. Its address, version and transport are its own;
            make it with `client_args={"follow_redirects": False}`. It is not closed here.
        api_key: Instead of GOOGLE_API_KEY or GEMINI_API_KEY.
        concurrency: Calls in flight at once.
        rpm: Texts per minute, which is what the quota counts; `math.inf` for no limit. None leaves
            what this process has set for the model, at first 3,000, the paid tier's.
        tpm: Tokens per minute, likewise; at first 1,000,000.
        deadline_s: How long one call may be repeated.

    Raises:
        ModelNotFound: The model has been shut down.
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        model: str = "gemini-embedding-001",
        dim: int = 768,
        *,
        task: str = "retrieval",
        client: genai.Client | None = None,
        api_key: str | None = None,
        concurrency: int = 10,
        rpm: float | None = None,
        tpm: float | None = None,
        deadline_s: float = 300.0,
    ) -> None:
        self._model = model.removeprefix("models/")
        self._profile = model_profile(self._model)
        check_dim(dim)
        _check(task=task, concurrency=concurrency, rpm=rpm, tpm=tpm, deadline_s=deadline_s)
        self._dim, self._task, self._concurrency = dim, task, concurrency
        self._options = {"rpm": rpm, "tpm": tpm, "deadline_s": deadline_s}
        self._given_client = client
        self._given_key = None if api_key is None else Secret(api_key.strip())
        self._own_client: genai.Client | None = None
        self._loop_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, genai.Client] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._runs: set[threading.Event] = set()
        self._queries: OrderedDict[str, Vectors] = OrderedDict()
        self._usage = UsageMeter(self._profile.usd_per_million)
        self._retry = Retry(timeout_s=min(_TIMEOUT_S, deadline_s), deadline_s=deadline_s)
        self._limiter = _shared_limiter(self._model, rpm, tpm)

    @classmethod
    def from_fingerprint(cls, fingerprint: str | None, **options: Any) -> Self | None:
        """The embedder that a collection was made with; None if that was not one of these.

        Args:
            fingerprint: As the collection's manifest has it.
            options: All that the fingerprint does not say: `client`, `api_key`, `rpm` and so on.
        """
        found = _FINGERPRINT.fullmatch(fingerprint or "")
        if found is None:
            return None
        model, dim, task = found.groups()
        embedder = cls(model, int(dim), task=task.replace("-", " "), **options)
        return embedder if embedder.fingerprint == fingerprint else None

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def dim(self) -> int:
        """The width of every vector."""
        return self._dim

    @property
    def max_tokens(self) -> int:
        """What the model reads of a text and its title together.

        A passage that has more is refused, not cut. So is a query that has twice as many, by the
        estimate; of one between the two the service may cut the end.
        """
        return self._profile.text_tokens

    @property
    def fingerprint(self) -> str:
        """Model, dimension, the query side, and how the model is told of task and title."""
        task = self._task.replace(" ", "-")
        return f"{self._model} dim={self._dim} task={task} form={self._profile.form} unit-norm"

    @property
    def usage(self) -> Usage:
        """What has been used since this embedder was made."""
        return self._usage.snapshot()

    @property
    def client(self) -> genai.Client:
        """The SDK's client, made with the first use.

        Raises:
            AuthError: There is no key.
            MissingDependency: google-genai is not installed.
        """
        if self._given_client is not None:
            return self._given_client
        with self._lock:
            if self._own_client is None:
                self._own_client = connect(checked_key(self._given_key))
            return self._own_client

    def __repr__(self) -> str:
        return f"GeminiEmbedder({self._model!r}, dim={self._dim}, task={self._task!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._given_client is not None:
            raise TypeError("a GeminiEmbedder with a client of its own cannot be pickled")
        settings = {"task": self._task, "concurrency": self._concurrency, **self._options}
        return _remade, (self._model, self._dim, settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the runs under way and close the connections that were opened here."""
        with self._lock:
            client, self._own_client = self._own_client, None
            for stop in self._runs:
                stop.set()
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """As `close`, and the connections of this event loop's coroutines too."""
        self.close()
        client = self._loop_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aio.aclose()
            client.close()

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Embed passages, each with its own title; shape (len(texts), dim), unit rows, in order.

        Raises:
            TextsRefused: Some texts cannot be embedded; it holds the vectors of the others.
            EmbedderUnavailable: Of the kind that says why; it holds the vectors made before.
        """
        return self._embed(_documents(texts, titles))

    async def aembed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """As `embed_documents`."""
        return await self._aembed(_documents(texts, titles))

    def embed_query(self, text: str) -> Vectors:
        """Embed one query for the task; shape (dim,). The last few hundred are kept in memory.

        Raises:
            EmbeddingError: As in `embed_documents`.
        """
        vector: Vectors = self.embed_queries([text])[0]
        return vector

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`."""
        vector: Vectors = (await self.aembed_queries([text]))[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries for the task, equal ones once; shape (len(texts), dim), in order.

        Calls hold up to 100 and run beside each other, as with documents.

        Raises:
            EmbeddingError: As in `embed_documents`.
        """
        known = self._recalled(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        try:
            vectors = self._embed(self._as_queries(missing), searching=True)
        except (TextsRefused, EmbedderUnavailable) as exc:
            raise self._partly_learnt(exc, texts, missing, known) from exc
        return self._learnt(texts, missing, known, vectors)

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        """As `embed_queries`."""
        known = self._recalled(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        try:
            vectors = await self._aembed(self._as_queries(missing), searching=True)
        except (TextsRefused, EmbedderUnavailable) as exc:
            raise self._partly_learnt(exc, texts, missing, known) from exc
        return self._learnt(texts, missing, known, vectors)

    def embed(self, texts: Sequence[str], *, task_type: str) -> Vectors:
        """Embed texts for another task, such as SEMANTIC_SIMILARITY, CLASSIFICATION, CLUSTERING.

        Returns:
            Unit vectors, shape (len(texts), dim). Those of different tasks do not compare.
        """
        if task_type not in TASK_TYPES:
            raise ValueError(f"expected task_type of {', '.join(TASK_TYPES)}, got {task_type!r}")
        return self._embed([Text(text=text, task_type=task_type) for text in texts])

    def forecast(self, texts: int, tokens: int) -> Forecast:
        """What embedding so many texts, of so many estimated tokens in all, would take."""
        return Forecast(
            cost_usd=cost_usd(self._profile.usd_per_million, tokens),
            minutes=max(
                texts / self._limiter.items_per_minute, tokens / self._limiter.tokens_per_minute
            ),
        )

    def document_request(self, text: str, *, title: str) -> dict[str, Any]:
        """The `EmbedContentRequest` of a passage as JSON data, without the model's name."""
        document = Text(text=text, title=title, task_type=DOCUMENT)
        return body(document, self._profile, dim=self._dim)

    def _as_queries(self, texts: Sequence[str]) -> list[Text]:
        return [Text(text=text, task_type=QUERY_SIDES[self._task]) for text in texts]

    def _recalled(self, texts: Sequence[str]) -> dict[str, Vectors]:
        with self._lock:
            known = {text: self._queries[text] for text in texts if text in self._queries}
            for text in known:
                self._queries.move_to_end(text)
        return {text: vector.copy() for text, vector in known.items()}

    def _learn(self, vectors: Mapping[str, Vectors]) -> None:
        with self._lock:
            # Copies: what is handed out is the caller's, and a row keeps its whole matrix.
            self._queries |= {text: vector.copy() for text, vector in vectors.items()}
            while len(self._queries) > _QUERIES_KEPT:
                self._queries.popitem(last=False)

    def _learnt(
        self,
        texts: Sequence[str],
        missing: Sequence[str],
        known: Mapping[str, Vectors],
        vectors: Vectors,
    ) -> Vectors:
        """The vectors of all queries: those kept from before, and those that were missing."""
        fresh = dict(zip(missing, vectors, strict=True))
        self._learn(fresh)
        if not texts:
            return vectors
        return np.stack([fresh[text] if text in fresh else known[text] for text in texts])

    def _partly_learnt(
        self,
        error: TextsRefused | EmbedderUnavailable,
        texts: Sequence[str],
        missing: Sequence[str],
        known: Mapping[str, Vectors],
    ) -> TextsRefused | EmbedderUnavailable:
        """Keep what was embedded before the error; the same error, with the indexes of all."""
        self._learn({missing[i]: vector for i, vector in error.vectors.items()})
        return readdressed(error, keys=texts, asked=missing, known=known)

    def _embed(self, texts: Sequence[Text], *, searching: bool = False) -> Vectors:
        run = Run(texts, self._terms(searching=searching))
        with self._stopping() as stop, run.handing_over():
            if jobs := run.jobs():
                in_threads(
                    jobs,
                    concurrency=self._concurrency,
                    send=self._sender(self.client).send,
                    stop=stop,
                    waiting=self._usage.waiting,
                )
        return run.result()

    async def _aembed(self, texts: Sequence[Text], *, searching: bool = False) -> Vectors:
        run = Run(texts, self._terms(searching=searching))
        with run.handing_over():
            if jobs := run.jobs():
                await in_tasks(
                    jobs,
                    concurrency=self._concurrency,
                    send=self._sender(self._loop_client()).asend,
                    waiting=self._usage.waiting,
                )
        return run.result()

    @contextmanager
    def _stopping(self) -> Iterator[threading.Event]:
        """An event that `close` sets while the run is under way."""
        stop = threading.Event()
        with self._lock:
            self._runs.add(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._runs.discard(stop)

    def _terms(self, *, searching: bool) -> Terms:
        on_vertex = self._given_client is not None and self._given_client.vertexai
        return Terms(
            dim=self._dim,
            max_tokens=self.max_tokens,
            most_tokens=self.max_tokens * (QUERY_SLACK if searching else 1),
            most=1 if on_vertex else MAX_TEXTS,
            limiter=self._limiter,
            retry=self._retry,
            usage=self._usage,
            ahead_s=_QUERY_AHEAD_S if searching else 0.0,
        )

    def _loop_client(self) -> genai.Client:
        """A client for this event loop: SDK 2 cannot use one's connections in another loop."""
        if self._given_client is not None:
            return self._given_client
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._loop_clients.get(loop)
            if client is None:
                for ended in [each for each in self._loop_clients if each.is_closed()]:
                    del self._loop_clients[ended]
                client = self._loop_clients[loop] = connect(checked_key(self._given_key))
            return client

    def _sender(self, client: genai.Client) -> Sender:
        return Sender(
            client=client,
            secret=key_of(client),
            model=self._model,
            profile=self._profile,
            dim=self._dim,
            usage=self._usage,
        )


def _documents(texts: Sequence[str], titles: Sequence[str]) -> list[Text]:
    pairs = zip(texts, titles, strict=True)
    return [Text(text=text, title=title, task_type=DOCUMENT) for text, title in pairs]


def _remade(model: str, dim: int, settings: dict[str, Any]) -> GeminiEmbedder:
    return GeminiEmbedder(model, dim, **settings)


def _shared_limiter(model: str, rpm: float | None, tpm: float | None) -> Limiter:
    default = Limiter(
        items_per_minute=_PAID_ITEMS_PER_MINUTE, tokens_per_minute=_PAID_TOKENS_PER_MINUTE
    )
    name = f"gemini {model}"
    return shared_limiter(name, items_per_minute=rpm, tokens_per_minute=tpm, default=default)


def _check(
    *, task: str, concurrency: int, rpm: float | None, tpm: float | None, deadline_s: float
) -> None:
    if task not in QUERY_SIDES:
        raise ValueError(f"expected task of {', '.join(QUERY_SIDES)}, got {task!r}")
    if concurrency < 1:
        raise ValueError(f"expected concurrency of at least 1, got {concurrency}")
    for name, value in (("rpm", rpm), ("tpm", tpm), ("deadline_s", deadline_s)):
        if value is not None and not value > 0:
            raise ValueError(f"expected {name} above 0, got {value}")
