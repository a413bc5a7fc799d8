"""The Batch API: jobs that take their time, and results in an order of their own."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from gemini_standin.files import FileStore, page, timestamp
from gemini_standin.vectors import Ask, Model, embed, numbers_json
from gemini_standin.wire import (
    BATCH_LINE,
    CREATE_BATCH_REQUEST,
    EMBED_REQUEST,
    ApiError,
    Reply,
    ask_of,
    json_reply,
    parse_body,
    payload_too_large,
    violations,
)

State: TypeAlias = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"]
EndState: TypeAlias = Literal["SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"]

_INVALID_ARGUMENT = 3  # google.rpc.Code: what stands in an error beside a result is no HTTP status
_ENDED: dict[str, dict[str, Any]] = {
    "FAILED": {"code": 13, "message": "The batch job failed: an internal error has occurred."},
    "CANCELLED": {"code": 1, "message": "The batch job was cancelled."},
    "EXPIRED": {"code": 4, "message": "The batch job did not finish within 48 hours."},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFaults:
    """What goes wrong with the jobs that end from now on.

    Attributes:
        end: The state they end in.
        shuffled: The results are not in the order of the requests.
        wrong_keys: So many results, two or more, have each other's keys; every key is there once.
        missing_keys: So many results are not there.
        duplicate_keys: So many results are there twice.
        line_errors: So many results are an error instead of a vector.
    """

    end: EndState = "SUCCEEDED"
    shuffled: bool = True
    wrong_keys: int = 0
    missing_keys: int = 0
    duplicate_keys: int = 0
    line_errors: int = 0

    def __post_init__(self) -> None:
        if self.wrong_keys == 1:
            raise ValueError("expected wrong_keys of 2 or more: one alone keeps its own, got 1")


@dataclass(slots=True, kw_only=True)
class Line:
    """One request of a job.

    Attributes:
        tag: What comes back with the result: the `key`, or an inline request's `metadata`.
        request: The request for a vector as it came.
    """

    tag: dict[str, Any]
    request: Any


@dataclass(slots=True, kw_only=True)
class Job:
    """A job.

    Attributes:
        failure: Why it can only fail: a line of its file is no JSON.
    """

    name: str
    display_name: str
    model: Model
    lines: list[Line]
    file: str | None
    failure: str = ""
    state: State = "PENDING"
    began: float = field(default_factory=time.monotonic)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    failed_lines: int = 0
    output: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state not in ("PENDING", "RUNNING")

    def operation(self) -> dict[str, Any]:
        """The job as the API shows it."""
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.EmbedContentBatch",
            "model": f"models/{self.model.name}",
            "name": self.name,
            "displayName": self.display_name,
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.updated),
            "state": f"BATCH_STATE_{self.state}",
            "batchStats": self._stats(),
        }
        if self.file:
            metadata["inputConfig"] = {"fileName": self.file}
        if self.output:
            metadata["output"] = self.output
        operation: dict[str, Any] = {"name": self.name, "metadata": metadata}
        if self.done:
            metadata["endTime"] = timestamp(self.updated)
            operation["done"] = True
        if error := _ENDED.get(self.state):
            operation["error"] = error
            if self.failure:
                operation["error"] = {"code": _INVALID_ARGUMENT, "message": self.failure}
        return operation

    def _stats(self) -> dict[str, str]:
        total = len(self.lines)
        if self.state != "SUCCEEDED":
            return _counts(requestCount=total, pendingRequestCount=0 if self.done else total)
        good = total - self.failed_lines
        return _counts(
            requestCount=total,
            successfulRequestCount=good,
            failedRequestCount=self.failed_lines,
        )


class BatchStore:
    """The project's jobs; the caller holds the lock.

    Attributes:
        faults: What goes wrong with jobs.
        seconds: How long a job takes, from its making on; None: until `advance` is called.
        max_inline_bytes: Of a request that holds a job's lines itself.
    """

    def __init__(self, files: FileStore, refuses: Callable[[Iterable[Ask]], bool]) -> None:
        self.faults = BatchFaults()
        self.seconds: float | None = None
        self.max_inline_bytes = 20_000_000
        self.jobs: dict[str, Job] = {}
        self._files = files
        self._refuses = refuses

    def create(self, raw: bytes, model: Model) -> Reply:
        """Answer a request for a job."""
        if len(raw) > self.max_inline_bytes:
            raise payload_too_large(self.max_inline_bytes)
        batch = parse_body(raw, CREATE_BATCH_REQUEST).get("batch", {})
        config = batch.get("inputConfig", {})
        if not batch.get("displayName"):
            raise ApiError(400, "* CreateBatchRequest.batch.display_name: must not be empty\n")
        if len(config) != 1:
            raise ApiError(400, "* CreateBatchRequest.batch.input_config: expected one source\n")
        job = Job(
            name=f"batches/{secrets.token_hex(10)}",
            display_name=batch["displayName"],
            model=model,
            lines=_inline_lines(config.get("requests", {}).get("requests", [])),
            file=config.get("fileName"),
        )
        if job.file is not None:
            self._read_lines(job, job.file)
        if not job.lines and not job.failure:
            raise ApiError(400, "* CreateBatchRequest.batch.input_config: no requests\n")
        self.jobs[job.name] = job
        return json_reply(job.operation())

    def show(self, name: str) -> Reply:
        """Answer a request for one job."""
        self._let_time_pass()
        return json_reply(self._get(name).operation())

    def listing(self, query: Mapping[str, str]) -> Reply:
        """Answer a request for a page of the jobs, the latest first."""
        self._let_time_pass()
        items = [job.operation() for job in reversed(self.jobs.values())]
        return page("operations", items, query, default=50)

    def cancel(self, name: str) -> Reply:
        """Answer a request to cancel; a job that has ended stays as it is."""
        self._let_time_pass()
        job = self._get(name)
        if not job.done:
            self._enter(job, "CANCELLED")
        return json_reply({})

    def delete(self, name: str) -> Reply:
        """Answer a request to forget a job."""
        del self.jobs[self._get(name).name]
        return json_reply({})

    def advance(self, state: State | None = None) -> None:
        """Take each job that has not ended to that state, or to the next."""
        for job in self.jobs.values():
            if not job.done:
                following: State = "RUNNING" if job.state == "PENDING" else self.faults.end
                self._enter(job, state or following)

    def _let_time_pass(self) -> None:
        if self.seconds is None:
            return
        for job in self.jobs.values():
            elapsed = time.monotonic() - job.began
            if job.state == "PENDING" and elapsed >= self.seconds / 2:
                self._enter(job, "RUNNING")
            if job.state == "RUNNING" and elapsed >= self.seconds:
                self._enter(job, self.faults.end)

    def _enter(self, job: Job, state: State) -> None:
        if state == "SUCCEEDED" and job.failure:
            state = "FAILED"
        if state == "SUCCEEDED":
            self._run(job)
        job.state = state
        job.updated = datetime.now(UTC)

    def _run(self, job: Job) -> None:
        results = [
            self._result(job, line, spoiled=i < self.faults.line_errors)
            for i, line in enumerate(job.lines)
        ]
        job.failed_lines = sum(b'"error":' in result for _, result in results)
        results = _spoil(results, self.faults)
        if job.file is None:
            responses = [json.loads(result) | tag for tag, result in results]
            job.output = {"inlinedResponses": {"inlinedResponses": responses}}
            return
        name = f"files/batch-{job.name.removeprefix('batches/')}"
        lines = [b"{%b,%b\n" % (json.dumps(tag)[1:-1].encode(), r[1:]) for tag, r in results]
        self._files.add_generated(name, b"".join(lines))
        job.output = {"responsesFile": name}

    def _result(self, job: Job, line: Line, *, spoiled: bool) -> tuple[dict[str, Any], bytes]:
        try:
            request = parse_body(json.dumps(line.request).encode(), EMBED_REQUEST)
            wrong = violations(request, job.model, where="EmbedContentRequest", names_model=False)
        except ApiError as error:
            wrong = [error.message]
        if not wrong and (spoiled or self._refuses([ask_of(request, job.model)])):
            wrong = ["Request contains an invalid argument."]
        if wrong:
            error_json = json.dumps({"code": _INVALID_ARGUMENT, "message": "\n".join(wrong)})
            return line.tag, b'{"error":%b}' % error_json.encode()
        ask = ask_of(request, job.model)
        numbers = numbers_json(embed(ask)).replace(b" ", b"")
        response = b'{"response":{"embedding":{"values":[%b]},"tokenCount":"%d"}}'
        return line.tag, response % (numbers, ask.tokens)

    def _read_lines(self, job: Job, file: str) -> None:
        stored = self._files.get(file)
        if stored.mime_type not in ("jsonl", "application/jsonl"):
            raise ApiError(400, f"expected a file of type jsonl, got {stored.mime_type}")
        for i, raw in enumerate(stored.content.split(b"\n"), 1):
            try:
                line = parse_body(raw, BATCH_LINE)
            except ApiError as error:
                job.failure = f"line {i}: {error.message}"
                return
            if line:
                job.lines.append(
                    Line(tag={"key": line.get("key", "")}, request=line.get("request"))
                )

    def _get(self, name: str) -> Job:
        if job := self.jobs.get(name):
            return job
        raise ApiError(404, "Requested entity was not found.")


def _inline_lines(requests: list[dict[str, Any]]) -> list[Line]:
    return [
        Line(
            tag={"metadata": item["metadata"]} if "metadata" in item else {},
            request=item.get("request", {}),
        )
        for item in requests
    ]


def _spoil(
    results: list[tuple[dict[str, Any], bytes]], faults: BatchFaults
) -> list[tuple[dict[str, Any], bytes]]:
    moved = [i for i, (_, result) in enumerate(results) if b'"error":' not in result]
    moved = moved[: faults.wrong_keys]
    tags = {i: results[other][0] for i, other in zip(moved, moved[1:] + moved[:1], strict=True)}
    spoiled = [(tags.get(i, tag), result) for i, (tag, result) in enumerate(results)]
    spoiled = spoiled[: max(0, len(spoiled) - faults.missing_keys)]
    spoiled += spoiled[: faults.duplicate_keys]
    if faults.shuffled:
        random.Random(len(spoiled)).shuffle(spoiled)
    return spoiled


def _counts(**counts: int) -> dict[str, str]:
    # Protobuf's JSON writes 64-bit numbers as strings and leaves out zeros.
    return {name: str(count) for name, count in counts.items() if count}
