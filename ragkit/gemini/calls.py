"""The calls that embed a batch of texts: which, what to do when one is refused, what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragkit.embeddings import Vectors, refusal
from ragkit.errors import EmbedderUnavailable, EmbeddingError
from ragkit.fanout import Stopped
from ragkit.gemini.wire import MAX_TEXTS, Reply, Text, measure, plan_calls
from ragkit.pacing import Limiter, Retry, Steps, attempts
from ragkit.usage import UsageMeter

_NEAR = 0.9  # of what the model reads
_SMALL = 20  # calls a minute at least, or a small quota would come in lumps
_PLAIN = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for all calls of an embedder.

    Attributes:
        dim: Of the vectors.
        max_tokens: What the model reads of a text with its title.
        most_tokens: One that has more is refused here.
        most: Texts in one call.
        limiter: The schedule.
        retry: The deadline.
        usage: Where it is counted.
        ahead_s: How far ahead of the schedule its calls may go.
    """

    dim: int
    max_tokens: int
    most_tokens: int
    most: int
    limiter: Limiter
    retry: Retry
    usage: UsageMeter
    ahead_s: float


class Run:
    """One batch: its jobs, to be driven in any order and any number at once, and their outcome."""

    def __init__(self, texts: Sequence[Text], terms: Terms) -> None:
        self._texts = texts
        self._terms = terms
        self._vectors = np.zeros((len(texts), terms.dim), np.float32)
        self._done = np.zeros(len(texts), np.bool_)
        self._tokens = np.zeros(len(texts), np.int64)
        self._failed: dict[int, str] = {}

    def jobs(self) -> list[Steps[None]]:
        """One for each call; each writes what it gets into this run."""
        per_minute = self._terms.limiter.items_per_minute
        most = int(max(1, min(self._terms.most, MAX_TEXTS, per_minute / _SMALL)))
        return [self._job(call) for call in plan_calls(self._texts, most=most)]

    def result(self) -> Vectors:
        """The vectors, shape (texts, dim).

        Raises:
            TextsRefused: Some texts have none.
        """
        if not self._failed:
            return self._vectors
        raise refusal(self._failed, count=len(self._texts), vectors=self._embedded())

    @contextmanager
    def handing_over(self) -> Iterator[None]:
        """Give an error that ends the run what was embedded before it."""
        try:
            yield
        except Stopped:
            error = EmbedderUnavailable("the embedder was closed while it was embedding")
        except EmbedderUnavailable as exc:
            error = exc
        else:
            return
        error.vectors, error.failed = self._embedded(), dict(self._failed)
        raise error

    def _embedded(self) -> dict[int, Vectors]:
        return {int(i): self._vectors[i] for i in np.flatnonzero(self._done)}

    def _job(self, call: Sequence[int]) -> Steps[None]:
        """Embed these texts, but for those that are not worth sending."""
        # Here and not for the whole batch at first: measuring texts goes on beside calls in flight.
        self._tokens[list(call)] = measure([self._texts[i] for i in call])
        sendable = []
        for i in call:
            if reason := self._refusal(i):
                self._failed[i] = reason
            else:
                sendable.append(i)
        if sendable:
            yield from self._embed(sendable)

    def _refusal(self, index: int) -> str | None:
        tokens, reads = int(self._tokens[index]), self._terms.max_tokens
        if not self._texts[index].text.strip():
            return "it is blank"
        if tokens > self._terms.most_tokens:
            return f"it has about {tokens:,} tokens with its title, the model reads {reads:,}"
        return None

    def _embed(self, call: Sequence[int], *, whole: bool = True) -> Steps[None]:
        """Embed these texts; if they are refused, halve until those at fault stand alone."""
        try:
            reply = yield from self._attempts(
                [self._texts[i] for i in call], self._tokens[list(call)]
            )
        except EmbedderUnavailable:
            raise
        except EmbeddingError as exc:
            refusal = exc
        else:
            self._keep(call, reply)
            return
        if len(call) == 1:
            self._failed[call[0]] = str(refusal)
            return
        if whole:
            yield from self._probe(self._texts[call[0]].task_type, refusal)
        middle = len(call) // 2
        yield from self._embed(call[:middle], whole=False)
        yield from self._embed(call[middle:], whole=False)

    def _probe(self, task_type: str, refusal: EmbeddingError) -> Steps[None]:
        """Send a plain text: if that is refused too, the texts are not at fault."""
        try:
            plain_text = [Text(text=_PLAIN, task_type=task_type)]
            yield from self._attempts(plain_text, np.asarray(measure(plain_text)))
        except EmbedderUnavailable:
            raise
        except EmbeddingError as exc:
            plain = exc
        else:
            return
        raise EmbedderUnavailable(f"every text is refused, even a plain one: {plain}") from refusal

    def _attempts(self, texts: Sequence[Text], sizes: NDArray[np.int64]) -> Steps[Reply]:
        terms, tokens = self._terms, int(sizes.sum())
        reply: Reply = yield from attempts(
            texts,
            terms.limiter,
            terms.retry,
            items=len(texts),
            tokens=tokens,
            ahead_s=terms.ahead_s,
        )
        near = int((sizes >= _NEAR * terms.max_tokens).sum())
        terms.usage.embedded(
            texts=len(texts), tokens=tokens, billed=reply.billed_tokens, near_limit=near
        )
        return reply

    def _keep(self, call: Sequence[int], reply: Reply) -> None:
        self._vectors[list(call)] = reply.vectors
        self._done[list(call)] = True
