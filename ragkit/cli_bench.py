"""The measuring commands: `ragkit bench recall`, `quantization`, `dimensions` and the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkit.cli_bench_support import (
    OUT,
    Out,
    QueryFile,
    Sample,
    Seed,
    VectorFile,
    chunk_sizes,
    finish,
    measuring,
    numbers,
    queries_for,
    queries_of,
    rescoring,
    settings_given,
    shape,
    temporary_store,
    whole_numbers,
    words,
)
from ragkit.cli_support import (
    BELOW,
    DONE,
    CollectionName,
    Db,
    Json,
    Tenant,
    emit,
    existing,
    exits,
    store,
)

if TYPE_CHECKING:
    from ragkit.benchmark.judged import Judged
    from ragkit.benchmark.queries import Queries
    from ragkit.benchmark.recall import RecallRow
    from ragkit.benchmark.rows import Rows
    from ragkit.collection import Collection
    from ragkit.embeddings import Vectors

_RECALL_SAMPLE = 1_000
_LIMITS = "10,20,50,100"
_TARGET = 0.95

bench = typer.Typer(
    name="bench",
    help="Measure on your own data: recall, size, speed, quality.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Runs = Annotated[int, typer.Option(help="How often each is measured.", min=3)]
QrelsFile = Annotated[
    Path | None, typer.Option("--qrels", help="Which documents answer which queries.")
]
IdKey = Annotated[str, typer.Option(help="The payload key that holds the judgements' ids.")]
EmbedderKind = Annotated[
    str | None,
    typer.Option(help="gemini, local, none or hash.  [default: as ragkit index chooses]"),
]


@bench.command()
@exits
def recall(
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    queries: QueryFile = None,
    sample: Sample = None,
    limits: Annotated[str, typer.Option(help="How many hits, a list.")] = _LIMITS,
    oversampling: Annotated[
        str | None, typer.Option(help="A list.  [default: 1,2,3 where quantized]")
    ] = None,
    rescore: Annotated[
        str | None, typer.Option(help="both, on or off.  [default: both where quantized]")
    ] = None,
    ef: Annotated[
        str | None, typer.Option(help="Of hnsw_ef, a list.  [default: the collection's own]")
    ] = None,
    target: Annotated[float, typer.Option(help="The recall wanted.", min=0.0, max=1.0)] = _TARGET,
    fail_under: Annotated[
        float | None,
        typer.Option(
            help="Exit with 4 where recall is lower at any limit: of the default search, or of the "
            "best of the cells that --oversampling, --rescore and --ef ask for.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    runs: Runs = 3,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: Json = False,
) -> int:
    """Recall against exact search, and latency, by limit, oversampling and rescoring."""
    from ragkit.benchmark.recall import recall_sweep

    _one_of("--queries", queries, "--sample", sample)
    asked: dict[str, Sequence[Any] | None] = {
        "oversampling": None if oversampling is None else numbers("--oversampling", oversampling),
        "rescore": rescoring(rescore),
        "hnsw_ef": None if ef is None else whole_numbers("--ef", ef),
    }
    wanted = whole_numbers("--limits", limits)
    with store(db) as client, measuring() as progress:
        docs = existing(client, collection, tenant=tenant, asking=False)
        rows = recall_sweep(
            docs,
            queries_of(docs, queries),
            limits=wanted,
            target=target,
            sample=sample or _RECALL_SAMPLE,
            runs=runs,
            seed=seed,
            progress=progress,
            **asked,
        )
    finish(rows, out, as_json=as_json)
    return DONE if fail_under is None else _judged_by(rows, fail_under, asked)


@bench.command()
@exits
def quantization(
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    vectors: VectorFile = None,
    synthetic: Annotated[
        str | None, typer.Option(help="Made-up vectors like an embedding's, as 20000x1536.")
    ] = None,
    queries: QueryFile = None,
    sample: Sample = None,
    kinds: Annotated[
        str | None, typer.Option(help="A list, such as none,binary,turbo.  [default: all]")
    ] = None,
    limits: Annotated[str, typer.Option(help="How many hits, a list.")] = "10,100",
    oversampling: Annotated[str, typer.Option(help="A list.")] = "1,2,3",
    runs: Runs = 3,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: Json = False,
) -> int:
    """The same vectors under each quantization: recall, latency, size, time to build."""
    from ragkit.benchmark.quantizations import KINDS, quantization_sweep

    _one_of("--queries", queries, "--sample", sample)
    _one_of("--vectors", vectors, "--synthetic", synthetic)
    chosen = KINDS if kinds is None else words("--kinds", kinds)
    wanted, factors = whole_numbers("--limits", limits), numbers("--oversampling", oversampling)
    size = sample or 500
    with (
        _source(db, collection, tenant, vectors, synthetic, queries, seed, size) as (what, asked),
        measuring() as progress,
    ):
        rows = quantization_sweep(
            what,
            asked,
            kinds=chosen,
            limits=wanted,
            oversampling=factors,
            sample=size,
            runs=runs,
            seed=seed,
            progress=progress,
        )
    finish(rows, out, as_json=as_json)
    return DONE


@bench.command()
@exits
def dimensions(
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    vectors: VectorFile = None,
    queries: QueryFile = None,
    qrels: QrelsFile = None,
    id_key: IdKey = "source",
    sample: Sample = None,
    dims: Annotated[
        str | None,
        typer.Option(help="A list.  [default: 3072,2048,1536,768,512,256,128, if so wide]"),
    ] = None,
    price_per_gb: Annotated[
        float | None, typer.Option(help="Of a gigabyte for a month.", min=0.0)
    ] = None,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: Json = False,
) -> int:
    """What is left of vectors that are cut to fewer dimensions; nothing is embedded again."""
    from ragkit.benchmark.dimensions import dimension_sweep

    _one_of("--queries", queries if qrels is None else None, "--sample", sample)
    judged = None if qrels is None else _judged(queries, qrels, "--qrels")
    wanted = None if dims is None else whole_numbers("--dims", dims)
    file = queries if judged is None else None  # judged questions are those that are searched
    size = sample or 1_000
    with (
        _source(db, collection, tenant, vectors, None, file, seed, size) as (what, asked),
        measuring() as progress,
    ):
        rows = dimension_sweep(
            what,
            asked,
            dims=wanted,
            judged=judged,
            id_key=id_key,
            price_per_gb=price_per_gb,
            sample=size,
            seed=seed,
            progress=progress,
        )
    finish(rows, out, as_json=as_json)
    return DONE


@bench.command()
@exits
def quality(
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    queries: Annotated[
        Path | None, typer.Option(help="Questions with ids: .jsonl or .tsv; goes with --qrels.")
    ] = None,
    qrels: QrelsFile = None,
    beir: Annotated[
        Path | None,
        typer.Option(
            help="A folder in the layout of BEIR instead. Without --collection its corpus is "
            "indexed, to be thrown away afterwards."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --beir: train, dev or test.")] = "test",
    setting: Annotated[
        list[str] | None,
        typer.Option(help="Search options, as mode=hybrid,fusion=dbsf; repeatable.  [default: "
                     "each mode, and ways to fuse]"),
    ] = None,
    measures: Annotated[str | None, typer.Option(
        help="A list, of ir-measures.  [default: nDCG@10,R@10,RR@10,AP@100]")] = None,
    id_key: IdKey = "source",
    embedder: EmbedderKind = None,
    runs_to: Annotated[
        Path | None, typer.Option(help="A folder for the rankings, as TREC runs.")
    ] = None,
    out: Out = OUT,
    as_json: Json = False,
) -> int:  # fmt: skip
    """How well judged questions are answered, by mode and setting, with intervals."""
    from ragkit.benchmark.judged import read_judged
    from ragkit.benchmark.qualities import MEASURES
    from ragkit.benchmark.qualities import quality as measure

    _one_of("--beir", beir, "--queries", queries)
    judged = _judged(queries, qrels, "--beir") if beir is None else read_judged(beir, split=split)
    settings = settings_given(setting) if setting else None
    names = MEASURES if measures is None else words("--measures", measures)
    indexed = beir is not None and collection is None
    if embedder is not None and not indexed:
        raise typer.BadParameter("--embedder goes with --beir without --collection")
    opened = _indexed(judged, embedder) if indexed else _opened(db, collection, tenant)
    with opened as docs, measuring() as progress:
        rows = measure(
            docs,
            judged,
            settings=settings,
            measures=names,
            id_key=id_key,
            runs_to=runs_to,
            progress=progress,
        )
    finish(rows, out, as_json=as_json)
    return DONE


@bench.command()
@exits
def chunking(
    folder: Annotated[
        Path, typer.Argument(help="With corpora/, queries.jsonl and spans.tsv of their answers.")
    ],
    sizes: Annotated[
        str | None,
        typer.Option(help="Longest chunk and overlap in tokens, a list as 300/50,250/0."),
    ] = None,
    embedder: EmbedderKind = None,
    out: Out = OUT,
    as_json: Json = False,
) -> int:
    """How much of the text that answers is in the best chunks, by the chunks' size."""
    from ragkit.benchmark.chunkings import chunking as measure
    from ragkit.chunks import Chunker

    chunkers = None
    if sizes is not None:
        pairs = chunk_sizes("--sizes", sizes)
        chunkers = {
            label: Chunker(max_tokens=most, overlap=shared)
            for label, (most, shared) in pairs.items()
        }
    with temporary_store() as client, measuring() as progress:
        chosen = _embedder(client, embedder)
        rows = measure(folder, chunkers=chunkers, embedder=chosen, progress=progress)
    finish(rows, out, as_json=as_json)
    return DONE


@bench.command()
@exits
def report(
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    queries: QueryFile = None,
    sample: Sample = None,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: Json = False,
) -> int:
    """One HTML page of what is measured in a folder; recall is measured if nothing is there."""
    from ragkit.benchmark.files import KINDS, write_rows
    from ragkit.benchmark.recall import recall_sweep
    from ragkit.benchmark.report import write_report

    measured = [what for what in KINDS if (out / f"{what}.json").exists()]
    if measured and (collection or tenant or queries or sample):
        raise typer.BadParameter(
            f"{out} holds results already ({', '.join(measured)}), and the page is made of them: "
            "leave --collection, --tenant, --queries and --sample out, or name another --out"
        )
    if not measured:
        _one_of("--queries", queries, "--sample", sample)
        with _opened(db, collection, tenant) as docs, measuring() as progress:
            size = sample or _RECALL_SAMPLE
            asked = queries_of(docs, queries)
            rows = recall_sweep(docs, asked, sample=size, seed=seed, progress=progress)
        write_rows(rows, out)
    path = write_report(out)
    emit({"report": str(path)}) if as_json else typer.echo(str(path))
    return DONE


def _one_of(one: str, given: object, other: str, also: object) -> None:
    if given is not None and also is not None:
        raise typer.BadParameter(f"{one} and {other} exclude each other: leave one out")


def _judged_by(rows: Rows[RecallRow], least: float, asked: dict[str, Sequence[Any] | None]) -> int:
    """The exit code: whether recall is high enough at every limit; if not, it is said where."""
    code = DONE
    for limit in dict.fromkeys(row.limit for row in rows):
        judged = [row for row in rows if row.limit == limit and _is_judged(row, asked)]
        best = max(row.recall for row in judged)
        if best < least:
            typer.echo(
                f"limit {limit}: recall {best:.6f} is {least - best:.6f} below {least:g}", err=True
            )
            code = BELOW
    return code


def _is_judged(row: RecallRow, asked: dict[str, Sequence[Any] | None]) -> bool:
    """Of the cells asked for each; without any, the collection's own default search."""
    said = {name: values for name, values in asked.items() if values is not None}
    if not said:
        return row.current
    return all(getattr(row, name) in values for name, values in said.items())


def _judged(queries: Path | None, qrels: Path | None, instead: str) -> Judged:
    from ragkit.benchmark.judged import read_judged_files

    if queries is None or qrels is None:
        other = ", or --beir" if instead == "--beir" else ""
        raise typer.BadParameter(f"judged questions are --queries and --qrels together{other}")
    return read_judged_files(queries, qrels)


@contextmanager
def _opened(
    db: str | None, name: str | None, tenant: str | None, *, asking: bool = True
) -> Iterator[Collection]:
    with store(db) as client:
        yield existing(client, name, tenant=tenant, asking=asking)


@contextmanager
def _indexed(judged: Judged, kind: str | None) -> Iterator[Collection]:
    """The documents of a judged set in a collection of their own."""
    from ragkit.benchmark.judged import index_judged
    from ragkit.collection import Collection
    from ragkit.console import showing_progress

    if judged.corpus is None:
        raise typer.BadParameter("there is no corpus.jsonl in --beir: name a --collection with it")
    with temporary_store() as client:
        docs = Collection(client, "judged", embedder=_embedder(client, kind))
        with showing_progress() as progress:
            index_judged(docs, judged, progress=progress)
        yield docs


def _embedder(client: Any, kind: str | None) -> Any:
    """The embedder asked for, or as `ragkit index` chooses."""
    from ragkit.cli_support import embedder_for_writing

    return embedder_for_writing(
        client, "judged", kind=kind, model=None, dim=None, rpm=None, tpm=None
    )


@contextmanager
def _source(
    db: str | None,
    name: str | None,
    tenant: str | None,
    vectors: Path | None,
    synthetic: str | None,
    queries: Path | None,
    seed: int,
    sample: int,
) -> Iterator[tuple[Collection | Vectors, Queries | None]]:
    """What is measured, and the queries: of a collection, a file of vectors, or made up."""
    from ragkit.benchmark.queries import Queries, read_vectors
    from ragkit.benchmark.synthetic import synthetic_queries, synthetic_vectors

    if vectors is None and synthetic is None:
        with _opened(db, name, tenant, asking=False) as docs:
            yield docs, queries_of(docs, queries)
        return
    if name is not None or tenant is not None:
        raise typer.BadParameter("--collection and --tenant go without --vectors and --synthetic")
    if vectors is not None:
        found = read_vectors(vectors)
        yield found, queries_for(found, queries)
        return
    count, dim = shape("--synthetic", synthetic or "")
    made = synthetic_vectors(count, dim, seed=seed)
    asked = queries_for(made, queries) or Queries(
        vectors=synthetic_queries(sample, dim, seed=seed),
        origin=f"{sample:,} made-up queries of the same topics as the vectors (seed {seed})",
    )
    yield made, asked
