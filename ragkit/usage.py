"""What embedding has used, and what it would use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an embedder has used since it was made.

    Attributes:
        texts: Texts embedded; one that came from the query cache is not counted.
        estimated_tokens: Of those, titles included.
        billed_tokens: As the replies say; None if none did.
        calls: Requests sent, failed ones included.
        retries: How many of them repeated one that had failed.
        waited_s: Wall time in which at least one call waited for the pace or before a retry.
        cost_usd: Billed tokens at the table's price, estimated ones where a reply gave no number;
            None if the price is not known.
        near_limit: Texts within a tenth of what the model reads; a longer one is refused.
    """

    texts: int
    estimated_tokens: int
    billed_tokens: int | None
    calls: int
    retries: int
    waited_s: float
    cost_usd: float | None
    near_limit: int

    def since(self, before: Usage) -> Usage:
        """What has been used since an earlier reading."""
        billed = self.billed_tokens
        cost = self.cost_usd
        return Usage(
            texts=self.texts - before.texts,
            estimated_tokens=self.estimated_tokens - before.estimated_tokens,
            billed_tokens=None if billed is None else billed - (before.billed_tokens or 0),
            calls=self.calls - before.calls,
            retries=self.retries - before.retries,
            waited_s=self.waited_s - before.waited_s,
            cost_usd=None if cost is None else cost - (before.cost_usd or 0.0),
            near_limit=self.near_limit - before.near_limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What embedding would cost.

    Attributes:
        cost_usd: At the table's price; None if it is not known.
        minutes: The time that the quotas imply, at the least.
    """

    cost_usd: float | None
    minutes: float


class UsageMeter:
    """Counts for several threads at once."""

    def __init__(self, usd_per_million: float | None) -> None:
        self._usd_per_million = usd_per_million
        self._lock = threading.Lock()
        self._texts = self._estimated = self._attempts = self._retries = self._near_limit = 0
        self._billed: int | None = None
        self._unbilled = 0  # estimated tokens of replies that say nothing of theirs
        self._waiting = 0
        self._waited_s = self._waiting_since = 0.0

    def snapshot(self) -> Usage:
        """The counts as they are now."""
        with self._lock:
            return Usage(
                texts=self._texts,
                estimated_tokens=self._estimated,
                billed_tokens=self._billed,
                calls=self._attempts,
                retries=self._retries,
                waited_s=self._waited_s,
                cost_usd=cost_usd(self._usd_per_million, (self._billed or 0) + self._unbilled),
                near_limit=self._near_limit,
            )

    def attempt(self, *, again: bool) -> None:
        """Count a request sent, and whether it repeats one that failed."""
        with self._lock:
            self._attempts += 1
            self._retries += again

    def embedded(self, *, texts: int, tokens: int, billed: int | None, near_limit: int) -> None:
        """Count a good reply."""
        with self._lock:
            self._texts += texts
            self._estimated += tokens
            self._near_limit += near_limit
            if billed is None:
                self._unbilled += tokens
            else:
                self._billed = (self._billed or 0) + billed

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside, once however many wait together."""
        with self._lock:
            if self._waiting == 0:
                self._waiting_since = time.monotonic()
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if self._waiting == 0:
                    self._waited_s += time.monotonic() - self._waiting_since


def cost_usd(usd_per_million: float | None, tokens: int) -> float | None:
    """The price of so many tokens; None if it is not known."""
    return None if usd_per_million is None else tokens * usd_per_million / 1e6
