"""The gRPC side: connections, the API key, answers and refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import grpc
from qdrant_client import grpc as wire
from qdrant_client.grpc import (
    add_CollectionsServicer_to_server,
    add_PointsServicer_to_server,
    add_QdrantServicer_to_server,
)

from qdrant_standin.database import Database
from qdrant_standin.faults import Dropped
from qdrant_standin.points import Points
from qdrant_standin.refusals import Refusal, refusal_of
from qdrant_standin.relay import Relay
from qdrant_standin.requests import Recorded
from qdrant_standin.rpcs import Rpc, Rpcs, collection_rpcs, point_rpcs
from qdrant_standin.state import State

_WORKERS = 16
# What needs no key.
_OPEN = "HealthCheck"


class RpcServer:
    """Answers on a free port of 127.0.0.1 until it is closed."""

    def __init__(self, state: State, database: Database, points: Points) -> None:
        self._pool = ThreadPoolExecutor(_WORKERS)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(self._pool, options=[*options, ("grpc.so_reuseport", 0)])
        self._relay = Relay(self._server.add_insecure_port("127.0.0.1:0"))
        self.port = self._relay.port
        service = partial(_Service, state, self._relay)
        health = {"HealthCheck": _health(state)}
        of_collections, of_points = collection_rpcs(database), point_rpcs(database, points)
        _add(add_QdrantServicer_to_server, service("Qdrant", health), self._server)
        _add(
            add_CollectionsServicer_to_server, service("Collections", of_collections), self._server
        )
        _add(add_PointsServicer_to_server, service("Points", of_points), self._server)
        self._server.start()

    def close(self) -> None:
        """Stop, and end the connections that are open."""
        self._relay.close()
        self._server.stop(None).wait()
        self._pool.shutdown()


def _add(add: Any, service: _Service, server: grpc.Server) -> None:
    """Register a service by one of the generated functions, which have no types."""
    add(service, server)


class _Service:
    """Takes the place of a generated servicer: an attribute for each rpc of its name."""

    def __init__(self, state: State, relay: Relay, name: str, rpcs: Rpcs) -> None:
        self._state = state
        self._relay = relay
        self._name = name
        self._rpcs = rpcs

    def __getattr__(self, rpc: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        return partial(self._call, rpc)

    def _call(self, rpc: str, message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return self._answered(rpc, message, context)
        except Dropped as dropped:
            if dropped.cut:
                self._relay.cut(context.peer())
            # What a client says of a call whose connection ended.
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        except Exception as exc:  # noqa: BLE001  (whatever breaks is an answer, not a hung client)
            refusal = refusal_of(exc)
            self._state.note(exc, refusal)
            _abort(context, refusal)

    def _answered(self, rpc: str, message: Any, context: grpc.ServicerContext) -> Any:
        started = time.monotonic()
        headers = {key: value for key, value in context.invocation_metadata() if type(value) is str}
        if rpc != _OPEN and (refusal := self._state.denied(headers)) is not None:
            raise refusal
        found = self._rpcs.get(rpc)
        if found is None:
            raise Refusal(status=405, message=f"the stand-in of the tests has no {rpc}")
        recorded = Recorded(
            transport="grpc",
            operation=found.operation,
            method=rpc,
            path=f"/qdrant.{self._name}/{rpc}",
            headers=headers,
            content=message,
        )
        fields = self._state.carry_out(
            recorded, lambda: found.answer(message), lambda: _unsure(recorded)
        )
        timed = {} if rpc == _OPEN else {"time": time.monotonic() - started}
        return found.response(**fields, **timed)


def _unsure(request: Recorded) -> Mapping[str, Any]:
    result = wire.UpdateResult(status=wire.UpdateStatus.WaitTimeout)
    if request.operation == "batch":
        return {"result": [result] * len(request.body.operations)}
    return {"result": result}


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    context.set_trailing_metadata(refusal.metadata)
    context.abort(refusal.code, refusal.message)


def _health(state: State) -> Rpc:
    return Rpc(
        operation="service",
        answer=lambda message: state.version_info.model_dump(),
        response=wire.HealthCheckReply,
    )
