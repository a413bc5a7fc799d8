"""A stand-in for a Qdrant server: the real wire in front, the embedded engine behind.

    with running(folder) as server, connected(server, "grpc") as client:
        client.get_collections()

or any client of qdrant-client with `url=server.url, grpc_port=server.grpc_port`.

It is one node in distributed mode unless told otherwise. What a request means is decided
by `ragkit.edge.EdgeClient`; how it is asked for, answered and refused follows the sources of the
server, version 1.19.

server     starting and stopping; `running`
rest       HTTP: connections, the API key, bodies, answers and refusals
routes     what each path and method stands for
rpc        gRPC: connections, the API key, answers and refusals
rpcs       what each rpc stands for
messages   gRPC messages to the models of REST and back
relay      the gRPC port: passes bytes on, and can cut a connection off
database   collections, aliases, indexes
settings   settings that only a server has
optimizing what a server does in the background
points     reads and writes of points
sharding   shard keys: which collections have them, and where their points are
merging    answers from several shard keys made one
faults     what goes wrong, and when
clients    qdrant-client's clients of it
refusals   errors as the server words them, for both transports
"""

from qdrant_standin.clients import TRANSPORTS, connected
from qdrant_standin.faults import Faults
from qdrant_standin.requests import Recorded
from qdrant_standin.server import Server, running

__all__ = ["TRANSPORTS", "Faults", "Recorded", "Server", "connected", "running"]
