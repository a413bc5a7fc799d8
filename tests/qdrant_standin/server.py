"""Starting and stopping the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qdrant_standin.database import Database
from qdrant_standin.faults import Faults
from qdrant_standin.points import Points
from qdrant_standin.requests import Recorded
from qdrant_standin.rest import RestServer
from qdrant_standin.routes import routes
from qdrant_standin.rpc import RpcServer
from qdrant_standin.state import State
from ragkit.edge import EdgeClient


class Server:
    """A running stand-in.

    Attributes:
        url: Of the HTTP side.
        grpc_port: Of the gRPC side, on 127.0.0.1.
        requests: What came in, in the order in which it came.
        faults: What is to go wrong.
        broken: Errors that nobody planned; a test can ask that there be none.
    """

    def __init__(self, state: State, database: Database, *, port: int, grpc_port: int) -> None:
        self._state = state
        self._database = database
        self.url = f"http://127.0.0.1:{port}"
        self.grpc_port = grpc_port
        self.requests: list[Recorded] = state.requests
        self.faults: Faults = state.faults
        self.broken: list[Exception] = state.broken

    @property
    def recording(self) -> bool:
        """Whether requests are kept, with all that they bring: not for a test that loads much."""
        return self._state.recording

    @recording.setter
    def recording(self, recording: bool) -> None:
        self._state.recording = recording

    @property
    def engine(self) -> EdgeClient:
        """The engine behind it; the points of shard keys are kept elsewhere."""
        return self._database.engine


@contextmanager
def running(
    folder: Path,
    *,
    api_key: str | None = None,
    version: str = "1.19.0",
    distributed: bool = True,
) -> Iterator[Server]:
    """A server on free ports of 127.0.0.1, over REST and gRPC, for the length of the block.

    Args:
        folder: Where it keeps its data; collections of a folder that was used before are there
            again, without their shard keys and the settings that only a server has.
        api_key: What every request must carry, but for the health checks.
        version: What it says it is; what it can do is that of 1.19.
        distributed: Whether it is a cluster of one, or refuses shard keys as a lone server does.
    """
    state = State(api_key=api_key, version=version)
    with ExitStack() as closing:
        database = Database(folder, distributed=distributed)
        closing.callback(database.close)
        points = Points(database)
        rest = RestServer(state, routes(database, points))
        closing.callback(rest.close)
        rpc = RpcServer(state, database, points)
        closing.callback(rpc.close)
        closing.callback(state.faults.close)  # the first to be called: late answers go at once
        yield Server(state, database, port=rest.port, grpc_port=rpc.port)
