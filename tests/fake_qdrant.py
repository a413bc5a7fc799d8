"""A program that starts, joins a cluster, answers and ends as `qdrant` does, and stores nothing.

What starts servers for the tests is tried on it. FAKE_QDRANT makes it misbehave: "dies", "stubborn"
(does not end on SIGTERM), "taken" (cannot have its port, the first time in the folder FAKE_STATE).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit


def setting(name: str, default: str = "") -> str:
    return os.environ.get(f"QDRANT__{name}", default)


HOST = setting("SERVICE__HOST", "0.0.0.0")  # noqa: S104  (the server's own default)
KEY = setting("SERVICE__API_KEY")


class Peers(socketserver.StreamRequestHandler):
    """Inter-node traffic: a node tells its URI and the key, and gets the URIs of all."""

    known: ClassVar[set[str]] = set()

    def handle(self) -> None:
        told = json.loads(self.rfile.readline())
        if told["key"] == KEY:
            self.known.add(told["uri"])
            self.wfile.write(json.dumps(sorted(self.known)).encode() + b"\n")


class Rest(BaseHTTPRequestHandler):
    """The few calls that the launcher makes."""

    flags: ClassVar[argparse.Namespace]

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self.answer(200, None)
        elif KEY and self.headers.get("api-key") != KEY:
            self.answer(401, None)
        elif self.path == "/cluster":
            self.answer(200, cluster(self.flags))
        elif self.path == "/collections":
            self.answer(200, {"collections": []})
        else:
            self.answer(404, None)

    def answer(self, status: int, result: Any) -> None:
        body = json.dumps({"result": result}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Requests are not worth a line."""


def cluster(flags: argparse.Namespace) -> dict[str, Any]:
    if setting("CLUSTER__ENABLED") != "true":
        return {"status": "disabled"}
    peers = peers_of(flags)
    raft = {"leader": peers[0], "is_voter": True}
    return {"status": "enabled", "peers": {peer: {} for peer in peers}, "raft_info": raft}


def peers_of(flags: argparse.Namespace) -> list[str]:
    if not flags.bootstrap:
        return sorted(Peers.known)
    address = urlsplit(flags.bootstrap)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(json.dumps({"uri": flags.uri, "key": KEY}).encode() + b"\n")
        with connection.makefile() as replies:
            peers: list[str] = json.loads(replies.readline())
            return peers


def misbehave() -> None:
    how = os.environ.get("FAKE_QDRANT")
    if how == "dies":
        sys.exit("the disk is on fire")
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how == "taken":
        seen = Path(os.environ["FAKE_STATE"]) / "seen"
        if not seen.exists():
            seen.touch()
            sys.exit("Error: Address already in use (os error 98)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uri")
    parser.add_argument("--bootstrap")
    Rest.flags = parser.parse_args()
    misbehave()
    Path(setting("STORAGE__STORAGE_PATH")).mkdir(exist_ok=True)
    if setting("CLUSTER__ENABLED") == "true":
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        port = int(setting("CLUSTER__P2P__PORT"))
        traffic = socketserver.ThreadingTCPServer((HOST, port), Peers)
        threading.Thread(target=traffic.serve_forever, daemon=True).start()
        Peers.known.add(Rest.flags.uri)
        peers_of(Rest.flags)
    grpc = socket.create_server((HOST, int(setting("SERVICE__GRPC_PORT", "6334"))))
    with grpc, ThreadingHTTPServer((HOST, int(setting("SERVICE__HTTP_PORT"))), Rest) as rest:
        rest.serve_forever()


if __name__ == "__main__":
    main()
