"""A port that passes bytes on to the gRPC server, and can cut a connection off.

gRPC's own server has no way to drop a connection in the middle of a call; a socket has.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pair:
    """A client's connection and the one to the server that goes with it."""

    client: socket.socket
    server: socket.socket

    def end(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Relay:
    """Listens on a free port of 127.0.0.1 until it is closed."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[int, _Pair] = {}
        self._mutex = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self, peer: str) -> None:
        """End the connection that the server knows by this name, such as "ipv4:127.0.0.1:5000"."""
        with self._mutex:
            pair = self._pairs.get(int(peer.rpartition(":")[2]))
        if pair is not None:
            pair.end()

    def close(self) -> None:
        """Stop listening and end all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        with self._mutex:
            pairs = list(self._pairs.values())
        for pair in pairs:
            pair.end()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to_port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client=client, server=server)
            with self._mutex:
                self._pairs[server.getsockname()[1]] = pair
            self._start(self._run, pair)

    def _run(self, pair: _Pair) -> None:
        number = pair.server.getsockname()[1]
        back = threading.Thread(target=_pass_on, args=(pair.server, pair.client, pair))
        back.start()
        _pass_on(pair.client, pair.server, pair)
        back.join()
        with self._mutex:
            self._pairs.pop(number, None)
        pair.client.close()
        pair.server.close()


def _pass_on(source: socket.socket, to: socket.socket, pair: _Pair) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            to.sendall(data)
    pair.end()
