"""What goes over the wire: JSON in, parsed as strictly as Google parses it; JSON or errors out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from gemini_standin.vectors import MODELS, Ask, Model, tokens_read

# A message by its fields' camelCase names, a list of one shape, an enumeration, or a scalar.
Shape: TypeAlias = "dict[str, Shape] | list[Shape] | frozenset[str] | str"

MAX_REQUESTS = 100
MAX_BODY_BYTES = 4_194_304
TASK_TYPES = frozenset(
    {
        "TASK_TYPE_UNSPECIFIED",
        "RETRIEVAL_DOCUMENT",
        "RETRIEVAL_QUERY",
        "CODE_RETRIEVAL_QUERY",
        "QUESTION_ANSWERING",
        "FACT_VERIFICATION",
        "SEMANTIC_SIMILARITY",
        "CLASSIFICATION",
        "CLUSTERING",
    }
)
EMBED_REQUEST: dict[str, Shape] = {
    "model": "string",
    "content": {"parts": [{"text": "string"}], "role": "string"},
    "taskType": TASK_TYPES,
    "title": "string",
    "outputDimensionality": "int32",
}
BATCH_EMBED_REQUEST: dict[str, Shape] = {"requests": [EMBED_REQUEST]}
CREATE_BATCH_REQUEST: dict[str, Shape] = {
    "batch": {
        "model": "string",
        "displayName": "string",
        "priority": "int64",
        "inputConfig": {
            "fileName": "string",
            "requests": {"requests": [{"request": "struct", "metadata": "struct"}]},
        },
    }
}
# A job's lines are judged one by one when it runs.
BATCH_LINE: dict[str, Shape] = {"key": "string", "request": "struct"}
CREATE_FILE_REQUEST: dict[str, Shape] = {
    "file": {"name": "string", "displayName": "string", "mimeType": "string", "sizeBytes": "int64"}
}

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPES = "type.googleapis.com"

Delivery: TypeAlias = Literal["whole", "truncated", "closed", "dribbled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is sent back, and how.

    Attributes:
        delivery: "truncated" sends half of the body and closes, "closed" sends nothing and
            closes, "dribbled" sends a byte at a time.
        pause_s: Between two bytes of a dribble.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"
    pause_s: float = 0.0


class ApiError(Exception):
    """An error as the API reports it: an HTTP status with Google's JSON."""

    def __init__(self, code: int, message: str, *details: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def reply(self) -> Reply:
        """The error as an answer."""
        error = {"code": self.code, "message": self.message, "status": STATUSES[self.code]}
        if self.details:
            error["details"] = list(self.details)
        return json_reply({"error": error}, status=self.code)


def json_reply(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """An answer in JSON."""
    return Reply(status=status, body=json.dumps(value).encode(), headers=headers or {})


def not_found_page() -> Reply:
    """What a path that is no route of the API gets: a page, not JSON."""
    page = b"<!DOCTYPE html><html><title>Error 404 (Not Found)!!1</title></html>"
    return Reply(status=404, body=page, headers={"Content-Type": "text/html; charset=UTF-8"})


def missing_key() -> ApiError:
    """There was no key in the header."""
    return ApiError(
        403,
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
    )


def bad_key() -> ApiError:
    """The key is not the server's: status 400, not 401 or 403."""
    return ApiError(
        400,
        "API key not valid. Please pass a valid API key.",
        {
            "@type": f"{_TYPES}/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        },
    )


def payload_too_large(limit: int) -> ApiError:
    """The body has more bytes than the method takes."""
    return ApiError(400, f"Request payload size exceeds the limit: {limit} bytes.")


def unknown_name(what: str) -> str:
    """The message about a name that the API does not know."""
    return f"Invalid JSON payload received. Unknown name {what}"


def parse_body(raw: bytes, shape: dict[str, Shape]) -> dict[str, Any]:
    """Read a JSON body of that shape; names become camelCase, nulls vanish.

    Raises:
        ApiError: It is not JSON, a field is unknown, or a value is of the wrong type.
    """
    try:
        value = json.loads(raw or b"{}")
    except ValueError as exc:
        raise ApiError(400, f"Invalid JSON payload received. {exc}") from exc
    if not isinstance(value, dict):
        raise ApiError(400, "Invalid JSON payload received. Unexpected token.")
    return _message(value, shape, "")


def find_model(name: str, version: str, method: str) -> Model:
    """The model of that name.

    Raises:
        ApiError: It is unknown or retired, which the API does not tell apart.
    """
    if model := MODELS.get(name):
        return model
    raise missing_model(name, version, method)


def missing_model(name: str, version: str, method: str) -> ApiError:
    """There is no model of that name, or none that does this."""
    return ApiError(
        404,
        f"models/{name} is not found for API version {version}, or is not supported for {method}. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def read_asks(raw: bytes, model: Model) -> list[Ask]:
    """The texts of a `batchEmbedContents` call.

    Raises:
        ApiError: Anything the API refuses: size, number, an unknown field, an empty part, ….
    """
    if len(raw) > MAX_BODY_BYTES:
        raise payload_too_large(MAX_BODY_BYTES)
    requests = parse_body(raw, BATCH_EMBED_REQUEST).get("requests", [])
    name = "BatchEmbedContentsRequest.requests"
    if not requests:
        raise ApiError(400, f"* {name}: must not be empty\n")
    if len(requests) > MAX_REQUESTS:
        raise ApiError(400, f"* {name}: at most 100 requests can be in one batch\n")
    wrong = [
        fault
        for i, request in enumerate(requests)
        for fault in violations(request, model, where=f"{name}[{i}]", names_model=True)
    ]
    if wrong:
        raise ApiError(400, "\n".join(wrong))
    return [ask_of(request, model) for request in requests]


def read_ask(raw: bytes, model: Model) -> Ask:
    """The text of an `embedContent` call.

    Raises:
        ApiError: Anything the API refuses.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise payload_too_large(MAX_BODY_BYTES)
    request = parse_body(raw, EMBED_REQUEST)
    if wrong := violations(request, model, where="EmbedContentRequest", names_model=False):
        raise ApiError(400, "\n".join(wrong))
    return ask_of(request, model)


def violations(
    request: dict[str, Any], model: Model, *, where: str, names_model: bool
) -> list[str]:
    """What is wrong with a parsed request for a vector.

    Args:
        request: As `parse_body` gives it.
        model: The model of the call or job.
        where: The request's place, for the messages.
        names_model: Whether the request has to name its model; it may in any case.
    """
    wrong = []
    named = request.get("model")
    if (named is None and names_model) or (named is not None and named != f"models/{model.name}"):
        wrong.append(f"* {where}.model: expected models/{model.name}, got {named}")
    parts = request.get("content", {}).get("parts", [])
    if not parts or not all(part.get("text") for part in parts):
        wrong.append(f"* {where}.content contains an empty Part.")
    dim = request.get("outputDimensionality")
    if dim is not None and not model.min_dim <= dim <= model.max_dim:
        allowed = f"between {model.min_dim} and {model.max_dim}"
        wrong.append(f"* {where}.output_dimensionality: must be {allowed}, got {dim}")
    for_documents = request.get("taskType") == "RETRIEVAL_DOCUMENT"
    if request.get("title") and not model.prefixed and not for_documents:
        wrong.append(f"* {where}.title: only applicable when task_type is RETRIEVAL_DOCUMENT")
    return wrong


def ask_of(request: dict[str, Any], model: Model) -> Ask:
    """A request without violations as what is asked of the model."""
    text = " ".join(part["text"] for part in request["content"]["parts"])
    title = request.get("title", "")
    return Ask(
        model=model,
        text=text,
        task_type=request.get("taskType", "TASK_TYPE_UNSPECIFIED"),
        title=title,
        dim=request.get("outputDimensionality", model.max_dim),
        tokens=tokens_read(model, text, title),
    )


def _message(value: dict[str, Any], shape: dict[str, Shape], at: str) -> dict[str, Any]:
    known = {name: name for name in shape} | {_snake(name): name for name in shape}
    read = {}
    for name, item in value.items():
        if (field_name := known.get(name)) is None:
            raise _bad_field(at, unknown_name(f'"{name}"{_place(at)}: Cannot find field.'))
        if item is not None:
            inner = f"{at}.{_snake(field_name)}" if at else _snake(field_name)
            read[field_name] = _value(item, shape[field_name], inner)
    return read


def _value(value: Any, shape: Shape, at: str) -> Any:
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise _bad_value(at, "expected a list", value)
        return [_value(item, shape[0], f"{at}[{i}]") for i, item in enumerate(value)]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _bad_value(at, "expected an object", value)
        return _message(value, shape, at)
    if isinstance(shape, frozenset):
        if value not in shape:
            raise _bad_value(at, f"{_TYPES}/google.ai.generativelanguage.TaskType", value)
        return value
    return _scalar(value, shape, at)


def _scalar(value: Any, kind: str, at: str) -> Any:
    if kind in ("int32", "int64"):
        # Protobuf's JSON takes whole numbers as strings as well.
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise _bad_value(at, f"TYPE_{kind.upper()}", value)
        return int(value)
    if kind == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _bad_value(at, "TYPE_FLOAT", value)
        return float(value)
    expected = dict if kind == "struct" else str
    if not isinstance(value, expected):
        raise _bad_value(at, f"TYPE_{kind.upper()}", value)
    return value


def _bad_value(at: str, kind: str, value: object) -> ApiError:
    return _bad_field(at, f"Invalid value at '{at}' ({kind}), {json.dumps(value)}")


def _bad_field(at: str, message: str) -> ApiError:
    violation = {"field": at, "description": message}
    detail = {"@type": f"{_TYPES}/google.rpc.BadRequest", "fieldViolations": [violation]}
    return ApiError(400, message, detail)


def _place(at: str) -> str:
    return f" at '{at}'" if at else ""


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)
