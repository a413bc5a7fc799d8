"""The HTTP side: connections, the API key, bodies, answers and refusals."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic_core import to_json

from qdrant_standin.faults import Dropped
from qdrant_standin.refusals import Refusal, refusal_of
from qdrant_standin.requests import Recorded
from qdrant_standin.routes import Call, Route
from qdrant_standin.state import State

MAX_BODY_BYTES = 32 * 1024 * 1024  # the server's `max_request_size_mb`

# What needs no key: the server's `api_key_whitelist`.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/livez"})
_HEALTH = {
    "/healthz": b"healthz check passed",
    "/readyz": b"all shards are ready",
    "/livez": b"livez check passed",
}


class RestServer:
    """Answers on a free port of 127.0.0.1 until it is closed."""

    def __init__(self, state: State, routes: list[Route]) -> None:
        self._server = _HttpServer(("127.0.0.1", 0), _Handler)
        self._server.state = state
        self._server.routes = routes
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Stop, and end the connections that are open."""
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()  # waits for the threads


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 512  # a client on this machine opens a connection for each request
    state: State
    routes: list[Route]

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        self._connections: set[socket.socket] = set()
        self._mutex = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._mutex:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._mutex:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of the server's troubles."""

    def end_connections(self) -> None:
        with self._mutex:
            for connection in self._connections:
                with suppress(OSError):  # the client has hung up, and its thread does not know yet
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: _HttpServer

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        started = time.monotonic()
        try:
            status, content, headers = self._answered(started)
        except Dropped:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answered(self, started: float) -> tuple[int, bytes, dict[str, str]]:
        try:
            return self._routed(started)
        except Dropped:
            raise
        except Exception as exc:  # noqa: BLE001  (whatever breaks is an answer, not a hung client)
            refusal = refusal_of(exc)
            self.server.state.note(exc, refusal)
            return refusal.status, refusal.content(), dict(refusal.headers)

    def _routed(self, started: float) -> tuple[int, bytes, dict[str, str]]:
        url = urlsplit(self.path)
        body = self._body()
        path = url.path if url.path == "/" else url.path.rstrip("/")
        if path not in _OPEN and (refusal := self.server.state.denied(self._headers())) is not None:
            # The server answers this one in plain text.
            message = refusal.message
            return refusal.status, message.encode(), {"Content-Type": "text/plain; charset=utf-8"}
        if path in _OPEN:
            return self._service(path)
        route, placeholders = self._route(path)
        recorded = Recorded(
            transport="rest",
            operation=route.operation,
            method=self.command,
            path=path,
            parameters=dict(parse_qsl(url.query)),
            headers=self._headers(),
            content=body,
        )
        call = Call(path=placeholders, parameters=recorded.parameters, body=body)
        result = self.server.state.carry_out(
            recorded, lambda: _result(route, call), lambda: _unsure(recorded)
        )
        seconds = time.monotonic() - started
        content = b'{"result":%b,"status":"ok","time":%.6f}' % (result, seconds)
        return 200, content, {"Content-Type": "application/json"}

    def _service(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        recorded = Recorded(
            transport="rest",
            operation="service",
            method=self.command,
            path=path,
            headers=self._headers(),
        )
        page = partial(self._page, path)
        return self.server.state.carry_out(recorded, page, page)

    def _page(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path in _HEALTH:
            return 200, _HEALTH[path], {"Content-Type": "text/plain"}
        version = self.server.state.version_info.model_dump_json().encode()
        return 200, version, {"Content-Type": "application/json"}

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if length > MAX_BODY_BYTES:
            # A 400, as the server's own handler of such errors makes it, and not a 413.
            raise Refusal(
                status=400,
                message=f"JSON payload ({length} bytes) is larger than allowed "
                f"(limit: {MAX_BODY_BYTES} bytes).",
            )
        return body

    def _route(self, path: str) -> tuple[Route, dict[str, str]]:
        for route in self.server.routes:
            found = route.pattern.fullmatch(path)
            if found and route.method == self.command:
                values = {name: unquote(text) for name, text in found.groupdict().items()}
                return route, values
        raise Refusal(status=404, message="", body=b"", content_type="text/plain")


def _unsure(request: Recorded) -> bytes:
    result = {"operation_id": None, "status": "wait_timeout"}
    if request.operation == "batch":
        return to_json([result] * len(request.body["operations"]))
    return to_json(result)


def _result(route: Route, call: Call) -> bytes:
    timeout = call.parameters.get("timeout")
    if timeout is not None and not (timeout.isdigit() and int(timeout) >= 1):
        raise Refusal(
            status=422,
            message=f"Validation error in query parameters: [timeout: value {timeout} invalid, "
            "must be 1 or larger]",
        )
    return to_json(route.answer(call), by_alias=True)
