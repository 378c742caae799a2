"""Numbers in tables, and what a table may claim."""

from __future__ import annotations

import pytest

from cl_bench.report.cells import _above
from cl_bench.report.tables import Column, number, table


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
    assert number(measures) == expected


def test_signs_are_shown_where_asked() -> None:
    assert number([{"value": 0.011, "stderr": None}], signed=True) == "+1.1"
    assert number([{"value": -0.011, "stderr": None}], signed=True) == "-1.1"


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
