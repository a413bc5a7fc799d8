"""One attempt of one call, blocking or as a coroutine: sent with the SDK, checked, or a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragkit.gemini.client import Secret
from ragkit.gemini.errors import failure_of
from ragkit.gemini.models import ModelProfile
from ragkit.gemini.wire import Reply, Text, arguments, parsed, vertex_arguments
from ragkit.pacing import Failure, Send
from ragkit.usage import UsageMeter

if TYPE_CHECKING:
    from google import genai
    from google.genai.types import EmbedContentResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Sends for one embedder over one client.

    Attributes:
        client: The SDK's.
        secret: Its key, kept out of every message.
        model: The model's name.
        profile: The model's.
        dim: Of the vectors.
        usage: Where attempts are counted.
    """

    client: genai.Client
    secret: Secret
    model: str
    profile: ModelProfile
    dim: int
    usage: UsageMeter

    def send(self, step: Send[Sequence[Text]]) -> Reply | Failure:
        """Make an attempt."""
        self.usage.attempt(again=step.tried > 1)
        try:
            return self._parsed(step, self.client.models.embed_content(**self._arguments(step)))
        # The SDK lets through whatever the HTTP library of its choice raises.
        except Exception as exc:  # noqa: BLE001
            return self._failure(exc)

    async def asend(self, step: Send[Sequence[Text]]) -> Reply | Failure:
        """Make an attempt, which ends with its time whatever it is waiting for."""
        self.usage.attempt(again=step.tried > 1)
        try:
            async with asyncio.timeout(step.timeout_s):
                reply = await self.client.aio.models.embed_content(**self._arguments(step))
            return self._parsed(step, reply)
        except Exception as exc:  # noqa: BLE001  (as above)
            return self._failure(exc)

    def _arguments(self, step: Send[Sequence[Text]]) -> dict[str, Any]:
        build = vertex_arguments if self.client.vertexai else arguments
        return build(
            step.payload,
            self.profile,
            model=self.model,
            dim=self.dim,
            timeout_s=step.timeout_s,
        )

    def _parsed(self, step: Send[Sequence[Text]], reply: EmbedContentResponse) -> Reply:
        return parsed(reply, shape=(len(step.payload), self.dim), model=self.model)

    def _failure(self, error: Exception) -> Failure:
        failure = failure_of(error, model=self.model, secret=self.secret)
        if failure is None:
            raise error
        return failure
