"""What both transports share: the key, the version, the faults, what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from qdrant_client import models

from qdrant_standin.faults import Faults
from qdrant_standin.refusals import Refusal
from qdrant_standin.requests import Recorded

T = TypeVar("T")


class State:
    """Of one running server."""

    def __init__(self, *, api_key: str | None, version: str) -> None:
        self._api_key = api_key
        self.version_info = models.VersionInfo(
            title="qdrant - vector search engine", version=version, commit="0" * 40
        )
        self.faults = Faults()
        self.requests: list[Recorded] = []
        self.recording = True
        self.broken: list[Exception] = []

    def denied(self, headers: Mapping[str, str]) -> Refusal | None:
        """The refusal of a request without the key."""
        if self._api_key is None:
            return None
        given = headers.get("api-key")
        bearer = headers.get("authorization", "")
        if given is None and bearer.startswith("Bearer "):
            given = bearer.removeprefix("Bearer ")
        if given is None:
            message = "Must provide an API key or an Authorization bearer token"
            return Refusal(status=401, message=message)
        if given != self._api_key:
            return Refusal(status=401, message="Invalid API key or JWT")
        return None

    def carry_out(self, request: Recorded, work: Callable[[], T], unsure: Callable[[], T]) -> T:
        """Record a request and answer it, with what is planned to go wrong on the way.

        Args:
            request: What is asked for.
            work: Carries it out and gives the answer.
            unsure: The answer to a write that was not applied in the time to wait for it.
        """
        if self.recording:
            self.requests.append(request)
        fault = self.faults.next(request)
        if fault is not None and fault.kind == "wait_timeout":
            self.faults.later(work, fault.delay_s)
            return unsure()
        self.faults.strike(fault, "before")
        result = work()
        self.faults.strike(fault, "after")
        return result

    def note(self, exc: Exception, refusal: Refusal) -> None:
        """Keep what broke without being planned."""
        if refusal.status == 500 and refusal is not exc:
            self.broken.append(exc)
