"""The Batch and Files API, step by step; what it answers becomes `RemoteJob`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from math import inf
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ragkit.errors import EmbeddingError
from ragkit.gemini.batch_lines import error_text
from ragkit.gemini.batch_state import BatchPart
from ragkit.gemini.client import key_of
from ragkit.gemini.errors import failure_of
from ragkit.pacing import Failure, Limiter, Retry, Send, attempts, drive

if TYPE_CHECKING:
    from google import genai

_log = logging.getLogger(__name__)

_PAGE = 100  # of a listing
_TIMEOUT_S = 60.0
_DEADLINE_S = 300.0
_SLOWEST_BYTES_PER_S = 500_000  # that a file may take to come or go
_STATES = frozenset({"pending", "running", "succeeded", "failed", "cancelled", "expired"})


class NotThere(EmbeddingError):
    """The service has no such job or file, or not for this key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteJob:
    """What the service says of one of its jobs.

    Attributes:
        name: "batches/…".
        label: The display name it was created with.
        state: As in `BatchPart`.
        results: The name of the file of results; a job that did not end well may have one, too.
        stats: Its counts of requests.
        reason: What it says of a failure.
    """

    name: str
    label: str
    state: str
    results: str | None
    stats: Mapping[str, int]
    reason: str | None

    @classmethod
    def from_operation(cls, operation: Mapping[str, Any]) -> RemoteJob:
        """Read the JSON of the service's operation.

        Raises:
            EmbeddingError: It has no name.
        """
        name = operation.get("name")
        if not isinstance(name, str) or not name.startswith("batches/"):
            raise EmbeddingError(f'expected a batch job named "batches/…", got {name!r}')
        metadata = _mapping(operation.get("metadata"))
        outputs = (_mapping(metadata.get("output")), _mapping(operation.get("response")))
        results = [each["responsesFile"] for each in outputs if "responsesFile" in each]
        error = operation.get("error") or metadata.get("error")
        return cls(
            name=name,
            label=str(metadata.get("displayName", "")),
            state=_state(metadata.get("state"), failed=bool(error)),
            results=str(results[0]) if results else None,
            stats=_counts(_mapping(metadata.get("batchStats"))),
            reason=error_text(error) if error else None,
        )

    def applied_to(self, part: BatchPart) -> BatchPart:
        """A part as the service has it; results are results, however the job ended."""
        state, reason = self.state, self.reason
        if self.results:
            state = "succeeded"
        elif state == "succeeded":
            state, reason = "failed", "the service says that it succeeded and names no results"
        return replace(
            part,
            state=state,
            batch=self.name,
            results=self.results,
            stats=dict(self.stats),
            reason=reason,
        )


class BatchService:
    """The calls, on a client of the SDK; what repeats without harm is tried again.

    Jobs are created and read by the SDK's own request method, not by `client.batches`: that says
    nothing of why a job failed, drops the counts, and warns at each call that it may change.

    Args:
        client: Of the Developer API.
        model: The model's name.
    """

    def __init__(self, client: genai.Client, *, model: str) -> None:
        self._client = client
        self._model = model
        self._secret = key_of(client)
        # Quotas count texts of calls; of these there are few.
        self._limiter = Limiter(items_per_minute=inf, tokens_per_minute=inf)

    def upload(self, path: Path, label: str) -> str:
        """Upload a file of requests; returns its name."""
        from google.genai import types

        def call(timeout_s: float) -> str:
            # The SDK sends the pieces wherever the service's answer says, whatever the client's
            # base URL is: right for the service, and for a stand-in that names itself.
            options = _options(timeout_s)
            config = types.UploadFileConfig(
                mime_type="jsonl", display_name=label, http_options=options
            )
            try:
                return self._client.files.upload(file=path, config=config).name or ""
            except (KeyError, ValueError) as exc:  # so the SDK says that it was cut short
                raise EmbeddingError(f"the upload of {path.name} was not completed: {exc}") from exc

        name: str = self._once(call, timeout_s=_seconds_for(path.stat().st_size))
        if not name:
            raise EmbeddingError("expected the name of the uploaded file, the service gave none")
        return name

    def find_file(self, label: str, size_bytes: int) -> str | None:
        """The name of a whole file that was uploaded under this label."""
        for each in self._listed("files", "files"):
            whole = str(each.get("sizeBytes")) == str(size_bytes)
            if each.get("displayName") == label and whole and each.get("state") != "FAILED":
                return str(each["name"])
        return None

    def delete_file(self, name: str) -> None:
        """Delete a file; it is no error if that fails, the service does so after 48 hours."""
        try:
            self._once(self._request("delete", name))
        except EmbeddingError as exc:
            _log.info("could not delete %s: %s", name, exc)

    def create(self, file: str, label: str) -> RemoteJob:
        """Create a job for an uploaded file."""
        batch = {"displayName": label, "inputConfig": {"file_name": file}}
        path = f"models/{self._model}:asyncBatchEmbedContent"
        # Once: an answer that was lost may have created it.
        return self._job(self._once(self._request("post", path, {"batch": batch})))

    def find(self, label: str) -> RemoteJob | None:
        """The job that was created under this label."""
        jobs = map(self._job, self._listed("batches", "operations"))
        return next((job for job in jobs if job.label == label), None)

    def get(self, name: str) -> RemoteJob:
        """How a job stands.

        Raises:
            NotThere: The service does not know it, or not for this key.
        """
        try:
            return self._job(self._repeated(self._request("get", name)))
        except NotThere as exc:
            raise NotThere(
                f"{name} is not known to the service ({exc}): it was deleted, or submitted with "
                "another key; use that one, or cancel the job to give it up"
            ) from exc

    def cancelled(self, part: BatchPart) -> BatchPart:
        """Cancel a part's job, if there is one; it may run on for a while."""
        name = part.batch
        if part.state == "creating":
            remote = self.find(part.label)
            name = remote.name if remote else None
        if name is not None:
            with suppress(NotThere):
                self._repeated(self._request("post", f"{name}:cancel"))
                return self.get(name).applied_to(part)
        return replace(part, state="cancelled", reason="it was cancelled")

    def redact(self, text: str) -> str:
        """A message without the key."""
        return self._secret.redact(text)

    def download(self, name: str, path: Path, *, most_bytes: int) -> None:
        """Download a file of results.

        Args:
            name: The file's.
            path: Where to.
            most_bytes: What it will hardly exceed, for the time it may take.

        Raises:
            NotThere: It is no longer there.
        """
        from google.genai import types

        def call(timeout_s: float) -> None:
            config = types.DownloadFileConfig(http_options=_options(timeout_s))
            self._client.files.download(file=name, destination=path, config=config)

        self._repeated(call, timeout_s=_seconds_for(most_bytes))

    def _job(self, operation: Mapping[str, Any]) -> RemoteJob:
        job = RemoteJob.from_operation(operation)
        return job if job.reason is None else replace(job, reason=self.redact(job.reason))

    def _listed(self, path: str, field: str) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            query = f"{path}?pageSize={_PAGE}" + (f"&pageToken={quote(token)}" if token else "")
            page = self._repeated(self._request("get", query))
            yield from page.get(field) or ()
            token = page.get("nextPageToken") or ""
            if not token:
                return

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Callable[[float], dict[str, Any]]:
        def call(timeout_s: float) -> dict[str, Any]:
            # A copy of the body, for the SDK changes what it is given.
            request = self._client._api_client.request
            answer = request(method, path, dict(body or {}), _options(timeout_s))
            return _mapping(json.loads(answer.body)) if answer.body else {}

        return call

    def _repeated(self, call: Callable[[float], Any], *, timeout_s: float = _TIMEOUT_S) -> Any:
        """Make a call until it succeeds, its error is final or the deadline passes."""
        retry = Retry(timeout_s=timeout_s, deadline_s=max(_DEADLINE_S, 2 * timeout_s))
        steps = attempts(call, self._limiter, retry, items=0, tokens=0)
        return drive(steps, send=self._send, sleep=sleep)

    def _once(self, call: Callable[[float], Any], *, timeout_s: float = _TIMEOUT_S) -> Any:
        """Make a call that may have had its effect even if its answer is lost."""
        outcome = self._send(Send(call, timeout_s))
        if isinstance(outcome, Failure):
            raise outcome.error(outcome.message)
        return outcome

    def _send(self, step: Send[Callable[[float], Any]]) -> Any:
        try:
            return step.payload(step.timeout_s)
        except Exception as exc:
            # All that the SDK and its libraries raise; what is a mistake of ours passes.
            failure = self._failure(exc)
            if failure is None:
                raise
            return failure

    def _failure(self, error: Exception) -> Failure | None:
        if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:
            said = self._secret.redact(str(getattr(error, "message", "")))
            return Failure(error=NotThere, message=f"Gemini answers 404: {said}")
        return failure_of(error, model=self._model, secret=self._secret)


def _options(timeout_s: float) -> Any:
    from google.genai import types

    once = types.HttpRetryOptions(attempts=1)
    return types.HttpOptions(timeout=round(timeout_s * 1000), retry_options=once)


def _seconds_for(size_bytes: int) -> float:
    return _TIMEOUT_S + size_bytes / _SLOWEST_BYTES_PER_S


def _state(value: object, *, failed: bool) -> str:
    state = str(value).rpartition("_STATE_")[2].lower()
    if failed and state not in ("cancelled", "expired"):
        return "failed"
    return state if state in _STATES else "pending"  # UNSPECIFIED, or one yet to come


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _counts(stats: Mapping[str, Any]) -> dict[str, int]:
    """The counts; 64-bit integers are strings in Google's JSON."""
    return {name: int(str(count)) for name, count in stats.items() if str(count).isdecimal()}
