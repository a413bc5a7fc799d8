from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from qdrant_client.http.exceptions import ResponseHandlingException
from qdrant_standin import Server, running
from wire import KEY, Connected, Wire, aconnected, connected, free_port, messages, parse

from ragkit.errors import StoreDenied, StoreError, StoreUnavailable
from ragkit.stores import aconnect, connect


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key."""
    with running(tmp_path_factory.mktemp("locked"), api_key=KEY) as running_server:
        yield running_server


@pytest.fixture(params=[connected, aconnected], ids=["connect", "aconnect"])
def over_grpc(request: pytest.FixtureRequest) -> Connected:
    """`connect` and `aconnect` in turn."""
    how: Connected = request.param
    return how


@pytest.mark.parametrize("key", [KEY, f"{KEY}\n"], ids=["plain", "read from a file"])
def test_a_key_goes_with_both_transports(locked: Server, over_grpc: Connected, key: str) -> None:
    locked.requests.clear()
    assert over_grpc(locked.url, grpc_port=locked.grpc_port, api_key=key)
    assert not over_grpc(locked.url, grpc_port=free_port(), api_key=key)
    listing = [each for each in locked.requests if "ollections" in each.path]
    assert {each.transport for each in listing} == {"rest", "grpc"}
    assert {each.headers["api-key"] for each in listing} == {KEY}


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_a_server_that_wants_a_key_says_so(
    locked: Server, over_grpc: Connected, key: str | None
) -> None:
    with pytest.raises(StoreDenied, match=r"wants an API key \(401 .*pass it as api_key"):
        over_grpc(locked.url, api_key=key)


def test_a_wrong_key_is_said_to_be_wrong_and_not_shown(
    locked: Server, over_grpc: Connected
) -> None:
    with pytest.raises(StoreDenied, match="does not accept this API key") as caught:
        over_grpc(locked.url, api_key="wrong-canary")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["qdrant", "192.168.1.7", "localhost.example.com", "127.0.0.1.nip.io", "[fd00::1]", "0.0.0.0"],  # noqa: S104
)
def test_a_key_does_not_travel_in_the_clear(host: str, over_grpc: Connected) -> None:
    with pytest.raises(
        ValueError, match=r"can be read on its way .*use https, or an SSH"
    ) as caught:
        over_grpc(f"http://{host}:6333", api_key=KEY)
    assert KEY not in str(caught.value)


def test_a_key_travels_in_the_clear_where_that_is_wanted(over_grpc: Connected) -> None:
    with pytest.raises(StoreUnavailable, match=r"http://qdrant\.invalid:6333"):
        over_grpc("http://qdrant.invalid:6333", api_key=KEY, allow_insecure_key=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "LocalHost"])
def test_this_machine_needs_no_https(host: str) -> None:
    assert parse(f"http://{host}:6333", api_key=KEY).headers == {"api-key": KEY}


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@qdrant.example.com",
        f"https://{KEY}@qdrant.example.com:6333",
        f"https://qdrant.example.com/?api_key={KEY}",
        f"https://qdrant.example.com/#{KEY}",
        f"https://user:{KEY}%40qdrant.example.com",
        f"https://user:{KEY}@qdrant\uff0fexample.com",
        f"postgres://user:{KEY}@qdrant.example.com",
        f"http:/user:{KEY}@qdrant.example.com",
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_and_not_shown(url: str, over_grpc: Connected) -> None:
    with pytest.raises(ValueError, match="expected a folder, or the URL") as caught:
        over_grpc(url)
    assert KEY not in "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\nx", f"{KEY}é", f"{KEY}\x00", f"{KEY} \u200b"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(
    key: str, over_grpc: Connected
) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        over_grpc("https://qdrant.example.com", api_key=key)
    assert_hidden_in_error(caught.value)


def assert_hidden(*places: object) -> None:
    for place in places:
        raw = place if isinstance(place, bytes) else str(place).encode()
        assert KEY.encode() not in raw


def assert_hidden_in_error(error: BaseException | None) -> None:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        assert_hidden(str(error), repr(error), vars(error), error.args)
        assert_hidden(*traceback.format_exception(error))
        try:
            assert_hidden(pickle.dumps(error))
        except TypeError:
            assert isinstance(error, grpc.RpcError)  # has a lock in it
        error = error.__cause__ or error.__context__


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


PAGES = {
    "denied": (401, "text/plain", b"Invalid API key or JWT"),
    "forbidden": (403, "text/plain", b"Invalid JWT, stateful validation failed"),
    "repeated in an error": (403, "text/plain", b"invalid key {key}"),
    "repeated in a status": (500, "application/json", b'{"status": {"error": "bad {key}"}}'),
    "repeated in a page": (200, "text/html", b"api-key: {key}"),
    "repeated in JSON": (200, "application/json", b'{"title": ["{key}"]}'),
    "busy": (503, "text/plain", b"no upstream for {key}"),
}


@pytest.mark.parametrize("fault", [*PAGES, "closed"])
def test_no_error_in_connecting_shows_the_key(
    wire: Wire, over_grpc: Connected, fault: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    wire.page = PAGES.get(fault)
    url = f"http://127.0.0.1:{free_port()}" if fault == "closed" else wire.url
    with pytest.raises(StoreError) as caught:
        over_grpc(url, api_key=KEY)
    assert_hidden_in_error(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))
    assert_hidden(everything_logged.text, *map(vars, everything_logged.records))


@pytest.mark.parametrize("words", ["Invalid API key or JWT", "invalid key {key}"])
def test_no_line_about_grpc_shows_the_key(
    wire: Wire, over_grpc: Connected, words: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    wire.grpc_error = words
    assert not over_grpc(wire.url, grpc_port=wire.grpc_port, api_key=KEY)
    assert ("List", KEY) in wire.keys
    (line,) = messages(everything_logged)
    assert "using REST" in line
    assert "UNAUTHENTICATED" in line
    assert_hidden(everything_logged.text, *map(vars, everything_logged.records))


@pytest.mark.parametrize("prefer_grpc", [True, False], ids=["grpc", "rest"])
def test_a_client_shows_its_key_nowhere_and_its_errors_neither(
    prefer_grpc: bool, everything_logged: pytest.LogCaptureFixture
) -> None:
    wire = Wire()
    client = connect(wire.url, grpc_port=wire.grpc_port, api_key=KEY, prefer_grpc=prefer_grpc)

    async def amain() -> BaseException:
        other = await aconnect(
            wire.url, grpc_port=wire.grpc_port, api_key=KEY, prefer_grpc=prefer_grpc
        )
        assert_not_told(other)
        await asyncio.to_thread(wire.close)
        with pytest.raises((ResponseHandlingException, grpc.RpcError)) as caught:
            await other.get_collections()
        await other.close()
        return caught.value

    assert_not_told(client)
    assert_hidden_in_error(asyncio.run(amain()))
    with pytest.raises((ResponseHandlingException, grpc.RpcError)) as caught:
        client.get_collections()
    assert_hidden_in_error(caught.value)
    client.close()
    assert_hidden(everything_logged.text, *map(vars, everything_logged.records))


def assert_not_told(client: Any) -> None:
    assert client.init_options["headers"] == {"api-key": KEY}
    assert_hidden(repr(client), str(client), vars(client), client.init_options)
    assert_hidden(vars(client._client))
    for each in (client, client.init_options):
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(each)
