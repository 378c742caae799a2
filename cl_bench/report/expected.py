"""Numbers of others in a report: under their source, apart from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.report.tables import Column, table

_COLUMNS = {
    "general": "General",
    "op": "OP as printed",
    "op_final": "OP final",
    "op_mean": "OP mean",
    "bwt": "BWT",
}


def expected_section(sources: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """`expected:` of the config as it was read; nothing where there is none."""
    if not sources:
        return
    yield ""
    yield "## Numbers to compare with"
    yield ""
    yield "Nothing here was measured in this experiment. Percentages, as their sources print them."
    for source in sources:
        yield ""
        yield f"**{source['kind']}**: {source['source']}."
        if note := source.get("note"):
            yield ""
            yield " ".join(note.split())
        if numbers := source.get("numbers"):
            yield ""
            yield from _table(source["kind"], numbers)


def _table(kind: str, numbers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A row for every label; each column's head says what kind of number it has."""
    given = [key for key in _COLUMNS if any(each.get(key) is not None for each in numbers.values())]
    named = dict.fromkeys(name for each in numbers.values() for name in each.get("benchmarks", {}))
    heads = [*(_COLUMNS[key] for key in given), *named]
    columns = [Column("method", "left"), *(Column(f"{kind} {head}") for head in heads)]
    rows = [
        [
            label,
            *(_text(each.get(key), key) for key in given),
            *(_text(each.get("benchmarks", {}).get(name)) for name in named),
        ]
        for label, each in numbers.items()
    ]
    yield from table(columns, rows)


def _text(value: float | None, key: str = "") -> str:
    return "-" if value is None else f"{value:{'+' if key == 'bwt' else ''}g}"
