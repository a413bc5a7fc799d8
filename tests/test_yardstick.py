"""What `make bench` is made of: ragkit, the engine and numpy at a toy size, and made-up times."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from perf.yardstick.__main__ import main
from perf.yardstick.contestants import PAIRS, contestants, own_contestants
from perf.yardstick.data import Data, make_passages, make_vectors
from perf.yardstick.measure import Measured, Outcome, WiredWrong, check_recall, measure
from perf.yardstick.ours import EnginePassages, RagkitPassages
from perf.yardstick.process import ContenderFailed, Entry
from perf.yardstick.table import Pair, Ratio, table

ROUNDS = 3
QUERIES = 25
TAKING_PART = ["4-bit codes (the default)", "numpy, exact", "raw engine"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("yardstick")
    return make_vectors(folder / "vectors", 1_000, 32, queries=ROUNDS * QUERIES, seed=0)


@pytest.fixture(scope="module")
def outcome(vectors: Data) -> Outcome:
    entries = [each for each in own_contestants() if each.name in TAKING_PART]
    peer = Entry(name="a peer", kind="peers.Hnswlib")  # in an environment that does not have it
    together = [(each, vectors) for each in (*entries, peer)]
    return measure(together, rounds=ROUNDS, queries=QUERIES, say=lambda what: None)


def test_every_contender_is_built_and_asked_in_every_round(outcome: Outcome) -> None:
    assert sorted(outcome.measured) == TAKING_PART
    for measured in outcome.measured.values():
        assert len(measured.build_s) == len(measured.search_s) == ROUNDS
        assert all(0 < seconds < 60 for seconds in (*measured.build_s, *measured.search_s))
    assert {"ragkit", "qdrant-edge-py", "numpy"} <= outcome.versions.keys()


def test_recall_is_of_the_neighbours_that_numpy_finds(outcome: Outcome) -> None:
    assert outcome.measured["numpy, exact"].recall == 1.0
    ragkit, engine = (outcome.measured[name].recall for name in TAKING_PART[::2])
    assert ragkit == pytest.approx(engine, abs=0.02)
    assert 0.9 < ragkit <= 1.0


def test_a_peer_that_is_not_installed_is_left_out(outcome: Outcome) -> None:
    assert outcome.missing == {"a peer": "No module named 'hnswlib'"}


def test_the_table_has_a_row_for_each_pair_that_took_part(outcome: Outcome) -> None:
    head, rule, *rows = table(PAIRS, outcome.measured).splitlines()
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "search, 4-bit codes (the default)",
        "search, 4-bit codes (the default)",
        "index vectors",
    ]


def test_every_pair_names_two_who_take_part(vectors: Data) -> None:
    entries = {each.name: each for each, _ in contestants("p", vectors=vectors, passages=vectors)}
    for pair in PAIRS:
        ours, theirs = entries[pair.ours], entries[pair.theirs]
        assert ours.kind.startswith("ours.")
        assert pair.of == "search" or (ours.rebuilt and theirs.rebuilt)


@pytest.mark.parametrize(
    ("kind", "where", "queries", "says"),
    [
        ("peers.NumpyExact", "nowhere", QUERIES, "No such file"),
        ("peers.NumpyExact", ".", 10 * QUERIES, "IndexError"),
        ("no_such_module.Engine", ".", QUERIES, "ModuleNotFoundError"),
    ],
    ids=["at its start", "while it searches", "without what everybody has"],
)
def test_a_contender_that_fails_ends_the_run_with_what_it_said(
    vectors: Data, kind: str, where: str, queries: int, says: str
) -> None:
    given = replace(vectors, folder=vectors.folder / where)
    entry = Entry(name="it", kind=kind)
    with pytest.raises(ContenderFailed, match=rf"(?s)^it ended with status 1.*{says}"):
        measure([(entry, given)], rounds=ROUNDS, queries=queries, say=print)


def test_the_retriever_and_the_engine_alone_find_the_same_passages(
    vectors: Data, tmp_path: Path
) -> None:
    passages = make_passages(tmp_path / "passages", vectors, 60, seed=0)
    assert 40 < passages.count <= 60
    contender = EnginePassages(passages.folder)
    contender.build(passages.count)
    try:
        alone = [list(contender.rows(contender.search(query))) for query in range(20)]
        hits = [RagkitPassages.search(contender, query) for query in range(20)]
        assert alone == [list(RagkitPassages.rows(contender, each)) for each in hits]
    finally:
        contender.close()
    ids = [[str(row) for row in rows] for rows in alone]
    assert passages.truth.shares(ids, 10).mean() > 0.9


def measured(name: str, *, build_s: tuple[float, ...], search_s: tuple[float, ...]) -> Measured:
    return Measured(name=name, build_s=build_s, search_s=search_s, recall=0.9876)


def test_ratios_are_the_medians_of_the_rounds_own() -> None:
    assert Ratio.of([1.0, 4.0, 9.0], [2.0, 2.0, 3.0]) == Ratio(median=2.0, low=0.5, high=3.0)
    with pytest.raises(ValueError, match="at least one round"):
        Ratio.of([], [])
    with pytest.raises(ValueError, match="shorter"):
        Ratio.of([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("of", "row"),
    [
        ("search", "| it | 2.0 ms | peer | 8.0 ms | 0.25 (0.2 to 0.25) | 0.988, 0.988 | ragkit |"),
        ("build", "| it | 30 s | peer | 20 s | 1.5 (1.0 to 1.5) | 0.988, 0.988 | neither |"),
    ],
)
def test_a_row_tells_both_times_and_who_was_quicker_in_every_round(of: str, row: str) -> None:
    ours = measured("us", build_s=(20.0, 30.0, 30.0), search_s=(0.002, 0.001, 0.002))
    theirs = measured("peer", build_s=(20.0, 20.0, 20.0), search_s=(0.008, 0.005, 0.008))
    pair = Pair(what="it", ours="us", theirs="peer", of="search" if of == "search" else "build")
    assert table([pair], {"us": ours, "peer": theirs}).splitlines()[2] == row


def test_a_peer_that_was_quicker_is_named() -> None:
    ours = measured("us", build_s=(0.5,), search_s=(0.000_123,))
    theirs = measured("peer", build_s=(0.000_3,), search_s=(0.000_1,))
    pairs = [Pair(what="it", ours="us", theirs="peer", of=of) for of in ("search", "build")]
    assert table(pairs, {"us": ours, "peer": theirs}).splitlines()[2:] == [
        "| it | 0.12 ms | peer | 0.1 ms | 1.2 (1.2 to 1.2) | 0.988, 0.988 | peer |",
        "| it | 500 ms | peer | 0.3 ms | 1,667 (1,667 to 1,667) | 0.988, 0.988 | peer |",
    ]


@pytest.mark.parametrize(("recall", "exact"), [(0.499, False), (0.999, True)])
def test_a_recall_that_cannot_be_ends_the_run(recall: float, exact: bool) -> None:
    with pytest.raises(WiredWrong, match=rf"of faiss, got {recall}"):
        check_recall("faiss", recall, exact=exact)


@pytest.mark.parametrize(("recall", "exact"), [(0.5, False), (1.0, True)])
def test_a_recall_that_can_be_passes(recall: float, exact: bool) -> None:
    check_recall("faiss", recall, exact=exact)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "20000"], "such as 20000x768"),
        (["--size", "999x768"], "at least 1000 vectors"),
        (["--size", "20000x127"], "at least 128 dimensions"),
        (["--size", "200000x768"], "beyond that ragkit builds a graph"),
        (["--rounds", "2"], "fewer than 3 rounds"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_the_peers_scripts_import_no_ragkit() -> None:
    """They run in an environment that has none."""
    from subprocess import run

    program = (
        "import sys; import perf.yardstick.serving, perf.yardstick.peers; "
        "sys.exit('ragkit' in sys.modules)"
    )
    folder = Path(__file__).parent
    assert run([sys.executable, "-c", program], cwd=folder, check=False).returncode == 0
