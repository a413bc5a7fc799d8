"""As much of what was found as a prompt has room for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ragkit.chunks import beginning
from ragkit.passages import DocumentKey, Found, Passage, document_of, own_passage, united, widest
from ragkit.tokens import estimate_tokens

MIN_TOKEN_BUDGET = 32  # a citation takes about twenty, and a few words have to go with it
# A text of this length that stands in another passage, too, is a copy; a shorter one may be chance.
_COPY_CHARS = 80


class Passages(list[Passage]):
    """Passages for a prompt, best first.

    Attributes:
        tokens: What they take of it, estimated, each with a line for its citation.
        notes: What went otherwise than asked for, in sentences. Empty as a rule.
    """

    def __init__(
        self, passages: Iterable[Passage] = (), *, tokens: int = 0, notes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(passages)
        self.tokens = tokens
        self.notes = notes


def pack(found: Iterable[Found | Passage], token_budget: int) -> Passages:
    """Take of the best as much as a prompt has room for, no text twice.

    One after the other is taken that still fits, with its context or else without; what overlaps
    or follows a passage of its document is joined to it. What stands in another passage already,
    in a copy of the document for one, is left out. Where not even the first fits, its beginning
    is taken, up to the end of a line, a sentence or a word.

    Args:
        found: Hits or passages, best first: in this order they are taken.
        token_budget: The most that all of it may take, by `Passage.tokens`.

    Returns:
        Passages in the order of the best that is in each.

    Raises:
        ValueError: The budget is too small for any passage.
    """
    if not isinstance(token_budget, int | float) or not token_budget >= MIN_TOKEN_BUDGET:
        raise ValueError(
            f"expected a token_budget of at least {MIN_TOKEN_BUDGET}, got {token_budget!r}: "
            "less does not hold a citation and a sentence"
        )
    packing = _Packing(token_budget)
    for each in found:
        packing.take(each)
    return packing.packed()


@dataclass(frozen=True, slots=True)
class _Taken:
    """A passage in a pack; the least rank comes first."""

    rank: int
    tokens: int
    passage: Passage


class _Packing:
    """Fills a budget, passage by passage."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._tokens = 0
        self._seen = 0
        self._texts: set[str] = set()
        self._taken: dict[DocumentKey, list[_Taken]] = {}
        self._notes: tuple[str, ...] = ()

    def take(self, found: Found | Passage) -> None:
        """Take one more if it fits."""
        self._seen += 1
        own = own_passage(found)
        if self._repeats(own):
            return
        if self._fit(widest(found)) or self._fit(own):
            self._texts.add(own.text)
        elif not self._taken:
            self._take_beginning(own)

    def packed(self) -> Passages:
        """What was taken."""
        if self._seen and not self._taken:
            self._notes = (f"no passage fits into {self._budget} tokens with its citation",)
        taken = (each for of_document in self._taken.values() for each in of_document)
        ranked = sorted(taken, key=lambda each: each.rank)
        return Passages((each.passage for each in ranked), tokens=self._tokens, notes=self._notes)

    def _fit(self, passage: Passage) -> bool:
        """Take a passage, joined to those of its document that it touches, if there is room."""
        rank, spent, apart = self._seen, self._tokens, []
        for each in self._taken.get(document_of(passage), ()):
            if (joint := united(each.passage, passage)) is None:
                apart.append(each)
            else:
                passage = joint
                rank = min(rank, each.rank)
                spent -= each.tokens
        # Counted anew, for the white space between two parts is text, too.
        tokens = passage.tokens
        if spent + tokens > self._budget:
            return False
        self._taken[document_of(passage)] = [*apart, _Taken(rank, tokens, passage)]
        self._tokens = spent + tokens
        return True

    def _take_beginning(self, passage: Passage) -> None:
        cut = _beginning(passage, self._budget)
        if cut is not None and self._fit(cut):
            self._texts.add(passage.text)
            self._notes = (
                f"the first passage is cut: it takes about {passage.tokens} tokens, and the "
                f"budget is {self._budget}",
            )

    def _repeats(self, own: Passage) -> bool:
        if own.text in self._texts:
            return True
        return len(own.text) >= _COPY_CHARS and any(
            own.text in each.passage.text and united(each.passage, own) is None
            for of_document in self._taken.values()
            for each in of_document
        )


def _beginning(passage: Passage, budget: int) -> Passage | None:
    """As much of a passage as a budget holds beside the citation; None if that is nothing."""
    room = budget - estimate_tokens(f"{passage.citation}\n\n\n")
    text = beginning(passage.text, room) if room > 0 else ""
    if not text:
        return None
    # The citation of a shorter text is no longer than that of the whole.
    return replace(passage, text=text, end=passage.start + len(text), ordinals=())
