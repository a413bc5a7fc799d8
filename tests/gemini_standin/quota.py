"""Quotas as the API counts them: contents and tokens per minute, contents per day, by model."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from gemini_standin.wire import ApiError

_TYPES = "type.googleapis.com/google.rpc"
_METRICS = "generativelanguage.googleapis.com"
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """So many of something in each window of time.

    Attributes:
        quota_id: As the API calls it; how long the window is stands nowhere else in a 429.
    """

    quota_id: str
    metric: str
    value: int
    window_s: float
    of_tokens: bool = False


def per_minute(contents: int, window_s: float) -> Limit:
    """The quota of contents per minute."""
    return _limit("EmbedContentPerMinutePerProject", "requests", contents, window_s)


def per_day(contents: int) -> Limit:
    """The quota of contents per day."""
    return _limit("EmbedContentPerDayPerProject", "requests", contents, DAY_S)


def tokens_per_minute(tokens: int, window_s: float) -> Limit:
    """The quota of tokens per minute."""
    name = "EmbedContentTokensPerMinutePerProject"
    return _limit(name, "input_token_count", tokens, window_s, of_tokens=True)


def _limit(
    name: str,
    what: str,
    value: int,
    window_s: float,
    *,
    of_tokens: bool = False,
) -> Limit:
    return Limit(
        quota_id=f"{name}PerUserPerModel-PaidTier",
        metric=f"{_METRICS}/embed_content_paid_tier_{what}",
        value=value,
        window_s=window_s,
        of_tokens=of_tokens,
    )


class Quota:
    """Counts what was admitted, in windows that begin with a model's first call."""

    def __init__(self, *limits: Limit) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], tuple[float, int]] = defaultdict(
            lambda: (-math.inf, 0)
        )

    def admit(self, model: str, *, contents: int, tokens: int) -> None:
        """Count a call, all of its contents or none.

        Raises:
            ApiError: It would exceed a limit; nothing was counted.
        """
        now = time.monotonic()
        with self._lock:
            counts = {}
            exceeded = {}
            for limit in self._limits:
                begin, used = self._windows[model, limit.quota_id]
                if now - begin >= limit.window_s:
                    begin, used = now, 0
                used += tokens if limit.of_tokens else contents
                counts[model, limit.quota_id] = (begin, used)
                if used > limit.value:
                    exceeded[limit] = begin + limit.window_s - now
            if exceeded:
                raise exhausted(exceeded, model)
            self._windows.update(counts)


def exhausted(waits: dict[Limit, float], model: str) -> ApiError:
    """The 429 for limits, each with the seconds until it admits calls again."""
    # A day's quota comes back tomorrow; the API suggests seconds all the same.
    wait_s = max((min(wait, 60.0) for wait in waits.values()), default=0.0)
    return exhausted_error(
        wait_s,
        [
            {
                "quotaMetric": limit.metric,
                "quotaId": limit.quota_id,
                "quotaDimensions": {"location": "global", "model": model},
                "quotaValue": str(limit.value),
            }
            for limit in waits
        ],
    )


def exhausted_error(wait_s: float | None, violations: list[dict[str, Any]]) -> ApiError:
    """A 429 with the violated quotas, and a `RetryInfo` unless `wait_s` is None."""
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
    )
    details = [{"@type": f"{_TYPES}.QuotaFailure", "violations": violations}] if violations else []
    if wait_s is not None:
        message += f"\nPlease retry in {wait_s:.9g}s."
        # Whole seconds, rounded down, as seen: what waits exactly that long comes too early.
        shown = f"{math.floor(wait_s)}s" if wait_s >= 1 else f"{max(wait_s, 0.001):.3f}s"
        details.append({"@type": f"{_TYPES}.RetryInfo", "retryDelay": shown})
    return ApiError(429, message, *details)
