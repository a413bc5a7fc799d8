"""`ragkit search`: a question on the command line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkit.cli_support import (
    DONE,
    CollectionName,
    Db,
    Json,
    Tenant,
    as_data,
    emit,
    existing,
    exits,
    store,
)

if TYPE_CHECKING:
    from ragkit.explain import Explanation
    from ragkit.hits import Hits
    from ragkit.search_options import SearchKeywords


@exits
def search(
    query: Annotated[str, typer.Argument(help="What you look for, in your words.")],
    db: Db = None,
    collection: CollectionName = None,
    limit: Annotated[int | None, typer.Option(help="How many hits.  [default: 5]", min=1)] = None,
    mode: Annotated[
        str | None, typer.Option(help="dense, sparse or hybrid.  [default: the best there is]")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only passages like this: 'source=docs/*', 'year>=2024'; repeatable."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Neighbouring chunks to show on either side.", min=0)
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="The best hit of each value of a key, such as source.")
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(help="0 for the most relevant, to 1 for the most diverse.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="What meaning and words count in hybrid mode, as 1:3.")
    ] = None,
    oversampling: Annotated[
        float | None, typer.Option(help="Candidates to rescore per hit, when quantized.")
    ] = None,
    rescore: Annotated[
        bool | None, typer.Option("--rescore/--no-rescore", help="With the original vectors.")
    ] = None,
    exact: Annotated[bool, typer.Option(help="Compare with every vector.")] = False,
    full: Annotated[bool, typer.Option(help="Print whole passages.")] = False,
    explain: Annotated[bool, typer.Option(help="Tell what each stage brought.")] = False,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Find the passages that answer a question best."""
    from ragkit.console import print_explanation, print_hits
    from ragkit.errors import EmbedderUnavailable
    from ragkit.retriever import Retriever
    from ragkit.search_flow import UnindexedFilter
    from ragkit.where import parse_where

    options: SearchKeywords = {
        "limit": limit,
        "mode": mode,  # type: ignore[typeddict-item]  # checked by Retriever
        "filter": parse_where(where) if where else None,
        "context": context,
        "group_by": group_by,
        "diversity": diversity,
        "weights": _weights(weights),
        "oversampling": oversampling,
        "rescore": rescore,
        "exact": exact or None,
    }
    with store(db) as client:
        docs = existing(client, collection, tenant=tenant)
        retriever = Retriever(docs, limit=5)
        told: Explanation | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnindexedFilter)  # it is one of the notes, too
                if explain:
                    told = retriever.explain(query, **options)
                hits = retriever.search(query, **options) if told is None else told.hits
        except EmbedderUnavailable as exc:
            exc.add_note("or search by keywords alone: --mode sparse")
            raise
        if as_json:
            emit(_as_json(query, hits, told))
        else:
            print_hits(hits, query=query, bm25=docs.bm25, full=full)
            if told is not None:
                print_explanation(told)
    return DONE


def _weights(given: str | None) -> dict[str, float] | None:
    if given is None:
        return None
    try:
        dense, sparse = map(float, given.split(":"))
    except ValueError as exc:
        raise typer.BadParameter(
            f"expected --weights as MEANING:WORDS, such as 1:3, got {given!r}"
        ) from exc
    return {"dense": dense, "sparse": sparse}


def _as_json(query: str, hits: Hits, told: Explanation | None) -> dict[str, Any]:
    listed = [{**(as_data(hit) or {}), "citation": str(hit.citation)} for hit in hits]
    document: dict[str, Any] = {"query": query, "hits": listed, "notes": list(hits.notes)}
    if told is not None:
        document["options"] = dict(told.origins)
        document["request"] = told.request_data
        document["stages"] = [as_data(stage) for stage in told.stages]
    return document
