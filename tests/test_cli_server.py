from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from qdrant_client.client_base import QdrantBase
from qdrant_standin import running
from rebuilding import impatient, indexed, opened, stored  # noqa: F401  (a fixture)
from servers import Server
from typer.testing import CliRunner, Result

import ragkit.stores
from ragkit.cli_server import copy, rebuild
from ragkit.edge import EdgeClient
from ragkit.versions import physical, versions

runner = CliRunner()
app = typer.Typer()
app.command()(rebuild)
app.command()(copy)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("QDRANT_URL", "QDRANT_API_KEY", "QDRANT_SOURCE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    with EdgeClient(".ragkit") as client:
        indexed(client)
    return tmp_path


def call(*arguments: str) -> Result:
    return runner.invoke(app, arguments, catch_exceptions=False)


def asked(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_rebuild_says_what_it_did_and_keeps_the_old_version() -> None:
    result = call("rebuild", "docs", "--quantization", "scalar")
    assert result.exit_code == 0
    assert "are now in docs.v2 (vectors copied)" in result.stdout
    assert "of the 10 nearest neighbours" in result.stdout
    assert "docs.v1 is kept: ragkit rebuild docs --prune deletes it" in result.stdout
    with EdgeClient(".ragkit") as client:
        assert versions(client, "docs") == ["docs.v1", "docs.v2"]


def test_what_is_advised_is_for_the_same_database() -> None:
    result = call("rebuild", "docs", "--db", ".ragkit", "--quantization", "scalar")
    assert "ragkit rebuild docs --db .ragkit --prune deletes it" in result.stdout


def test_copy_sends_a_key_within_a_network_of_ones_own_if_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_for: list[bool] = []

    def watched(place: str, *, api_key: str | None, allow_insecure_key: bool) -> QdrantBase:
        asked_for.append(allow_insecure_key)
        return EdgeClient(Path(place).name or "elsewhere")

    monkeypatch.setattr(ragkit.stores, "connect", watched)
    monkeypatch.setenv("QDRANT_API_KEY", "key")
    monkeypatch.setenv("QDRANT_ALLOW_INSECURE_KEY", "1")
    assert call("copy", ".ragkit", "http://qdrant").exit_code == 0
    assert asked_for == [True, True]


def test_prune_alone_deletes_older_versions_and_rebuilds_nothing() -> None:
    call("rebuild", "docs", "--quantization", "scalar")
    assert "docs.v1 deleted" in call("rebuild", "docs", "--prune").stdout
    assert "docs has no older version" in call("rebuild", "docs", "--prune").stdout
    with EdgeClient(".ragkit") as client:
        assert versions(client, "docs") == ["docs.v2"]


def test_rebuild_with_another_embedder_and_width() -> None:
    report = asked("rebuild", "docs", "--embedder", "hash", "--dim", "32", "--prune")
    assert (report["vectors"], report["pruned"]) == ("embedded", ["docs.v1"])
    assert asked("rebuild", "docs", "--dim", "48")["vectors"] == "embedded"
    assert asked("rebuild", "docs", "--embedder", "none")["vectors"] == "left out"


def test_a_rebuild_that_finds_too_little_ends_in_one_line(here: Path) -> None:
    call("rebuild", "docs", "--dim", "8")
    result = call("rebuild", "docs", "--quantization", "binary", "--min-recall", "0.9999")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: 'docs.v3' finds 0.")
    assert len(result.stderr.splitlines()) == 1
    assert call("rebuild", "docs", "--quantization", "binary", "--min-recall", "0").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no collection 'nothing': there are docs"),
        (("docs", "--embedder", "word2vec"), "expected --embedder gemini, local, none or hash"),
        (("docs", "--embedder", "none", "--dim", "8"), "--dim goes with"),
        (("docs", "--embedder", "hash", "--model", "m"), "--model goes with"),
        (("docs", "--quantization", "magic"), "expected a quantization"),
    ],
)
def test_what_cannot_be_asked_for_ends_in_one_line(
    arguments: tuple[str, ...], message: str
) -> None:
    result = call("rebuild", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_copy_to_another_folder_and_under_another_name() -> None:
    result = call("copy", ".ragkit", "other")
    assert result.exit_code == 0
    assert "copied to other" in result.stdout
    assert "compared, all equal" in result.stdout
    report = asked("copy", ".ragkit", "./.ragkit/", "--collection", "docs", "--as", "twin")
    assert report["new"] == "twin.v1"
    with EdgeClient(".ragkit") as one, EdgeClient("other") as other:
        assert stored(one, "twin") == stored(other) == stored(one)


def test_copy_does_not_overwrite() -> None:
    result = call("copy", ".ragkit", ".ragkit")
    assert result.exit_code == 1
    assert "has a collection 'docs' already" in result.stderr
    assert "ragkit drop docs --db DESTINATION" in result.stderr  # not the source's


def test_copy_of_nothing_makes_no_folder(here: Path) -> None:
    result = call("copy", "nowhere", "other")
    assert result.exit_code == 2
    assert "there is none" in result.stderr
    assert sorted(path.name for path in here.iterdir()) == [".ragkit"]


@pytest.fixture
def two_servers(here: Path) -> Iterator[tuple[Server, Server]]:
    """Each with a key of its own."""
    with (
        running(here / "one", api_key="first") as one,
        running(here / "two", api_key="second") as two,
    ):
        yield (
            Server(url=one.url, grpc_port=one.grpc_port, api_key="first"),
            Server(url=two.url, grpc_port=two.grpc_port, api_key="second"),
        )


def test_every_server_gets_its_own_key_and_no_other(
    two_servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_servers
    sent: list[tuple[str, str | None]] = []
    connect = ragkit.stores.connect

    def watched(
        place: str, *, api_key: str | None = None, allow_insecure_key: bool = False
    ) -> QdrantBase:
        assert not allow_insecure_key
        sent.append((place, api_key))
        ports = {one.url: one.grpc_port, two.url: two.grpc_port}
        return connect(place, api_key=api_key, grpc_port=ports.get(place))

    monkeypatch.setattr(ragkit.stores, "connect", watched)
    monkeypatch.setenv("QDRANT_API_KEY", "first")
    assert call("copy", ".ragkit", one.url).exit_code == 0
    monkeypatch.setenv("QDRANT_API_KEY", "second")
    monkeypatch.setenv("QDRANT_SOURCE_API_KEY", "first")
    assert call("copy", one.url, two.url).exit_code == 0
    monkeypatch.delenv("QDRANT_SOURCE_API_KEY")
    assert call("copy", two.url, "back").exit_code == 0
    refused = call("copy", one.url, two.url)  # the destination's key is not for the source
    assert refused.exit_code == 1
    assert "wants an API key" in refused.stderr
    assert "QDRANT_SOURCE_API_KEY that of the source" in refused.stderr
    assert sent == [
        (".ragkit", None),
        (one.url, "first"),
        (one.url, "first"),
        (two.url, "second"),
        (two.url, "second"),
        ("back", None),
        (one.url, None),
    ]
    with EdgeClient(".ragkit") as here, EdgeClient("back") as back:
        assert stored(back) == stored(here)
        assert physical(back, "docs") == "docs.v1"
