from __future__ import annotations

from pathlib import Path

import pytest
from gemini_server import GeminiServer
from google import genai
from google.genai import types

from gemini_standin.asking import (
    send,
    send_piece,
    start_upload,
    upload,
)
from gemini_standin.files import GRANULARITY


def test_the_sdk_uploads_in_pieces_without_the_key_and_finds_the_file(
    server: GeminiServer, client: genai.Client, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"x" * (8 * 1024**2 + 5))  # the SDK sends 8 MiB at a time
    config = types.UploadFileConfig(mime_type="jsonl", display_name="mine")
    file = client.files.upload(file=path, config=config)

    start, first, last = server.calls
    assert start.path in ("/upload/v1/files", "/upload/v1beta/files")  # the latter up to SDK 2
    assert start.key_ok
    assert [call.size for call in (first, last)] == [8 * 1024**2, 5]
    assert [call.has_key for call in (first, last)] == [False, False]
    assert file.name is not None
    assert server.files.stored[file.name].content == path.read_bytes()
    shown = client.files.get(name=file.name)
    assert (shown.display_name, shown.mime_type, shown.size_bytes) == (
        "mine",
        "jsonl",
        8 * 1024**2 + 5,
    )
    assert shown.state is not None
    assert (shown.state.name, shown.download_uri) == ("ACTIVE", None)
    client.files.delete(name=file.name)
    assert not server.files.stored


def test_an_upload_can_be_asked_how_far_it_is_and_goes_on(server: GeminiServer) -> None:
    content = bytes(range(256)) * (GRANULARITY // 256) + b"end"
    _, _, told = start_upload(server, len(content))
    assert told["x-goog-upload-chunk-granularity"] == str(GRANULARITY)
    _, _, answered = send_piece(server, told, content[:GRANULARITY], 0, "upload")
    assert answered["x-goog-upload-status"] == "active"
    _, _, answered = send_piece(server, told, b"", 0, "query")
    assert answered["x-goog-upload-size-received"] == str(GRANULARITY)
    _, reply, _ = send_piece(server, told, b"end", GRANULARITY, "upload, finalize")
    assert server.files.stored[reply["file"]["name"]].content == content


def test_a_piece_that_does_not_fit_is_refused(server: GeminiServer) -> None:
    _, _, told = start_upload(server, 10)
    for piece, offset, command, message in (
        (b"12345", 0, "upload", f"a multiple of {GRANULARITY}"),
        (b"12345", 3, "upload, finalize", "the offset 0, got 3"),
        (b"", 0, "start", "expected X-Goog-Upload-Command"),
    ):
        status, reply, _ = send_piece(server, told, piece, offset, command)
        assert (status, message in reply["error"]["message"]) == (400, True)
    status, reply, _ = send_piece(server, told, b"123456789", 0, "upload, finalize")
    assert (status, "expected 10 bytes" in reply["error"]["message"]) == (400, True)
    told["x-goog-upload-url"] = f"{server.url}/upload/v1/files?upload_id=x"
    assert send_piece(server, told, b"", 0, "query")[0] == 404


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X-Goog-Upload-Protocol": "raw"}, "Protocol: resumable"),
        ({"X-Goog-Upload-Command": "upload"}, "Command: start"),
        ({"X-Goog-Upload-Header-Content-Length": "many"}, "content-length"),
        ({"X-Goog-Upload-Header-Content-Length": "101"}, "at most 100 bytes"),
        ({"X-Goog-Upload-Header-Content-Type": ""}, "Content-Type"),
    ],
)
def test_a_first_leg_that_lacks_something_is_refused(
    server: GeminiServer, changed: dict[str, str], message: str
) -> None:
    server.files.max_file_bytes = 100
    status, reply, _ = start_upload(server, 5, **changed)
    assert (status, message in reply["error"]["message"]) == (400, True)


def test_a_project_can_store_only_so_much(server: GeminiServer) -> None:
    server.files.max_stored_bytes = 10
    upload(server, b"1234567")
    assert start_upload(server, 4)[0] == 429
    assert start_upload(server, 3)[0] == 200


def test_an_upload_starts_with_the_key(server: GeminiServer) -> None:
    assert start_upload(server, 5, **{"x-goog-api-key": "wrong"})[0] == 400
    assert not server.files.stored


def test_files_are_listed_in_pages(server: GeminiServer, client: genai.Client) -> None:
    names = {upload(server, b"x") for _ in range(5)}
    pager = client.files.list(config={"page_size": 2})
    assert {file.name for file in pager} == names
    listings = [call for call in server.calls if call.method == "GET"]
    assert [call.query.get("pageToken") for call in listings] == [None, "2", "4"]
    status, reply, _ = send(server, "GET", "/v1/files?page_size=2")
    assert (status, 'Unknown name "page_size"' in reply["error"]["message"]) == (400, True)
    assert send(server, "GET", "/v1/files?pageSize=101")[0] == 400


def test_an_uploaded_file_cannot_be_downloaded(server: GeminiServer) -> None:
    name = upload(server, b"x")
    status, reply, _ = send(server, "GET", f"/v1/{name}:download?alt=media")
    assert (status, "Only generated files" in reply["error"]["message"]) == (400, True)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_file_that_is_not_there_is_forbidden(server: GeminiServer, method: str) -> None:
    status, reply, _ = send(server, method, "/v1/files/abc")
    assert (status, reply["error"]["status"]) == (403, "PERMISSION_DENIED")
