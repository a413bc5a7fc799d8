"""A store that fails as a server does through the real client: by plan, or at random.

`FaultyClient` stands around any client and raises what qdrant-client raises, before a call has any
effect, after it had all of it, or in the middle of a batch. What the wire itself does wrong is the
business of the stand-in's own faults, which are planned with the same words.
"""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from json import JSONDecodeError
from typing import Any, Literal, TypeAlias

import grpc
import httpx
import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ragkit import delivery
from ragkit.pacing import Retry, drive

When: TypeAlias = Literal["before", "partly", "after"]
Matches: TypeAlias = Callable[["Call"], bool]

WAIT_TIMEOUT = "wait_timeout"
_WRITES = frozenset({"batch_update_points", "create_payload_index", "delete", "upsert"})
_LISTS = frozenset({"batch_update_points"})
# A server that refuses for one of these has done nothing.
_NEVER_DONE = frozenset({"400", "429", "507", "retry-after", "connect", "exhausted", "quota"})
STORM = (
    "408",
    "429",
    "500",
    "502",
    "503",
    "retry-after",
    "connect",
    "read timeout",
    "disconnected",
    "page",
    "unavailable",
    "deadline exceeded",
    "exhausted",
    WAIT_TIMEOUT,
)


class RpcFailure(grpc.RpcError):
    """What a call over gRPC raises, as far as anybody looks at it."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(f"{code}: {details}")
        self._code, self._details, self._trailing = code, details, tuple(trailing)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:  # pairs, also of the real one
        return self._trailing


def answered(status: int, message: str) -> UnexpectedResponse:
    """What REST raises for a refusal."""
    response = httpx.Response(status, json={"status": {"error": message}, "time": 0.0})
    error = UnexpectedResponse.for_response(response)
    assert isinstance(error, UnexpectedResponse)
    return error


def _bad_gateway() -> Exception:
    return UnexpectedResponse.for_response(httpx.Response(502, html="<h1>502 Bad Gateway</h1>"))


ERRORS: Mapping[str, Callable[[], Exception]] = {
    "400": partial(answered, 400, "Wrong input: this point is poison"),
    "408": partial(answered, 408, "Timeout: Operation 'Update' timed out after 60s"),
    "429": partial(answered, 429, "Rate limiting exceeded: Write rate limit exceeded"),
    "500": partial(answered, 500, "Service internal error: something broke"),
    "502": _bad_gateway,
    "503": partial(answered, 503, "Shard temporarily unavailable: no active replica"),
    "507": partial(answered, 507, "Insufficient storage: the disk quota is reached"),
    "disk full": partial(answered, 500, "Service internal error: No space left on device: WAL"),
    "retry-after": lambda: ResourceExhaustedResponse("Rate limiting exceeded", 7),
    "connect": lambda: ResponseHandlingException(httpx.ConnectError("Connection refused")),
    "read timeout": lambda: ResponseHandlingException(httpx.ReadTimeout("timed out")),
    "disconnected": lambda: ResponseHandlingException(
        httpx.RemoteProtocolError("Server disconnected without sending a response.")
    ),
    # A page of something in between, with status 200.
    "page": lambda: JSONDecodeError("Expecting value", "<html>", 0),
    "unavailable": lambda: RpcFailure(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer"),
    "deadline exceeded": lambda: RpcFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
    "exhausted": lambda: RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limiting exceeded"),
    "quota": lambda: RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Insufficient storage: the disk quota is reached",
        [("qdrant-insufficient-storage", "1")],
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a client's method."""

    method: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def operations(self) -> list[models.UpdateOperation]:
        """What a batch of updates is to do."""
        return list(self.options.get("update_operations", ()))

    @property
    def points(self) -> list[models.PointStruct]:
        """All points that a batch of updates upserts."""
        upserts = [each for each in self.operations if isinstance(each, models.UpsertOperation)]
        return [point for each in upserts for point in getattr(each.upsert, "points", ())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong: a name among `ERRORS`, or "wait_timeout"."""

    kind: str
    when: When = "before"


@dataclass(slots=True, kw_only=True)
class _Planned:
    fault: Fault
    matches: Matches
    left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storm:
    dice: random.Random
    probability: float
    kinds: tuple[str, ...]
    matches: Matches


class Faults:
    """What is planned to go wrong; may be changed at any time."""

    def __init__(self) -> None:
        self.struck: list[tuple[Fault, Call]] = []
        self._planned: list[_Planned] = []
        self._storm: _Storm | None = None
        self._lock = threading.Lock()

    def add(
        self,
        kind: str,
        *,
        on: str | Matches | None = None,
        when: When = "before",
        times: float = 1,
    ) -> None:
        """Plan a fault.

        Args:
            kind: A name among `ERRORS`, or "wait_timeout": the answer that a write was accepted and
                not done in time. With "before" it is done ahead of the next write.
            on: The method that it strikes, or a function that tells; any by default.
            when: "partly" carries out the first half of a batch, cut through an operation.
            times: How often; `math.inf` for ever.
        """
        fault = Fault(kind=kind, when=when)
        with self._lock:
            self._planned.append(_Planned(fault=fault, matches=_matching(on), left=times))

    def storm(
        self,
        seed: int,
        *,
        probability: float = 0.3,
        kinds: Sequence[str] = STORM,
        on: str | Matches | None = None,
    ) -> None:
        """Let calls fail at random until `clear`; with several in flight, which ones is chance."""
        storm = _Storm(
            dice=random.Random(seed),
            probability=probability,
            kinds=tuple(kinds),
            matches=_matching(on),
        )
        with self._lock:
            self._storm = storm

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._planned.clear()
            self._storm = None

    def next(self, call: Call) -> Fault | None:
        """What strikes this call."""
        with self._lock:
            fault = self._due(call) or self._stormy(call)
            if fault is not None:
                self.struck.append((fault, call))
            return fault

    def _due(self, call: Call) -> Fault | None:
        for planned in self._planned:
            if planned.left > 0 and planned.matches(call):
                planned.left -= 1
                return planned.fault
        return None

    def _stormy(self, call: Call) -> Fault | None:
        storm = self._storm
        if storm is None or not storm.matches(call) or storm.dice.random() >= storm.probability:
            return None
        kind = storm.dice.choice(storm.kinds)
        if kind == WAIT_TIMEOUT and call.method not in _WRITES:
            kind = "read timeout"
        whens: tuple[When, ...] = ("before", "partly", "after")
        when = storm.dice.choice(whens)
        return Fault(kind=kind, when="before" if kind in _NEVER_DONE else when)


class FaultyClient(QdrantBase):
    """Hands every call on to a client, but for those that are to fail.

    It is neither an `EdgeClient` nor a `QdrantClient`, so it is written to as a server is, several
    requests at a time, and packed points come to it as lists.

    Attributes:
        faults: What is to go wrong.
        calls: All calls, also those that failed, in the order in which they came.
    """

    def __init__(self, client: QdrantBase) -> None:
        self.faults = Faults()
        self.calls: list[Call] = []
        self._client = client
        self._writing = threading.RLock()
        self._late: list[Callable[[], object]] = []
        for name, _ in inspect.getmembers(QdrantBase, inspect.isfunction):
            if not name.startswith("_") and name != "info":
                setattr(self, name, partial(self._call, name))

    def info(self) -> models.VersionInfo:
        """That of a server, also where there is none behind it."""
        self._call("info")
        return models.VersionInfo(title="qdrant - vector search engine", version="1.19.0")

    def settle(self) -> None:
        """Do the writes that are still to be done."""
        with self._writing:
            while self._late:
                self._late.pop(0)()

    def called(self, method: str) -> list[Call]:
        """The calls of one method."""
        return [call for call in self.calls if call.method == method]

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        call = Call(method=method, arguments=arguments, options=options)
        self.calls.append(call)
        fault = self.faults.next(call)
        if method not in _WRITES:
            return self._carried_out(call, fault)
        with self._writing:  # as a shard does: one after the other, in the order of its log
            self.settle()
            return self._carried_out(call, fault)

    def _carried_out(self, call: Call, fault: Fault | None) -> Any:
        work = partial(getattr(self._client, call.method), *call.arguments, **call.options)
        if fault is None:
            return work()
        if fault.kind == WAIT_TIMEOUT:
            return self._queued(call, work, done=fault.when == "after")
        if fault.when == "after":
            work()
        elif fault.when == "partly" and call.operations:
            some = {**call.options, "update_operations": list(_first_half(call.operations))}
            self._client.batch_update_points(*call.arguments, **some)
        raise ERRORS[fault.kind]()

    def _queued(self, call: Call, work: Callable[[], object], *, done: bool) -> Any:
        if done:
            work()
        else:
            self._late.append(work)
        result = models.UpdateResult(status=models.UpdateStatus.WAIT_TIMEOUT)
        return [result] * len(call.operations) if call.method in _LISTS else result


def _first_half(operations: list[models.UpdateOperation]) -> Iterator[models.UpdateOperation]:
    """The operations before the middle one, and of that one half of the points."""
    yield from operations[: len(operations) // 2]
    middle = operations[len(operations) // 2]
    if isinstance(middle, models.UpsertOperation) and isinstance(middle.upsert, models.PointsList):
        points = middle.upsert.points
        some = middle.upsert.model_copy(update={"points": points[: len(points) // 2]})
        if some.points:
            yield models.UpsertOperation.model_construct(upsert=some)


def _matching(on: str | Matches | None) -> Matches:
    if on is None:
        return lambda call: True
    if isinstance(on, str):
        return lambda call: call.method == on
    return on


class Clock:
    """Time that passes by waiting alone, for each thread its own.

    Attributes:
        waits: Every wait, in seconds, of all threads.
    """

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._local = threading.local()

    def __call__(self) -> float:
        now: float = getattr(self._local, "now", 0.0)
        return now

    def pass_by(self, seconds: float) -> None:
        """Let time pass for another reason than a wait."""
        self._local.now = self() + seconds

    def sleep(self, seconds: float) -> None:
        self.pass_by(seconds)
        self.waits.append(seconds)


def skip_waits(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the waits between attempts pass at once, and their deadlines by the same clock."""
    clock = Clock()
    steps = delivery._steps

    def quick_steps(what: str, retry: Retry) -> Any:
        return steps(what, replace(retry, clock=clock))

    def quick_drive(todo: Any, *, send: Any, sleep: Callable[[float], None]) -> Any:
        def skip(seconds: float) -> None:
            clock.sleep(seconds)
            sleep(0.0)  # it may have more to do than to wait

        return drive(todo, send=send, sleep=skip)

    monkeypatch.setattr(delivery, "_steps", quick_steps)
    monkeypatch.setattr(delivery, "drive", quick_drive)
    return clock
