"""The connection to Gemini: whose key, which address, and nothing that follows a redirect."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ragkit.errors import AuthError, require

if TYPE_CHECKING:
    from google import genai

API_VERSION = "v1"  # pinned: SDK 2 defaults to v1beta, SDK 3 to v1
KEY_VARIABLES = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # in the SDK's order of precedence

_logger = logging.getLogger(__name__)
# Google's messages name the consumer by its key: "Consumer 'api_key:…' has been suspended".
_KEY_LIKE = re.compile(r"AIza[\w-]{10,}|AQ\.[\w-]{10,}|(?<=api_key:)[^\s'\"]+")
_HIDDEN = "[key]"


class Secret:
    """A string that shows itself to nobody who does not ask."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a secret is not pickled")

    def reveal(self) -> str:
        """The string."""
        return self._value

    def redact(self, text: str) -> str:
        """The text without it, and without whatever else looks like a key."""
        if self._value:
            text = text.replace(self._value, _HIDDEN)
        return _KEY_LIKE.sub(_HIDDEN, text)


def find_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The key that the environment has, as the SDK would choose it; None if there is none."""
    environment = os.environ if environment is None else environment
    for name in KEY_VARIABLES:
        if key := environment.get(name, "").strip():
            return key
    return None


def checked_key(given: Secret | None) -> Secret:
    """The key that was given, or the environment's.

    Raises:
        AuthError: There is none, or it cannot be one.
    """
    secret = given or Secret(find_key() or "")
    if not secret.reveal():
        raise AuthError(
            "no Gemini API key: set GEMINI_API_KEY (https://aistudio.google.com/apikey), or pass "
            "api_key=… or client=…"
        )
    if not re.fullmatch(r"[!-~]+", secret.reveal()):
        # Not sent: a header with such a value fails with a message that shows it.
        raise AuthError("expected a Gemini API key of printable ASCII without spaces")
    return secret


def connect(secret: Secret) -> genai.Client:
    """A client of the Gemini Developer API that retries nothing and follows no redirect.

    The address is Google's, or that of GOOGLE_GEMINI_BASE_URL, which is logged. A redirect would
    carry the key to another origin. GOOGLE_GENAI_USE_VERTEXAI does not turn it to Vertex AI, which
    has other limits and prices: who wants that passes a client of their own.
    """
    sdk = require("google.genai", "gemini")
    types = require("google.genai.types", "gemini")
    if address := os.environ.get("GOOGLE_GEMINI_BASE_URL"):
        _logger.warning(
            "Gemini calls and the key go to %s, as GOOGLE_GEMINI_BASE_URL says", address
        )
    direct = {"follow_redirects": False}
    # aiohttp, which the SDK prefers for coroutines where it is installed, has another word for it.
    direct_async = direct | ({"allow_redirects": False} if find_spec("aiohttp") else {})
    client: genai.Client = sdk.Client(
        vertexai=False,
        api_key=secret.reveal(),
        http_options=types.HttpOptions(
            api_version=API_VERSION,
            client_args=direct | {"event_hooks": {"response": [_limit_body]}},
            async_client_args=direct_async,
        ),
    )
    return client


def key_of(client: genai.Client) -> Secret:
    """The key of a client, to keep it out of messages; the SDK has no public word for it."""
    key = getattr(getattr(client, "_api_client", None), "api_key", None)
    return Secret(key if isinstance(key, str) else "")


def _limit_body(response: Any) -> None:
    """Let a reply's body take no longer in all than its timeout allows for one read.

    The HTTP library's timeout is for each read: a body that dribbles in would never meet it. A
    hook is given the response before the body is read; whether it is httpx's or httpx2's is the
    SDK's choice.
    """
    limit_s = response.request.extensions.get("timeout", {}).get("read")
    if limit_s is None:
        return
    library: Any = sys.modules[type(response).__module__.partition(".")[0]]
    stream, until = response.stream, time.monotonic() + limit_s

    class Limited(library.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for part in stream:
                if time.monotonic() > until:
                    raise library.ReadTimeout(f"the body took more than {limit_s:.0f} s")
                yield part

        def close(self) -> None:
            stream.close()

    response.stream = Limited()
