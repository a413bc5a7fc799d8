"""Bring your own embedder: anything that turns texts into vectors and says what it is.

This one averages a few hand-made word vectors, so that "car" is found when "automobile" is asked
for. Put a model of yours in its place; ragkit checks its vectors and scales them to unit length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import ragkit

MEANINGS = ["vehicle", "fruit", "animal", "other"]
WORDS = {
    "car": "vehicle", "automobile": "vehicle", "lorry": "vehicle", "banana": "fruit",
    "pear": "fruit", "walrus": "animal", "seal": "animal",
}  # fmt: skip


class Meanings:
    """Counts what a text is about, in four dimensions."""

    dim = len(MEANINGS)
    max_tokens = 512
    fingerprint = "example-meanings-1 dim=4"  # change it whenever the vectors change

    def embed_documents(
        self, texts: Sequence[str], *, titles: Sequence[str]
    ) -> NDArray[np.float32]:
        """Embed passages, each with its title."""
        pairs = zip(texts, titles, strict=True)
        return np.stack([self.embed_query(f"{title} {text}") for text, title in pairs])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query."""
        vector = np.zeros(self.dim, np.float32)
        vector[MEANINGS.index("other")] = 0.1
        for word in text.lower().split():
            if word.strip(".,?!s") in WORDS:
                vector[MEANINGS.index(WORDS[word.strip(".,?!s")])] += 1.0
        return vector


def main() -> None:
    """Ask for automobiles and get the car."""
    documents = [
        ragkit.Document(source="garage.txt", title="Garage", text="The car needs new tyres."),
        ragkit.Document(source="kitchen.txt", title="Kitchen", text="The banana is ripe."),
        ragkit.Document(source="coast.txt", title="Coast", text="A walrus sleeps on the ice."),
    ]
    with tempfile.TemporaryDirectory() as folder, ragkit.EdgeClient(folder) as client:
        docs = ragkit.Collection(client, "things", embedder=Meanings())
        ragkit.Indexer(docs).add(documents)
        for query in ("automobiles", "a seal or some other animal"):
            (hit,) = ragkit.Retriever(docs).search(query, mode="dense", limit=1)
            print(f"{query}: {hit.text} ({hit.source}, {hit.score:.2f})")


if __name__ == "__main__":
    main()
