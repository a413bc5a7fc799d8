"""Measurements as tables and sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchmark_rows import (
    about,
    all_rows,
    chunking_rows,
    dimension_rows,
    quality_rows,
    quantization_rows,
    recall_row,
    recall_rows,
)

from ragkit.benchmark.answers import answers, chosen, circumstances
from ragkit.benchmark.layouts import tables
from ragkit.benchmark.rows import Rows
from ragkit.benchmark.tables import (
    Cell,
    Table,
    fraction,
    markdown,
    measure_name,
    milliseconds,
    price,
    share,
    signed,
    size,
    text,
)

LAYOUT = """\
| oversampling |         | 1     | 1     | 2     | 2     | 3     | 3      |
| limit        |         |       |       |       |       |       |        |
|              | rescore | False | True  | False | True  | False | True   |
| 10           |         | 0.523 | 0.831 | 0.523 | 0.916 | 0.523 | 0.950* |
| 20           |         | 0.510 | 0.837 | 0.510 | 0.912 | 0.510 | 0.938* |
| 50           |         | 0.489 | 0.842 | 0.489 | 0.913 | 0.488 | 0.947* |
| 100          |         | 0.486 | 0.847 | 0.486 | 0.929 | 0.486 | 0.956* |"""


def test_recall_has_the_layout_of_the_published_table_and_fits_eighty_columns() -> None:
    first, cells = tables(recall_rows())
    assert text(first, width=80) == LAYOUT
    assert first.notes == ("* the collection's own default search",)
    assert max(map(len, text(cells, width=80).splitlines())) <= 80


def test_each_cell_stands_on_one_line_with_what_it_costs() -> None:
    lines = text(tables(recall_rows())[1]).splitlines()
    assert lines[0].split() == [
        *("limit", "oversampling", "rescore", "recall", "95%", "interval"),
        *("p50", "ms", "p95", "ms", "q/s"),
    ]
    assert len(lines) == 2 + 24
    assert lines[7].split() == [
        "10",
        "3",
        "True",
        *("0.9500", "0.940–0.960", "0.470", "0.900", "1,800", "*"),  # noqa: RUF001
    ]


def test_several_hnsw_ef_make_one_table_each() -> None:
    rows = recall_rows(efs=(64, 128))
    captions = [table.caption for table in tables(rows)]
    assert captions[:2] == ["Recall, hnsw_ef 64", "Recall, hnsw_ef 128"]
    assert text(tables(rows)[1]).count("*") == 0
    assert [line.split()[1] for line in text(tables(rows)[2]).splitlines()[2:]].count("128") == 24


def test_a_default_that_was_not_asked_for_has_a_table_of_its_own() -> None:
    rows = recall_rows(efs=(64,))
    rows = Rows([*rows, recall_row(oversampling=3.0, rescore=True, current=True)],
                about=rows.about)  # fmt: skip
    assert [table.caption for table in tables(rows)][1] == "Recall, hnsw_ef own"


def test_without_quantization_there_is_no_oversampling_to_show() -> None:
    rows = Rows(
        [recall_row(limit=limit, current=True) for limit in (10, 20)], about=about("recall")
    )
    shown = [text(table) for table in tables(rows)]
    assert shown[0].splitlines() == [
        "limit  recall",
        "─────  ──────",
        "10     0.970*",
        "20     0.970*",
    ]
    assert "oversampling" not in shown[1]
    assert "rescore" not in shown[1]


def test_with_hnsw_ef_alone_the_columns_are_its_values() -> None:
    cells = [recall_row(hnsw_ef=ef, recall=ef / 200) for ef in (64, 128)]
    assert text(tables(Rows(cells, about=about("recall")))[0]).splitlines() == [
        "| hnsw_ef | 64    | 128   |",
        "| limit   |       |       |",
        "| 10      | 0.320 | 0.640 |",
    ]


def test_what_reaches_the_target_is_strong() -> None:
    first, _ = tables(recall_rows())
    strong = [cell.text for row in first.body for cell in row if cell.strong]
    assert strong == ["0.950*", "0.956*"]
    assert text(first, emphasis=lambda cell: f"<{cell}>").count("<0.9") == 2
    assert "**0.956\\***" in markdown(first)


def test_a_table_wider_than_the_terminal_goes_on_below_under_its_labels() -> None:
    shown = text(tables(recall_rows())[0], width=60)
    above, below = shown.split("\n\n")
    assert max(map(len, shown.splitlines())) <= 60
    assert below.splitlines()[3].startswith("| 10           |         |")
    assert above.count("0.9") + below.count("0.9") == LAYOUT.count("0.9")


def test_markdown_has_a_rule_under_the_first_line_and_nothing_breaks_out_of_a_cell() -> None:
    table = Table(
        caption="a|b",
        heads=(("name", "n"),),
        body=((Cell("x|y\n`z`"), Cell("1", strong=True)),),
        labels=1,
        align="lr",
    )
    assert markdown(table).splitlines() == [
        "**a\\|b**",
        "",
        "| name       |     n |",
        "| ---------- | ----: |",
        "| x\\|y \\`z\\` | **1** |",
    ]


def test_a_terminal_obeys_no_name() -> None:
    table = tables(quality_rows(label="\x1b[2Jevil"))[0]
    assert "\x1b" not in text(table)
    assert "\ufffd[2Jevil" in text(table)


def test_wide_characters_keep_the_columns() -> None:
    lines = text(tables(quality_rows(label="検索"))[0]).splitlines()
    assert lines[2].index("0.6000") == lines[3].index("0.6500") - 2


def test_quantizations_have_their_sizes_and_a_table_for_each_limit() -> None:
    sizes, *others = tables(quantization_rows())
    assert text(sizes).splitlines()[2:] == [
        "none          6.14 MB      1           20 MB         1.2",
        "turbo          768 kB    1/8  12 kB    20 MB         1.2",
        "binary         192 kB   1/32  12 kB    20 MB         1.2",
    ]
    assert [table.caption for table in others] == [
        "Recall at limit 10",
        "Latency at limit 10: p50 in ms",
        "Recall at limit 100",
        "Latency at limit 100: p50 in ms",
    ]
    assert text(others[0]).splitlines()[2:4] == [
        "| none         | 1.000 |       |       |       |       |       |       |",
        "| turbo        |       | 0.690 | 0.990 | 0.690 | 0.990 | 0.690 | 0.990 |",
    ]


def test_dimensions_show_quality_and_price_only_where_they_are_known() -> None:
    (full,) = tables(dimension_rows())
    assert [cell.text for cell in full.body[1]] == [
        *("768", "0.8500", "0.840–0.860", "0.6800", "0.660–0.700"),  # noqa: RUF001
        *("3.07 kB", "3.07 GB", "1/2", "0.77"),
    ]
    (bare,) = tables(dimension_rows(judged=False, price=None))
    assert bare.heads == (("dim", "overlap@10", "95% interval", "vector", "all", "share"),)


def test_a_difference_counts_where_its_interval_leaves_zero_out() -> None:
    values, differences = tables(quality_rows())
    assert values.heads == (("setting", "nDCG@10", "Recall@10"),)
    assert text(differences).splitlines()[2:] == [
        "hybrid   nDCG@10        +0.050  +0.030 to +0.070  better",
        "hybrid   Recall@10       0.000  −0.100 to +0.100  no difference shown",  # noqa: RUF001
        "sparse   nDCG@10        −0.010  −0.030 to +0.010  no difference shown",  # noqa: RUF001
        "sparse   Recall@10       0.000  −0.100 to +0.100  no difference shown",  # noqa: RUF001
    ]
    strong = [row[0].text for row in differences.body if row[2].strong]
    assert strong == ["hybrid"]


def test_chunkers_are_compared_in_per_cent_as_published() -> None:
    found, differences = tables(chunking_rows())
    assert text(found).splitlines()[2].split() == [
        *("300/50", "3,200", "1,100", "78.7", "75.7–81.7", "4.9", "4.8", "88.7"),  # noqa: RUF001
    ]
    assert text(differences).splitlines()[2].endswith("worse")


def test_the_answer_for_each_limit_is_the_cheapest_that_reaches_the_target() -> None:
    headline, ten, twenty, _, _ = answers(recall_rows())
    assert headline.startswith("No setting reaches a recall of 0.95 at every limit. The best of")
    assert ten == (
        "limit 10: the cheapest that reaches 0.95 is oversampling 3, rescored, with 0.9500 in "
        "0.470 ms; it is the default"
    )
    assert twenty.startswith("limit 20: nothing reaches 0.95; nearest is oversampling 3, rescored")


def test_one_setting_is_named_that_serves_all_limits() -> None:
    rows = Rows(
        [
            recall_row(limit=limit, oversampling=over, rescore=True, recall=recall, p50_ms=over)
            for limit, over, recall in ((10, 1.0, 0.96), (10, 2.0, 0.97), (10, 3.0, 0.99),
                                        (50, 1.0, 0.90), (50, 2.0, 0.955), (50, 3.0, 0.98))
        ],
        about=about("recall"),
    )  # fmt: skip
    assert {row.oversampling for row in chosen(rows)} == {2.0}
    assert answers(rows)[0] == (
        "Take oversampling 2, rescored: at every limit recall is 0.9550 or more, in 2.00 ms or "
        "less (median)."
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (quantization_rows(), "is turbo (oversampling 1, rescored): 0.9900 at limit 10 and 0.9900"),
        (dimension_rows(), "768 of 1,536 dimensions are enough for 0.680 nDCG@10 of 0.682"),
        (dimension_rows(judged=False), "Cut to 768 dimensions, a vector still finds 0.850"),
        (quality_rows(), "hybrid has the highest nDCG@10: 0.6500, +0.050 to dense"),
        (chunking_rows(), "chunks of 300/50 bring most of the text that answers: recall 0.887"),
    ],
)
def test_every_measurement_begins_with_its_answer(rows: Rows[Any], said: str) -> None:
    assert said in answers(rows)[0]


def test_when_no_quantization_is_good_enough_the_nearest_is_named() -> None:
    rows = quantization_rows()
    poor = Rows([row for row in rows if row.quantization == "binary"], about=rows.about)
    assert answers(poor)[0].startswith(
        "No quantization reaches a recall of 0.95 at limit 10 and 100; the nearest is binary"
    )
    # What is good at one limit and poor at the other is not the nearest.
    first = [row for row in poor if (row.oversampling, row.rescore) == (1.0, False)]
    uneven = [replace(row, recall=1.0 if row.limit == 10 else 0.2) for row in first]
    others = [row for row in poor if row not in first]
    assert answers(Rows([*uneven, *others], about=rows.about))[0].endswith(
        "rescored: 0.8000 at limit 10 and 0.8000 at limit 100."
    )


def test_recall_that_misses_the_target_is_not_shown_as_reaching_it() -> None:
    rows = Rows([recall_row(oversampling=1.0, rescore=True, recall=0.9496)], about=about("recall"))
    assert answers(rows)[0].startswith("No setting reaches a recall of 0.95")
    assert "recall is 0.9496 or more" in answers(rows)[0]


def test_a_default_that_compares_all_stands_beside_the_grid_and_is_named_as_what_it_is() -> None:
    grid = [recall_row(limit=limit, oversampling=over, rescore=True, recall=over / 4)
            for over in (2.0, 3.0) for limit in (10, 50)]  # fmt: skip
    own = [recall_row(limit=limit, recall=1.0, current=True, exact=True) for limit in (10, 50)]
    rows = Rows([*grid, *own], about=about("recall"))
    crossed, cells = tables(rows)
    assert "1.000" not in text(crossed)
    assert sum(line.endswith("* exact") for line in text(cells).splitlines()) == 2
    assert answers(rows)[0].startswith("Take exact search, which is the default already")


def test_the_overlap_is_of_as_many_neighbours_as_were_compared() -> None:
    found = dimension_rows(judged=False)
    rows = Rows(found, about=about("dimensions", settings={"limit": 20}))
    assert tables(rows)[0].heads[0][1] == "overlap@20"
    assert "of the 20 neighbours" in answers(rows)[0]


def test_circumstances_leave_out_what_is_not_known() -> None:
    lines = circumstances(about("recall"))
    assert "of: collection squad; points 2,067; indexed share 1" in lines
    assert "on: processor abacus; cores 2; memory 8 GB" in lines
    assert lines[-1] == "note: Nobody else was using the machine."


def test_no_rows_make_no_table_and_a_strange_kind_is_refused() -> None:
    for rows in all_rows():
        nothing: Rows[Any] = Rows([], about=rows.about)
        assert tables(nothing) == []
        assert answers(nothing) == ["Nothing was measured."]
    for show in (tables, answers):
        with pytest.raises(ValueError, match="got 'weather'"):
            show(Rows([1], about=about("weather")))


def test_numbers_are_shown_as_they_are() -> None:
    assert [share(1.0), share(0.99996), share(0.0), share(0.99996, 4)] == [
        *("1.000", "0.999", "0.000", "0.9999"),
    ]
    assert [signed(0.0123), signed(-0.0123), signed(-0.0001)] == ["+0.012", "−0.012", "0.000"]  # noqa: RUF001
    assert [size(0), size(999), size(999_999), size(1_536_000), size(2.5e12)] == [
        *("0 B", "999 B", "1 MB", "1.54 MB", "2,500 GB"),
    ]
    assert [fraction(1.0), fraction(1 / 32), fraction(1.04)] == ["1", "1/32", "1.04"]
    assert [price(12.5), price(0.000012)] == ["12.50", "1.2e-05"]
    assert [milliseconds(0.0471), milliseconds(1234.5)] == ["0.047", "1,234.50"]
    assert [measure_name(each) for each in ("R@10", "RR@5", "AP@100", "nDCG@10", "P@3")] == [
        *("Recall@10", "MRR@5", "MAP@100", "nDCG@10", "P@3"),
    ]
