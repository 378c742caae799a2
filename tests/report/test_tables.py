"""Numbers in tables, and what a table may claim."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len

from cl_bench.report.cells import _above
from cl_bench.report.tables import Column, code, percentages, table
from tests.helpers.rendered import must_render


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        ([{"value": 0.5, "stderr": 0.01}], "50.0 ± 1.0"),
        ([{"value": 0.5, "stderr": None}], "50.0"),
        ([{"value": None, "stderr": None}], "-"),
        ([], "-"),
        ([{"value": 0.4, "stderr": 0.1}, {"value": 0.6, "stderr": 0.1}], "50.0 ± 14.1 (sd)"),
        ([{"value": 0.4}, {"value": None}], "-"),
    ],
)
def test_a_number_carries_its_uncertainty(measures: list[dict[str, float]], expected: str) -> None:
    assert percentages(measures) == expected


def test_signs_are_shown_where_asked() -> None:
    assert percentages([{"value": 0.011, "stderr": None}], signed=True) == "+1.1"
    assert percentages([{"value": -0.011, "stderr": None}], signed=True) == "-1.1"


def test_a_table_is_aligned() -> None:
    lines = list(table([Column("method", "left"), Column("OP")], [["sft", "1.0"], ["a", "22.0"]]))
    assert lines == [
        "| method |   OP |",
        "| ------ | ---: |",
        "| sft    |  1.0 |",
        "| a      | 22.0 |",
    ]


@pytest.mark.parametrize(
    ("after", "reference", "expected"),
    [
        ({"score": 0.6, "stderr": 0.05}, 0.4, "yes"),
        ({"score": 0.45, "stderr": 0.05}, 0.4, "not resolved"),
        ({"score": 0.4, "stderr": 0.05}, 0.4, "no"),
        ({"score": 0.9, "stderr": None}, 0.4, "unknown"),
    ],
)
def test_above_needs_more_than_the_error(
    after: dict[str, float], reference: float, expected: str
) -> None:
    assert _above(after, reference, 0.0) == expected


ODD = ["FGGM | replay", "new\nline", "a\\|b", "|", "\\", "`x|y`", "日本", "plain", "", "tab\there"]


def test_every_table_renders_whatever_is_in_its_cells() -> None:
    """Narrow columns (a rule of one colon is no table) and pipes, line ends, backslashes."""
    columns = [Column("Δ"), Column("n", "left"), Column("x|y"), Column("method", "left")]
    rows = [[odd, "1", "", odd] for odd in ODD]
    lines = list(table(columns, rows))
    (found,) = must_render("\n".join(lines))
    assert [len(row) for row in found] == [4] * (len(ODD) + 1)
    assert len({cell_len(line) for line in lines}) == 1
    for rule in lines[1].strip("|").split("|"):
        assert rule.count("-") >= 3


def test_a_cell_reads_as_it_was_given() -> None:
    for text in ("a|b", "a\\|b", "a||b"):
        lines = "\n".join(table([Column("t", "left")], [[text]]))
        tokens = MarkdownIt("commonmark").enable("table").parse(lines)
        shown = [child.content for token in tokens for child in token.children or ()]
        assert "".join(shown) == "t" + text


def test_code_holds_any_sign() -> None:
    for text in ("plain", "a|b", "a`b", "``", "a*b*"):
        (token,) = MarkdownIt().parseInline(f"Model {code(text)}, x")
        assert [child.content for child in token.children or ()] == ["Model ", text, ", x"]
