"""A stand-in for the Gemini API: a server on loopback, as strict as the real one.

    with GeminiServer() as server:
        client = genai.Client(api_key=server.key, http_options={"base_url": server.url})

A process of its own, which leaves the client's alone, is `python gemini_server.py --help`.

It answers under /v1 and /v1beta: `batchEmbedContents`, `embedContent`, `asyncBatchEmbedContent`,
`generateContent`, batches (get, list, cancel, delete) and files (upload, get, list, delete,
download). What goes wrong is scripted with the faults of `gemini_standin.faults`, and
`server.calls` is the wire log.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qsl, urlsplit

from gemini_standin import faults
from gemini_standin.answers import Prompt, answer_reply, read_prompt
from gemini_standin.batches import BatchFaults, BatchStore, Job, State
from gemini_standin.calls import Call
from gemini_standin.faults import Fault
from gemini_standin.files import FileStore, StoredFile
from gemini_standin.quota import Quota, per_day, per_minute, tokens_per_minute
from gemini_standin.vectors import Ask, embedding_json, embeddings_json
from gemini_standin.wire import (
    ApiError,
    Reply,
    bad_key,
    find_model,
    missing_key,
    not_found_page,
    read_ask,
    read_asks,
    unknown_name,
)

__all__ = [
    "BatchFaults",
    "Call",
    "Fault",
    "GeminiServer",
    "Job",
    "Prompt",
    "Reply",
    "StoredFile",
    "faults",
]

KEY_HEADER = "x-goog-api-key"
_ROUTE = re.compile(
    r"/(?P<upload>upload/)?(?P<version>v1|v1beta)"
    r"/(?P<resource>(?P<kind>models|batches|files)(?:/[^/:]+)?)(?::(?P<action>\w+))?"
)
_QUERY = {"alt", "pageSize", "pageToken", "upload_id", "upload_protocol"}


class GeminiServer:
    """The stand-in; a context manager, and all its switches can be set while it runs.

    Attributes:
        key: The key it takes, in the header `x-goog-api-key` alone.
        url: Its origin, without a slash at the end.
        latency_s: From a call's arrival to its answer, at least.
        poison: A call for a text that holds one of these is refused as a whole with 400; in a
            batch job only its line is.
        answer: What a model answers to a prompt; None where the prompt is blocked.
        calls: The wire log, in order of arrival.
        batches: The batch jobs and their switches: `faults`, `seconds`, `max_inline_bytes`, `jobs`.
        files: The files and their limits: `stored`, `max_file_bytes`, `max_stored_bytes`. A file
            that is taken out of `stored` has expired.
    """

    def __init__(self, *, key: str | None = None, latency_s: float = 0.0) -> None:
        self.key = key or f"standin-{secrets.token_hex(12)}"
        self.latency_s = latency_s
        self.poison: set[str] = set()
        self.answer: Callable[[Prompt], str | None] = lambda _prompt: "I do not know."
        self.calls: list[Call] = []
        self._lock = threading.RLock()
        self._quota = Quota()
        self._next_faults: deque[Fault] = deque()
        self._rules: list[tuple[Callable[[Call], bool], Fault]] = []
        self._in_flight = 0
        self._http = _HttpServer(self)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.files = FileStore(self.url)
        self.batches = BatchStore(self.files, self._refuses)
        self._http.begin()

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
        """Cut all connections and end all threads.

        Raises:
            RuntimeError: The stand-in itself failed while it served, or a predicate or fault did.
        """
        self._http.end()
        if self._http.failures:
            raise RuntimeError("the stand-in failed") from self._http.failures[0]

    def fail_next(self, n: int, fault: Fault) -> None:
        """Commit the fault on the next `n` calls, whatever they are; such orders queue up."""
        with self._lock:
            self._next_faults.extend([fault] * n)

    def fail_when(self, predicate: Callable[[Call], bool], fault: Fault) -> None:
        """Commit the fault on each call that the predicate holds for; the first such rule wins."""
        with self._lock:
            self._rules.append((predicate, fault))

    def heal(self) -> None:
        """Forget all faults and poison."""
        with self._lock:
            self._next_faults.clear()
            self._rules.clear()
            self.poison = set()

    def quota(
        self,
        *,
        per_minute: int | None = None,
        per_day: int | None = None,
        tokens_per_minute: int | None = None,
        minute_s: float = 60.0,
    ) -> None:
        """Set the quotas and begin to count anew; None is no quota.

        Args:
            per_minute: Contents a minute.
            per_day: Contents a day.
            tokens_per_minute: Tokens a minute, as the stand-in counts them.
            minute_s: How long a minute is, for tests in a hurry.
        """
        self._quota = _quota(per_minute, per_day, tokens_per_minute, minute_s)

    def advance(self, state: State | None = None) -> None:
        """Take each job that has not ended to that state, or to the next."""
        with self._lock:
            self.batches.advance(state)

    @property
    def embed_calls(self) -> list[Call]:
        """The calls for vectors, without those about jobs and files."""
        return [
            call for call in self.calls if call.action in ("batchEmbedContents", "embedContent")
        ]

    @property
    def max_in_flight(self) -> int:
        """The most calls that were ever under way at once."""
        return max((call.in_flight for call in self.calls), default=0)

    def _arrived(self, handler: _Handler, raw: bytes) -> Call:
        target = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        key = headers.pop(KEY_HEADER, None)
        with self._lock:
            self._in_flight += 1
            call = Call(
                method=handler.command,
                path=target.path,
                query=dict(parse_qsl(target.query, keep_blank_values=True)),
                headers=headers,
                has_key=key is not None,
                key_ok=key == self.key,
                size=len(raw),
                body=_json_or_none(raw),
                at=time.monotonic(),
                in_flight=self._in_flight,
            )
            self.calls.append(call)
        return call

    def _answered(self, call: Call, reply: Reply) -> None:
        # Before the last byte goes out: the client may come back at once.
        with self._lock:
            self._in_flight -= 1
            call.status = None if reply.delivery == "closed" else reply.status

    def _answer(self, call: Call, raw: bytes) -> Reply:
        def work() -> Reply:
            try:
                return self._work(call, raw)
            except ApiError as error:
                return error.reply()

        fault = self._pick_fault(call)
        return work() if fault is None else fault(call, work)

    def _pick_fault(self, call: Call) -> Fault | None:
        with self._lock:
            if self._next_faults:
                return self._next_faults.popleft()
            rules = list(self._rules)
        return next((fault for predicate, fault in rules if predicate(call)), None)

    def _work(self, call: Call, raw: bytes) -> Reply:
        if (route := _ROUTE.fullmatch(call.path)) is None:
            return not_found_page()
        version, resource = route["version"], route["resource"]
        action = route["action"] or ""
        if route["upload"]:
            if (call.method, resource, action) != ("POST", "files", ""):
                return not_found_page()
            return self._upload(call, raw, version)
        self._check_key(call)
        if unknown := set(call.query) - _QUERY:
            raise ApiError(400, unknown_name(f'"{min(unknown)}": Cannot bind query parameter.'))
        if route["kind"] == "models":
            return self._model(call, raw, version, resource.removeprefix("models/"), action)
        with self._lock:
            return self._resource(call, resource, action)

    def _check_key(self, call: Call) -> None:
        if not call.has_key:
            raise missing_key()
        if not call.key_ok:
            raise bad_key()

    def _upload(self, call: Call, raw: bytes, version: str) -> Reply:
        # The address of the second leg is a secret of its own: no key goes there.
        if upload_id := call.query.get("upload_id"):
            with self._lock:
                return self.files.continue_upload(raw, call.headers, upload_id)
        self._check_key(call)
        with self._lock:
            return self.files.start_upload(raw, call.headers, version)

    def _model(self, call: Call, raw: bytes, version: str, name: str, action: str) -> Reply:
        if (call.method, action) == ("POST", "generateContent"):
            prompt = read_prompt(raw, name, version)
            return answer_reply(prompt, self.answer(prompt))
        known = ("batchEmbedContents", "embedContent", "asyncBatchEmbedContent")
        if call.method != "POST" or action not in known:
            return not_found_page()
        model = find_model(name, version, action)
        if action == "asyncBatchEmbedContent":
            with self._lock:
                return self.batches.create(raw, model)
        asks = read_asks(raw, model) if action == known[0] else [read_ask(raw, model)]
        self._quota.admit(model.name, contents=len(asks), tokens=sum(ask.tokens for ask in asks))
        if self._refuses(asks):
            raise ApiError(400, "Request contains an invalid argument.")
        return Reply(body=embeddings_json(asks) if action == known[0] else embedding_json(asks[0]))

    def _refuses(self, asks: Iterable[Ask]) -> bool:
        return any(poison in ask.text for ask in asks for poison in self.poison)

    def _resource(self, call: Call, name: str, action: str) -> Reply:
        """Answer what is about a job or a file."""
        match (call.method, *name.split("/")[:1], "/" in name, action):
            case ("GET", "files", False, ""):
                return self.files.listing(call.query)
            case ("GET", "files", True, ""):
                return self.files.show(name)
            case ("GET", "files", True, "download"):
                return self.files.download(name, call.query)
            case ("DELETE", "files", True, ""):
                return self.files.delete(name)
            case ("GET", "batches", False, ""):
                return self.batches.listing(call.query)
            case ("GET", "batches", True, ""):
                return self.batches.show(name)
            case ("POST", "batches", True, "cancel"):
                return self.batches.cancel(name)
            case ("DELETE", "batches", True, ""):
                return self.batches.delete(name)
        return not_found_page()


class _HttpServer(ThreadingMixIn, HTTPServer):
    """Threads that can all be ended, and failures that are kept instead of printed."""

    request_queue_size = 128

    def __init__(self, standin: GeminiServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.standin = standin
        self.closing = threading.Event()
        self.failures: list[BaseException] = []
        # Only the thread that accepts touches this, until it has ended.
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        if self.closing.is_set():
            return
        self.closing.set()
        self.shutdown()
        self._thread.join()
        for connection, thread in self._connections.items():
            with suppress(OSError):  # closed in the meantime
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        thread.start()
        alive = {key: one for key, one in self._connections.items() if one.is_alive()}
        self._connections = {**alive, request: thread}

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A client may hang up whenever it likes.
        if error is not None and not isinstance(error, ConnectionError):
            self.failures.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body go out together

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        http = cast(_HttpServer, self.server)
        if "Transfer-Encoding" in self.headers:
            raise NotImplementedError("the stand-in reads no chunked bodies")
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size)
        if len(raw) < size:  # the client hung up
            self.close_connection = True
            return
        call = http.standin._arrived(self, raw)
        reply = Reply(delivery="closed")
        try:
            reply = http.standin._answer(call, raw)
            http.closing.wait(call.at + http.standin.latency_s - time.monotonic())
        finally:
            http.standin._answered(call, reply)
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        if reply.delivery == "closed" or cast(_HttpServer, self.server).closing.is_set():
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.delivery == "dribbled":
            self._dribble(reply)
        elif reply.delivery == "truncated":
            self.wfile.write(reply.body[: len(reply.body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(reply.body)

    def _dribble(self, reply: Reply) -> None:
        closing = cast(_HttpServer, self.server).closing
        for byte in reply.body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if closing.wait(reply.pause_s):
                return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: `calls` is the log."""


def _quota(
    contents: int | None, contents_per_day: int | None, tokens: int | None, minute_s: float
) -> Quota:
    limits = []
    if contents is not None:
        limits.append(per_minute(contents, minute_s))
    if contents_per_day is not None:
        limits.append(per_day(contents_per_day))
    if tokens is not None:
        limits.append(tokens_per_minute(tokens, minute_s))
    return Quota(*limits)


def _json_or_none(raw: bytes) -> Any:
    if not raw.lstrip().startswith((b"{", b"[")):
        return None
    try:
        return json.loads(raw)
    except ValueError:
        return None


def main() -> None:
    """Serve until standard input ends; the first line of output is the URL and the key."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--per-minute", type=int)
    options = parser.parse_args()
    with GeminiServer(latency_s=options.latency_s) as server:
        server.quota(per_minute=options.per_minute)
        sys.stdout.write(f"{server.url} {server.key}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
