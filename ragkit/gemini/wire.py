"""One call of the embedding API: what is sent for some texts, and what comes back, as data.

The SDK's typed call has one title and one task for all texts. Each text's own title goes through
`extra_body`, which replaces the request list of the same single call with one that REST documents,
an `EmbedContentRequest` per text. The typed alternative, a call per distinct title, would be a
round trip for nearly every chunk, for a title holds the chunk's headings; it also costs three
times the processor time in the SDK's validation. What guards against an SDK that one day ignores
`extra_body`: the call then holds one text and the reply one vector, too few. A call of one text
is typed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ragkit.embeddings import Vectors, checked_vectors
from ragkit.errors import EmbeddingError
from ragkit.gemini.models import DOCUMENT, PREFIXES, ModelProfile
from ragkit.tokens import TokenIndex

if TYPE_CHECKING:
    from google.genai.types import EmbedContentResponse

MAX_TEXTS = 100  # a call; the service's own limit
_MAX_BYTES = 3_000_000  # a call; the service takes 4 MiB
_BYTES_PER_CHARACTER = 12  # of JSON, for one beyond the first plane
_SHORT = 2_000  # characters
_BYTES_PER_TEXT = 250  # of JSON around each text


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text to embed, with what it is for.

    Attributes:
        text: As it stands in the document.
        title: Of documents alone.
        task_type: Gemini's name of what the vector is for.
    """

    text: str
    task_type: str
    title: str = ""

    @property
    def wire_bytes(self) -> int:
        """What it takes in a call, at the most; the SDK escapes all that is not ASCII."""
        if len(self.text) < _SHORT:  # a hundred of them fit, whatever they hold
            return _BYTES_PER_CHARACTER * len(self.text + self.title) + _BYTES_PER_TEXT
        return len(json.dumps(self.text)) + len(json.dumps(self.title)) + _BYTES_PER_TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A good reply.

    Attributes:
        vectors: Unit vectors, shape (texts, dim), in order.
        billed_tokens: None if the reply says nothing of them.
    """

    vectors: Vectors
    billed_tokens: int | None


def body(text: Text, profile: ModelProfile, *, dim: int) -> dict[str, Any]:
    """The `EmbedContentRequest` of a text, without the model's name."""
    written = conditioned(text, profile)
    request: dict[str, Any] = {"content": {"parts": [{"text": written}]}}
    if profile.form == "fields":
        request["taskType"] = text.task_type
        if title := _title_field(text, profile):
            request["title"] = title
    return request | {"outputDimensionality": dim}


def conditioned(text: Text, profile: ModelProfile) -> str:
    """The text as the model is to read it: with a prefix, if that is its form."""
    plain = _without_surrogates(text.text)
    if profile.form == "fields":
        return plain
    if text.task_type == DOCUMENT:
        return f"title: {_without_surrogates(text.title) or 'none'} | text: {plain}"
    return f"task: {PREFIXES[text.task_type]} | query: {plain}"


def arguments(
    texts: Sequence[Text], profile: ModelProfile, *, model: str, dim: int, timeout_s: float
) -> dict[str, Any]:
    """The arguments of `models.embed_content` for one call."""
    from google.genai import types

    first = texts[0]
    requests = [{"model": f"models/{model}", **body(text, profile, dim=dim)} for text in texts]
    fields = profile.form == "fields"
    return {
        "model": model,
        # A `Content` each: plain strings would be merged into one by models after the first.
        "contents": [types.Content(parts=[types.Part(text=conditioned(first, profile))])],
        "config": types.EmbedContentConfig(
            task_type=first.task_type if fields else None,
            title=_title_field(first, profile) or None,
            output_dimensionality=dim,
            http_options=types.HttpOptions(
                timeout=max(1, round(timeout_s * 1000)),
                # Once: ragkit has its own loop, and without this the SDK repeats under aiohttp.
                retry_options=types.HttpRetryOptions(attempts=1),
                extra_body={"requests": requests} if len(texts) > 1 else None,
            ),
        ),
    }


def vertex_arguments(
    texts: Sequence[Text], profile: ModelProfile, *, model: str, dim: int, timeout_s: float
) -> dict[str, Any]:
    """As `arguments`, on Vertex AI: one text a call, and too long a text is refused, not cut."""
    (text,) = texts
    given = arguments([text], profile, model=model, dim=dim, timeout_s=timeout_s)
    given["config"].auto_truncate = False
    return given


def parsed(reply: EmbedContentResponse, *, shape: tuple[int, int], model: str) -> Reply:
    """Check a reply.

    Raises:
        EmbeddingError: Anything but one finite, non-zero vector of the width asked for per text.
    """
    embeddings = reply.embeddings or []
    if len(embeddings) != shape[0]:
        raise EmbeddingError(f"{model}: expected {shape[0]} vectors, got {len(embeddings)}")
    values = [each.values or [] for each in embeddings]
    if wrong := next((len(each) for each in values if len(each) != shape[1]), None):
        raise EmbeddingError(f"{model}: expected vectors {shape[1]} wide, got one {wrong} wide")
    vectors = checked_vectors(values, shape=shape, origin=model)
    return Reply(vectors=vectors, billed_tokens=_billed(reply))


def measure(texts: Sequence[Text]) -> list[int]:
    """The estimated tokens of each text with its title, as `estimate_tokens` counts the two."""
    # One pass over all: a pass for each costs more than what it measures. The line feed between
    # them ends any run of letters, so that each counts as it does alone.
    parts = [part for text in texts for part in (text.title, text.text)]
    ends = list(accumulate(len(part) + 1 for part in parts))
    index = TokenIndex("\n".join(parts))
    counts = [
        index.count(end - 1 - len(part), end - 1) for part, end in zip(parts, ends, strict=True)
    ]
    return [title + text for title, text in zip(counts[::2], counts[1::2], strict=True)]


def plan_calls(texts: Sequence[Text], *, most: int) -> list[list[int]]:
    """Divide texts into calls of at most so many and about 3 MB, evenly; as their indexes."""
    if not texts:
        return []
    size = -(-len(texts) // -(-len(texts) // most))
    calls: list[list[int]] = [[]]
    held = 0
    for index, text in enumerate(texts):
        held += text.wire_bytes
        if len(calls[-1]) == size or (calls[-1] and held > _MAX_BYTES):
            calls.append([])
            held = text.wire_bytes
        calls[-1].append(index)
    return calls


def _billed(reply: EmbedContentResponse) -> int | None:
    # SDK 2 does not know the field in every version.
    usage = getattr(reply, "usage_metadata", None)
    if usage is not None and usage.prompt_token_count is not None:
        return int(usage.prompt_token_count)
    counts = [e.statistics.token_count if e.statistics else None for e in reply.embeddings or []]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if counts and len(known) == len(counts) else None


def _title_field(text: Text, profile: ModelProfile) -> str:
    if profile.form == "prefix" or text.task_type != DOCUMENT:
        return ""
    return _without_surrogates(text.title)


def _without_surrogates(text: str) -> str:
    """Half a character, which no JSON reader has to accept, becomes a replacement character."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
