"""What ragkit knows of Gemini's embedding models, in one table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from ragkit.errors import ModelNotFound

Form: TypeAlias = Literal["fields", "prefix"]

# The query side of each task, as the model's field and as its prefix. Their documents are all
# embedded as RETRIEVAL_DOCUMENT.
QUERY_SIDES = {
    "retrieval": "RETRIEVAL_QUERY",
    "code retrieval": "CODE_RETRIEVAL_QUERY",
    "question answering": "QUESTION_ANSWERING",
    "fact verification": "FACT_VERIFICATION",
}
DOCUMENT = "RETRIEVAL_DOCUMENT"

# https://ai.google.dev/gemini-api/docs/embeddings: what stands after "task:".
PREFIXES = {
    "RETRIEVAL_QUERY": "search result",
    "CODE_RETRIEVAL_QUERY": "code retrieval",
    "QUESTION_ANSWERING": "question answering",
    "FACT_VERIFICATION": "fact checking",
    "SEMANTIC_SIMILARITY": "sentence similarity",
    "CLASSIFICATION": "classification",
    "CLUSTERING": "clustering",
}
TASK_TYPES = (DOCUMENT, *PREFIXES)

_RECOMMENDED_DIMS = (768, 1536, 3072)
_PREFIX_TOKENS = 16  # the longest prefix, by the estimator


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """One model.

    Attributes:
        form: How it is told what a text is for: by `taskType` and `title` fields, or by a prefix
            of the text (it ignores the fields).
        max_tokens: What it reads of a text; the rest it cuts without a word.
        usd_per_million: Price of a million input tokens; None where it is not known.
        successor: The model to use instead, if this one has been shut down.
        shut_down: When that was.
    """

    form: Form
    max_tokens: int
    usd_per_million: float | None
    successor: str | None = None
    shut_down: str | None = None

    @property
    def text_tokens(self) -> int:
        """What is left of `max_tokens` for title and text."""
        return self.max_tokens - (_PREFIX_TOKENS if self.form == "prefix" else 0)


_OLD = ModelProfile(
    form="fields",
    max_tokens=2048,
    usd_per_million=None,
    successor="gemini-embedding-001",
    shut_down="October 2025",
)
MODELS = {
    "gemini-embedding-001": ModelProfile(form="fields", max_tokens=2048, usd_per_million=0.15),
    "gemini-embedding-2": ModelProfile(form="prefix", max_tokens=8192, usd_per_million=0.20),
    "text-embedding-004": ModelProfile(
        form="fields",
        max_tokens=2048,
        usd_per_million=None,
        successor="gemini-embedding-001",
        shut_down="January 2026",
    ),
    "embedding-001": _OLD,
    "gemini-embedding-exp-03-07": _OLD,
    "gemini-embedding-exp": _OLD,
}


def model_profile(model: str) -> ModelProfile:
    """The profile of a model; of one that is not in the table, an assumed one, with a warning.

    Raises:
        ModelNotFound: It has been shut down; the message names its successor.
    """
    profile = MODELS.get(model)
    if profile is None and model.startswith("gemini-embedding-exp"):
        profile = _OLD
    if profile is None:
        return _assumed(model)
    if profile.successor:
        raise ModelNotFound(
            f"{model} was shut down in {profile.shut_down}: use {profile.successor} "
            "(its vectors do not mix with those of other models: index again)"
        )
    return profile


def check_dim(dim: int) -> None:
    """Check a dimension; one that is allowed and not recommended gives a warning, once.

    Raises:
        ValueError: It is out of range.
    """
    if not 128 <= dim <= 3072:
        raise ValueError(f"expected dim from 128 to 3072, got {dim}")
    if dim not in _RECOMMENDED_DIMS:
        _warn_once(f"dim={dim} works, but Gemini's models are recommended at 768, 1536 or 3072")


def _assumed(model: str) -> ModelProfile:
    # The SDK, too, takes every Gemini embedding model after the first to read prefixes.
    form: Form = "prefix" if "gemini" in model else "fields"
    how = "its task from a prefix of the text" if form == "prefix" else "taskType and title fields"
    _warn_once(
        f"{model!r} is not among the models that ragkit knows ({', '.join(_current())}): it is "
        f"assumed to read {how}, and 2,048 tokens of a text; its price is not known"
    )
    return ModelProfile(form=form, max_tokens=2048, usd_per_million=None)


def _current() -> list[str]:
    return [name for name, profile in MODELS.items() if not profile.successor]


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)
