"""What goes wrong between a client and the server, and when.

A fault strikes once, or a number of times, at the requests that it is for; a storm strikes at
random. Either before the request has any effect, or after it was carried out and before the answer.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from qdrant_standin.refusals import Refusal
from qdrant_standin.requests import Recorded

Kind: TypeAlias = int | Literal["drop", "cut", "delay", "wait_timeout"]
"""An HTTP status, an answer that never comes or comes late, or a write that comes late."""

When: TypeAlias = Literal["before", "after"]
Matches: TypeAlias = Callable[[Recorded], bool]

WRITES = frozenset(
    {
        "upsert",
        "batch",
        "delete",
        "set_payload",
        "overwrite_payload",
        "delete_payload",
        "clear_payload",
        "update_vectors",
        "delete_vectors",
    }
)

_PAGE = b"<html><head><title>502 Bad Gateway</title></head></html>"
_STATUSES = {
    401: Refusal(status=401, message="Invalid API key or JWT"),
    403: Refusal(status=403, message="Forbidden: Global access is required"),
    408: Refusal(status=408, message="Timeout: Operation 'Update' timed out after 60s"),
    429: Refusal(
        status=429,
        message="Rate limiting exceeded: Write rate limit exceeded, retry later",
    ),
    500: Refusal(status=500, message="Service internal error: something broke"),
    502: Refusal(status=502, message="Bad Gateway", body=_PAGE, content_type="text/html"),
    503: Refusal(status=503, message="Shard temporarily unavailable: no active replica"),
    507: Refusal(status=507, message="Insufficient storage: the disk quota is reached"),
}
STORM: tuple[Kind, ...] = (408, 429, 500, 502, 503, "drop")


class Dropped(Exception):
    """There is no answer.

    Attributes:
        cut: Over gRPC, whether the connection ends, and not only this call.
    """

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.cut = cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: What.
        when: Before the request has an effect, or after.
        retry_after_s: With 429, what the answer says about when to come again.
        delay_s: How late the answer or the write is.
        message: With a status, other words than the usual ones.
    """

    kind: Kind
    when: When = "before"
    retry_after_s: int | None = None
    delay_s: float = 0.0
    message: str | None = None


@dataclass(slots=True, kw_only=True)
class _Planned:
    fault: Fault
    matches: Matches
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storm:
    dice: random.Random
    probability: float
    kinds: tuple[Kind, ...]
    matches: Matches
    retry_after_s: int


class Faults:
    """What is planned to go wrong; may be changed while the server runs."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._storm: _Storm | None = None
        self._mutex = threading.Lock()
        self._closing = threading.Event()
        self._late: list[threading.Thread] = []
        self.struck: list[tuple[Fault, Recorded]] = []

    def add(
        self,
        kind: Kind,
        *,
        on: str | Matches | None = None,
        when: When = "before",
        times: int = 1,
        retry_after_s: int | None = None,
        delay_s: float = 0.0,
        message: str | None = None,
    ) -> None:
        """Plan a fault.

        Args:
            kind: 401, 403, 408, 429, 500, 502, 503, 507; "drop" ends the call without an answer;
                "cut" does so by closing the connection, which over gRPC may also fail the calls
                beside it and the next one; "delay" makes the answer late; "wait_timeout", for
                writes of points, answers at once that the write was not applied in time, and
                applies it later.
            on: For which requests: a word of `Recorded.operation`, or a function that tells; by
                default all but the server's own pages and health checks.
            when: "after" means that the request is carried out and only its answer is lost.
            times: How often.
            retry_after_s: With 429, the wait that the answer asks for.
            delay_s: With "delay" how late the answer is, with "wait_timeout" the write.
            message: With a status, the server's words, such as those of a full disk (500).
        """
        if isinstance(kind, int) and kind not in _STATUSES:
            raise ValueError(f"expected one of {sorted(_STATUSES)} or a word, got {kind}")
        fault = Fault(
            kind=kind, when=when, retry_after_s=retry_after_s, delay_s=delay_s, message=message
        )
        with self._mutex:
            self._planned.append(_Planned(fault=fault, matches=_matching(on), left=times))

    def storm(
        self,
        seed: int,
        *,
        probability: float = 0.3,
        kinds: Sequence[Kind] = STORM,
        on: str | Matches | None = None,
        retry_after_s: int = 1,
    ) -> None:
        """Let requests fail at random until `clear`, half of them after they were carried out.

        Args:
            seed: The same one gives the same series of faults; which request gets which depends on
                their order, so with several in flight also on chance.
            probability: Of each request to fail.
            kinds: What may happen.
            on: As in `add`; by default writes of points.
            retry_after_s: What half of the 429 say.
        """
        storm = _Storm(
            dice=random.Random(seed),
            probability=probability,
            kinds=tuple(kinds),
            matches=_is_write if on is None else _matching(on),
            retry_after_s=retry_after_s,
        )
        with self._mutex:
            self._storm = storm

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._mutex:
            self._planned.clear()
            self._storm = None

    def close(self) -> None:
        """Send late answers at once, and do late writes at once and wait for them."""
        self._closing.set()
        with self._mutex:
            late = list(self._late)
        for thread in late:
            thread.join()

    def later(self, work: Callable[[], object], delay_s: float) -> None:
        """Do something after the answer."""

        def run() -> None:
            self._closing.wait(delay_s)
            with contextlib.suppress(Refusal):
                work()

        thread = threading.Thread(target=run, daemon=True)
        with self._mutex:
            self._late.append(thread)
        thread.start()

    def next(self, request: Recorded) -> Fault | None:
        """What strikes this request."""
        with self._mutex:
            fault = self._due(request) or self._stormy(request)
            if fault is not None:
                self.struck.append((fault, request))
            return fault

    def _due(self, request: Recorded) -> Fault | None:
        for planned in self._planned:
            if planned.left > 0 and planned.matches(request):
                planned.left -= 1
                return planned.fault
        return None

    def _stormy(self, request: Recorded) -> Fault | None:
        storm = self._storm
        if storm is None or not storm.matches(request):
            return None
        if storm.dice.random() >= storm.probability:
            return None
        fault = Fault(
            kind=storm.dice.choice(storm.kinds), when=storm.dice.choice(("before", "after"))
        )
        if fault.kind == 429:  # a server that refuses for its rate has done nothing
            hint = storm.dice.choice((None, storm.retry_after_s))
            return replace(fault, when="before", retry_after_s=hint)
        return fault

    def strike(self, fault: Fault | None, when: When) -> None:
        """Let a fault happen, if this is its time.

        Raises:
            Refusal: The answer is an error.
            Dropped: There is none.
        """
        if fault is None or fault.when != when or fault.kind == "wait_timeout":
            return
        if fault.kind == "delay":
            self._closing.wait(fault.delay_s)
            return
        if not isinstance(fault.kind, int):
            raise Dropped(cut=fault.kind == "cut")
        planned = _STATUSES[fault.kind]
        raise Refusal(
            status=planned.status,
            message=fault.message or planned.message,
            retry_after_s=fault.retry_after_s,
            body=planned.body,
            content_type=planned.content_type,
        )


def _matching(on: str | Matches | None) -> Matches:
    if on is None:
        return lambda request: request.operation != "service"
    if isinstance(on, str):
        return lambda request: request.operation == on
    return on


def _is_write(request: Recorded) -> bool:
    return request.operation in WRITES
