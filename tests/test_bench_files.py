"""Measurements on disk, and back."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import about, all_rows, quality_rows, recall_row, recall_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.benchmark.files import frame, read_rows, write_rows, write_whole
from ragkit.benchmark.qualities import QualityRow
from ragkit.benchmark.recall import RecallRow
from ragkit.benchmark.rows import About, Rows

SHARES = st.floats(0, 1)
TIMES = st.floats(0, 1e6)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FACTS = st.dictionaries(
    NAMES, NAMES | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
    | st.none(), max_size=4
)  # fmt: skip
RECALL = st.builds(
    RecallRow,
    limit=st.integers(1, 10_000),
    oversampling=st.none() | st.floats(1, 1000),
    rescore=st.none() | st.booleans(),
    hnsw_ef=st.none() | st.integers(1, 10**6),
    **dict.fromkeys(("recall", "recall_low", "recall_high"), SHARES),
    **dict.fromkeys(("p50_ms", "p95_ms", "qps"), TIMES),
    current=st.booleans(),
)
QUALITY = st.builds(
    QualityRow,
    setting=NAMES,
    options=FACTS,
    measures=st.dictionaries(NAMES, SHARES, max_size=3),
    differences=st.dictionaries(NAMES, st.lists(SHARES, min_size=3, max_size=3), max_size=3),
    queries=st.integers(0, 10**9),
)
ABOUT = st.fixed_dictionaries(
    {
        "at": NAMES,
        "subject": FACTS,
        "machine": FACTS,
        "versions": st.dictionaries(NAMES, NAMES, max_size=3),
        "queries": NAMES,
        "method": st.lists(NAMES, max_size=3).map(tuple),
        "settings": FACTS,
        "notes": st.lists(NAMES, max_size=3).map(tuple),
    }
)


@settings(max_examples=15, deadline=None)
@given(recall=st.lists(RECALL, max_size=4), quality=st.lists(QUALITY, max_size=3), facts=ABOUT)
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    recall: list[RecallRow],
    quality: list[QualityRow],
    facts: dict[str, Any],
) -> None:
    folder = tmp_path_factory.mktemp("out")
    for rows in (
        Rows[Any](recall, about=About(what="recall", **facts)),
        Rows[Any](quality, about=About(what="quality", **facts)),
    ):
        _, path = write_rows(rows, folder)
        read = read_rows(path)
        assert read == rows
        assert read.about == rows.about
        assert isinstance(read, Rows)


@pytest.mark.parametrize("rows", all_rows(), ids=lambda rows: rows.about.what)
def test_every_measurement_is_read_back_typed(rows: Rows[Any], tmp_path: Path) -> None:
    table, document = write_rows(rows, tmp_path / "new" / "folder")
    assert (table.name, document.name) == (f"{rows.about.what}.csv", f"{rows.about.what}.json")
    read = read_rows(document)
    assert read == rows
    assert [type(row) for row in read] == [type(row) for row in rows]


def test_the_table_for_a_spreadsheet_is_flat(tmp_path: Path) -> None:
    path, _ = write_rows(quality_rows(), tmp_path)
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert lines[1]["measures.nDCG@10"] == "0.65"
    assert lines[1]["differences.nDCG@10.low"] == "0.030000000000000002"
    assert lines[0]["differences.nDCG@10.low"] == ""
    assert lines[0]["options.weights.sparse"] == "3.0"


def test_without_rows_the_table_still_has_its_columns(tmp_path: Path) -> None:
    path, _ = write_rows(Rows[Any]([], about=about("recall")), tmp_path)
    assert path.read_text().startswith("limit,oversampling,rescore,hnsw_ef,recall,")


def test_a_data_frame_has_the_columns_of_the_table(tmp_path: Path) -> None:
    found = frame(recall_rows())
    assert found.shape == (24, 12)
    best = found[found["rescore"] & (found["oversampling"] == 3.0)]
    assert best["recall"].tolist() == [0.95, 0.937778, 0.947111, 0.956333]


def test_a_second_measurement_replaces_the_first_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_rows(recall_rows(), tmp_path)
    write_rows(Rows([recall_row()], about=about("recall")), tmp_path)
    assert len(read_rows(tmp_path / "recall.json")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recall.csv", "recall.json"]


def test_a_file_that_cannot_be_replaced_stays_and_no_half_one_is_left(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="there"):
        write_whole(tmp_path / "there", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_files_are_as_open_to_others_as_any(tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(b"")
    write_whole(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


def damaged(change: Any) -> Any:
    def apply(document: dict[str, Any]) -> str:
        change(document)
        return json.dumps(document)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda document: json.dumps(document)[:-9], "not JSON"),
        (lambda document: "[]", "no format, about and rows"),
        (damaged(lambda d: d.update(format=2)), "its format is 2, this version of ragkit reads 1"),
        (damaged(lambda d: d["about"].update(what="weather")), "got 'weather'"),
        (damaged(lambda d: d.update(rows={})), "rows to be a list"),
        (damaged(lambda d: d["rows"][0].update(recall="high")), r"rows\[0\].recall holds 'high'"),
        (damaged(lambda d: d["rows"][0].update(current=1)), r"rows\[0\].current holds 1"),
        (damaged(lambda d: d["rows"][0].update(limit=1.5)), r"rows\[0\].limit holds 1.5"),
        (damaged(lambda d: d["rows"][0].update(colour="red")), r"rows\[0\].*colour"),
        (damaged(lambda d: d["rows"][0].pop("qps")), r"rows\[0\].*qps"),
        (damaged(lambda d: d["about"].update(subject=[1])), r"about.subject holds \[1\]"),
    ],
)
def test_a_damaged_or_strange_file_is_refused_in_plain_words(
    tmp_path: Path, damage: Any, said: str
) -> None:
    _, path = write_rows(recall_rows(), tmp_path)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=said) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert "measure again" in str(caught.value)


def test_what_json_cannot_say_is_not_written_at_all(tmp_path: Path) -> None:
    rows = Rows([recall_row(p50_ms=math.nan)], about=about("recall"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(rows, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_an_unknown_kind_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'weather'"):
        write_rows(Rows[Any]([], about=about("weather")), tmp_path)
