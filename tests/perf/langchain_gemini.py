"""Embed passages with LangChain's GoogleGenerativeAIEmbeddings and print the seconds it took.

Run by `test_perf_gemini` with the interpreter of an environment that has langchain-google-genai,
which does not go with the newest google-genai. Arguments: address, key, number of passages.
"""

from __future__ import annotations

import sys
import time

from langchain_google_genai import GoogleGenerativeAIEmbeddings


def main(address: str, key: str, count: str) -> None:
    embedder = GoogleGenerativeAIEmbeddings(
        model="gemini-embedding-001",
        google_api_key=key,
        base_url=address,
        output_dimensionality=768,
    )
    texts = [f"{i} " + "words of a passage about rotating keys " * 20 for i in range(int(count))]
    embedder.embed_documents(texts[:100])  # imports and connects
    started = time.perf_counter()
    vectors = embedder.embed_documents(texts)
    seconds = time.perf_counter() - started
    assert len(vectors) == len(texts)
    print(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
