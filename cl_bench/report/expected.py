"""Numbers of others in a report: under their source, apart from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.report.document import Block, Column, Heading, Paragraph, Table

COLUMNS = {
    "general": "General",
    "op": "OP as printed",
    "op_final": "OP final",
    "op_mean": "OP mean",
    "bwt": "BWT",
}


def expected_section(sources: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """`expected:` of the config as it was read; nothing where there is none."""
    if not sources:
        return
    yield Heading("Numbers to compare with")
    yield Paragraph(
        "Nothing here was measured in this experiment. Percentages, as their sources print them."
    )
    for source in sources:
        yield Paragraph(f"**{source['kind']}**: {source['source']}.")
        if note := source.get("note"):
            yield Paragraph(" ".join(note.split()))
        if numbers := source.get("numbers"):
            yield _table(source, numbers)


def _table(source: Mapping[str, Any], numbers: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for every label; each column's head says what kind of number it has."""
    given = [key for key in COLUMNS if any(each.get(key) is not None for each in numbers.values())]
    named = dict.fromkeys(name for each in numbers.values() for name in each.get("benchmarks", {}))
    heads = [*(COLUMNS[key] for key in given), *named]
    columns = [Column("method", "left"), *(Column(f"{source['kind']} {head}") for head in heads)]
    rows = [
        [
            label,
            *(as_printed(each.get(key), key) for key in given),
            *(as_printed(each.get("benchmarks", {}).get(name)) for name in named),
        ]
        for label, each in numbers.items()
    ]
    return Table("expected", columns, rows, source["source"])


def as_printed(value: float | None, key: str = "") -> str:
    """With the digits that the source gives."""
    return "-" if value is None else f"{value:{'+' if key == 'bwt' else ''}g}"


def printed_digits(value: float | None) -> int:
    """How many the source gives behind the point."""
    return len(f"{value:g}".partition(".")[2]) if value is not None else 0
