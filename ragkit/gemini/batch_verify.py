"""From the service's file of results to vectors on disk that are known to be the right ones.

The service has been seen returning results under wrong keys. Every key has to come once, every
vector has to be sound, and a sample of the texts is embedded again by the synchronous call. Five
of a part show with 97% that half of its keys are wrong, with 41% that a tenth is: who has reason
to doubt takes more.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ragkit.embeddings import Embedder, Vectors, embed_documents
from ragkit.errors import AuthError
from ragkit.gemini.batch_lines import SAMPLE_SIZE, Results, read_results
from ragkit.gemini.batch_service import BatchService, NotThere
from ragkit.gemini.batch_state import BatchPart, JobFolder

_SAME = 0.99  # cosine of two vectors of one text
_MORE = 10  # times the sample where keys were mixed up
_BYTES_PER_NUMBER = 30
_GONE = "its results are no longer there, the service keeps them for 48 hours"


def collect_part(
    folder: JobFolder,
    number: int,
    part: BatchPart,
    service: BatchService,
    embedder: Embedder,
    *,
    sample: int,
    seed: int,
) -> BatchPart:
    """Download, check and keep the results of a part; returns what has become of it.

    Raises:
        EmbeddingError: The service cannot be reached or refuses; nothing has changed.
    """
    keys = folder.keys(number)
    path = folder.download(number)
    service.get(str(part.batch))  # the key is good: what is refused below is gone
    try:
        size = len(keys) * embedder.dim * _BYTES_PER_NUMBER
        service.download(str(part.results), path, most_bytes=size)
    except (NotThere, AuthError):
        return replace(part, state="expired", reason=_GONE)
    scratch = path.with_suffix(".unverified")
    shape = (len(keys), embedder.dim)
    vectors = np.memmap(scratch, np.float32, mode="w+", shape=shape)
    results = read_results(path, keys, vectors)
    checked, disagreement = _verify(
        folder.sample(number), keys, results, embedder, size=sample, seed=seed
    )
    if disagreement:
        scratch.unlink()
        return replace(part, state="refused", reason=disagreement, checked=checked)
    vectors.flush()
    failed = {key: service.redact(reason) for key, reason in results.failed.items()}
    folder.write_failed(number, failed)
    scratch.replace(folder.vectors(number))
    return replace(
        part,
        state="collected",
        good=len(keys) - len(results.failed),
        billed_tokens=results.billed_tokens,
        checked=checked,
    )


def _verify(
    candidates: Sequence[tuple[str, str, str]],
    keys: Mapping[str, str],
    results: Results,
    embedder: Embedder,
    *,
    size: int,
    seed: int,
) -> tuple[int, str | None]:
    """Embed some texts again; returns how many, and what disagrees."""
    if len(results.failed) == len(keys) or size == 0:
        return 0, None
    wanted = min(size * _MORE if results.suspect else size, SAMPLE_SIZE)
    good = [each for each in candidates if each[0] not in results.failed]
    if not good:
        return 0, f"all of {len(candidates)} texts drawn to verify it by have failed"
    chosen = random.Random(seed).sample(good, min(wanted, len(good)))  # noqa: S311
    rows = {key: row for row, key in enumerate(keys)}
    came = results.vectors[[rows[key] for key, _, _ in chosen]]
    cosines = _cosines(came, chosen, embedder)
    wrong = int((cosines < _SAME).sum())
    if not wrong:
        return len(chosen), None
    return len(chosen), (
        f"{wrong} of {len(chosen)} texts that were embedded again got another vector (cosine "
        f"{cosines.min():.2f}): the service returned results under wrong keys"
    )


def _cosines(came: Vectors, chosen: Sequence[tuple[str, str, str]], embedder: Embedder) -> Vectors:
    texts, titles = [text for _, _, text in chosen], [title for _, title, _ in chosen]
    again = embed_documents(embedder, texts, titles=titles)
    cosines: Vectors = np.einsum("ij,ij->i", came, again)
    return cosines
