"""Two ports that answer a little as Qdrant does, and what is asked of them by both clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client import grpc as rpc
from qdrant_client.grpc import add_CollectionsServicer_to_server, add_QdrantServicer_to_server

from ragkit import address
from ragkit.stores import aconnect, connect

KEY = "canary-1c8e5f"


class Wire:
    """The two ports of something that answers a little as Qdrant does, and tells what came in.

    Attributes:
        version: What it says it is.
        names: What it lists, one after the other; the last stays.
        key: What it wants to see before it lists.
        page: Sent over REST instead of any answer: status, content type, body.
        path: What a proxy has it under.
        connections: How many there were to the REST port.
        seconds_left: The deadlines of the gRPC calls, as they came in.
        keys: Those that came over gRPC, by call.
    """

    def __init__(self, *, host: str = "127.0.0.1", path: str = "") -> None:
        self.version = "1.19.0"
        self.names: list[list[str]] = [[]]
        self.key: str | None = None
        self.page: tuple[int, str, bytes] | None = None
        self.grpc_error: str | None = None
        self.gone = False
        self.connections = 0
        self.seconds_left: list[float] = []
        self.keys: list[tuple[str, str | None]] = []
        self.path = path
        self._host = f"[{host}]" if ":" in host else host
        self._http = _http_server(self, host)
        self._pool = ThreadPoolExecutor(4)
        self._grpc = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        _register(self, self._grpc)
        self.grpc_port = self._grpc.add_insecure_port(f"{self._host}:0")
        self._grpc.start()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._http.server_address[1]}{self.path}"

    def listed(self) -> list[str]:
        return self.names.pop(0) if len(self.names) > 1 else self.names[0]

    def close(self) -> None:
        self.gone = True  # for the connections that are open
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait()
        self._pool.shutdown()


def _http_server(wire: Wire, host: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            wire.connections += 1

        def do_GET(self) -> None:
            if wire.gone:
                self.close_connection = True
                return None
            if wire.page is not None:
                status, content_type, body = wire.page
                body = body.replace(b"{key}", self.headers.get("api-key", "").encode())
                return self.answer(status, body, content_type)
            if self.path == f"{wire.path}/":
                return self.answer_json({"title": "qdrant", "version": wire.version})
            if wire.key is not None and self.headers.get("api-key") != wire.key:
                return self.answer(401, b"Invalid API key or JWT", "text/plain")
            if self.path == f"{wire.path}/collections":
                named = [{"name": name} for name in wire.listed()]
                return self.answer_json({"result": {"collections": named}})
            return self.answer(404, b"", "text/plain")

        def answer_json(self, said: Any) -> None:
            self.answer(200, json.dumps(said).encode(), "application/json")

        def answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class HttpServer(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    return HttpServer((host, 0), Handler)


def _register(wire: Wire, to: grpc.Server) -> None:
    def came(call: str, context: grpc.ServicerContext) -> str | None:
        wire.seconds_left.append(context.time_remaining())
        key: Any = dict(context.invocation_metadata()).get("api-key")
        wire.keys.append((call, key))
        return wire.keys[-1][1]

    class Root:
        def HealthCheck(self, _: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            came("HealthCheck", context)
            return rpc.HealthCheckReply(title="qdrant", version=wire.version)

    class Collections:
        def List(self, _: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            key = came("List", context)
            if wire.grpc_error is not None:
                words = wire.grpc_error.replace("{key}", str(key))
                context.abort(grpc.StatusCode.UNAUTHENTICATED, words)
            named = [rpc.CollectionDescription(name=name) for name in wire.listed()]
            return rpc.ListCollectionsResponse(collections=named)

        def __getattr__(self, name: str) -> Any:
            return None

    add_QdrantServicer_to_server(Root(), to)
    add_CollectionsServicer_to_server(Collections(), to)


Connected: TypeAlias = Callable[..., bool]
"""Connects, makes a call, closes; whether the call went over gRPC."""


def connected(*arguments: Any, **options: Any) -> bool:
    client = connect(*arguments, **options)
    assert isinstance(client, QdrantClient)
    try:
        client.get_collections()
        return bool(client.init_options["prefer_grpc"])
    finally:
        client.close()


def aconnected(*arguments: Any, **options: Any) -> bool:
    async def main() -> bool:
        client = await aconnect(*arguments, **options)
        try:
            await client.get_collections()
            return bool(client.init_options["prefer_grpc"])
        finally:
            await client.close()

    return asyncio.run(main())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("ragkit")]


def parse(url: str, **options: Any) -> address.Address:
    given: dict[str, Any] = {"api_key": None, "timeout_s": 60.0, "grpc_port": None}
    return address.parse(url, **{**given, "allow_insecure_key": False, **options})
