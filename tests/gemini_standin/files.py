"""The Files API: resumable upload in pieces, listing, deletion, download of what jobs wrote."""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gemini_standin.wire import (
    CREATE_FILE_REQUEST,
    ApiError,
    Reply,
    json_reply,
    parse_body,
)

# All pieces but the last are multiples of this, as in all of Google's resumable uploads.
GRANULARITY = 262_144
_KEPT = timedelta(hours=48)


@dataclass(slots=True, kw_only=True)
class StoredFile:
    """A file at the server; those that a job wrote are `generated` and can be downloaded."""

    name: str
    display_name: str
    mime_type: str
    content: bytes
    generated: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def resource(self, url: str) -> dict[str, Any]:
        """The file as the API shows it."""
        digest = hashlib.sha256(self.content).hexdigest().encode()
        shown = {
            "name": self.name,
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(len(self.content)),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "expirationTime": timestamp(self.created + _KEPT),
            "sha256Hash": base64.b64encode(digest).decode(),
            "uri": f"{url}/v1/{self.name}",
            "state": "ACTIVE",
            "source": "GENERATED" if self.generated else "UPLOADED",
        }
        if self.generated:
            shown["downloadUri"] = f"{url}/v1/{self.name}:download?alt=media"
        return shown


@dataclass(slots=True, kw_only=True)
class _Upload:
    name: str
    display_name: str
    mime_type: str
    size: int
    content: bytearray = field(default_factory=bytearray)


class FileStore:
    """The project's files, and the uploads under way; the caller holds the lock.

    Attributes:
        stored: The files by name.
        max_file_bytes: Of one file.
        max_stored_bytes: Of all files together.
    """

    def __init__(self, url: str) -> None:
        self.max_file_bytes = 2 * 1024**3
        self.max_stored_bytes = 20 * 1024**3
        self.stored: dict[str, StoredFile] = {}
        self._uploads: dict[str, _Upload] = {}
        self._url = url

    def start_upload(self, raw: bytes, headers: Mapping[str, str], version: str) -> Reply:
        """Answer the first leg: the address to send the pieces to."""
        given = parse_body(raw, CREATE_FILE_REQUEST).get("file", {})
        if headers.get("x-goog-upload-protocol") != "resumable":
            raise ApiError(400, "expected X-Goog-Upload-Protocol: resumable")
        if headers.get("x-goog-upload-command") != "start":
            raise ApiError(400, "expected X-Goog-Upload-Command: start")
        size = _integer(headers, "x-goog-upload-header-content-length")
        self._check_room(size)
        name = given.get("name") or f"files/{secrets.token_hex(6)}"
        if name in self.stored:
            raise ApiError(409, f"File {name} already exists.")
        mime_type = headers.get("x-goog-upload-header-content-type") or given.get("mimeType")
        if not mime_type:
            raise ApiError(400, "expected X-Goog-Upload-Header-Content-Type")
        display_name = given.get("displayName") or headers.get("x-goog-upload-file-name", "")
        upload_id = secrets.token_hex(16)
        self._uploads[upload_id] = _Upload(
            name=name, display_name=display_name, mime_type=mime_type, size=size
        )
        target = f"{self._url}/upload/{version}/files?upload_id={upload_id}"
        return Reply(
            headers={
                "X-Goog-Upload-URL": f"{target}&upload_protocol=resumable",
                "X-Goog-Upload-Status": "active",
                "X-Goog-Upload-Chunk-Granularity": str(GRANULARITY),
            }
        )

    def continue_upload(self, raw: bytes, headers: Mapping[str, str], upload_id: str) -> Reply:
        """Answer the second leg: a piece, the last piece, or how much there is."""
        if (upload := self._uploads.get(upload_id)) is None:
            raise ApiError(404, "Upload not found.")
        commands = {word.strip() for word in headers.get("x-goog-upload-command", "").split(",")}
        if commands == {"query"}:
            return _upload_reply("active", len(upload.content))
        if not commands or not commands <= {"upload", "finalize"}:
            raise ApiError(400, "expected X-Goog-Upload-Command: upload, finalize or query")
        if "upload" in commands:
            _append(upload, raw, headers, is_last="finalize" in commands)
        if "finalize" not in commands:
            return _upload_reply("active", len(upload.content))
        return self._finish(upload_id, upload)

    def _finish(self, upload_id: str, upload: _Upload) -> Reply:
        if len(upload.content) != upload.size:
            message = f"expected {upload.size} bytes as announced, got {len(upload.content)}"
            raise ApiError(400, message)
        del self._uploads[upload_id]
        stored = StoredFile(
            name=upload.name,
            display_name=upload.display_name,
            mime_type=upload.mime_type,
            content=bytes(upload.content),
        )
        self.stored[stored.name] = stored
        headers = {"X-Goog-Upload-Status": "final"}
        return json_reply({"file": stored.resource(self._url)}, headers=headers)

    def add_generated(self, name: str, content: bytes) -> None:
        """Keep what a job wrote."""
        self.stored[name] = StoredFile(
            name=name, display_name=name, mime_type="jsonl", content=content, generated=True
        )

    def get(self, name: str) -> StoredFile:
        """The file of that name.

        Raises:
            ApiError: 403, as the API answers for a file that is not there.
        """
        if stored := self.stored.get(name):
            return stored
        shown = name.removeprefix("files/")
        message = f"You do not have permission to access the File {shown} or it may not exist."
        raise ApiError(403, message)

    def show(self, name: str) -> Reply:
        """Answer a request for one file's metadata."""
        return json_reply(self.get(name).resource(self._url))

    def listing(self, query: Mapping[str, str]) -> Reply:
        """Answer a request for a page of the files."""
        items = [stored.resource(self._url) for stored in self.stored.values()]
        return page("files", items, query, default=10)

    def delete(self, name: str) -> Reply:
        """Answer a request to delete."""
        del self.stored[self.get(name).name]
        return json_reply({})

    def download(self, name: str, query: Mapping[str, str]) -> Reply:
        """Answer a request for a file's content, which only generated files give."""
        stored = self.get(name)
        if query.get("alt") != "media":
            raise ApiError(400, "expected the query alt=media")
        if not stored.generated:
            raise ApiError(400, "Only generated files can be downloaded.")
        return Reply(body=stored.content, headers={"Content-Type": "application/octet-stream"})

    def _check_room(self, size: int) -> None:
        if size > self.max_file_bytes:
            raise ApiError(400, f"expected at most {self.max_file_bytes} bytes, got {size}")
        if size + sum(len(file.content) for file in self.stored.values()) > self.max_stored_bytes:
            raise ApiError(429, f"File storage quota of {self.max_stored_bytes} bytes exceeded.")


def page(
    field_name: str, items: list[dict[str, Any]], query: Mapping[str, str], *, default: int
) -> Reply:
    """A page of a listing, by `pageSize` and `pageToken`."""
    size = _integer(query, "pageSize", default) or default
    start = _integer(query, "pageToken", 0)
    if size < 0 or size > 100 or start < 0:
        raise ApiError(400, f"expected a pageSize of up to 100, got {size}")
    shown: dict[str, Any] = {field_name: items[start : start + size]} if items else {}
    if start + size < len(items):
        shown["nextPageToken"] = str(start + size)
    return json_reply(shown)


def timestamp(at: datetime) -> str:
    """A time as Protobuf's JSON has it."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _append(upload: _Upload, raw: bytes, headers: Mapping[str, str], *, is_last: bool) -> None:
    offset = _integer(headers, "x-goog-upload-offset")
    if offset != len(upload.content):
        raise ApiError(400, f"expected the offset {len(upload.content)}, got {offset}")
    if len(raw) % GRANULARITY and not is_last:
        raise ApiError(400, f"expected a multiple of {GRANULARITY} bytes, got {len(raw)}")
    upload.content += raw


def _upload_reply(status: str, received: int) -> Reply:
    headers = {"X-Goog-Upload-Status": status, "X-Goog-Upload-Size-Received": str(received)}
    return Reply(body=b"", headers=headers)


def _integer(values: Mapping[str, str], name: str, default: float = math.nan) -> int:
    text = values.get(name, "")
    if text.isdecimal():
        return int(text)
    if text or math.isnan(default):
        raise ApiError(400, f"expected a whole number for {name}, got {text!r}")
    return int(default)
