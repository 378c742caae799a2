"""Tables about General: what each benchmark scored, and how that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.report.cells import ORI
from cl_bench.report.document import Block, Cell, Column, Heading, Paragraph, Table, percent
from cl_bench.results.methods import MethodResult
from cl_bench.store.seals import read_scores

Entries = Mapping[str, Mapping[str, Any]]
"""The `general` part of a `scores.json`, without the mean."""
BESIDE = {"weighted": "weighted by documents", "exact_match,strict-match": "strict"}
"""Figures that are shown beside a benchmark's score, by their key, with their heading."""


def entries(scores: Mapping[str, Any]) -> Entries:
    """The benchmarks of a `scores.json`."""
    return {name: entry for name, entry in scores["general"].items() if name != "mean"}


def made_with(benchmarks: Entries) -> str:
    """The harness's version recorded with the scores, and any protocol that is not its own."""
    parts: dict[str, None] = {}
    for entry in benchmarks.values():
        how = entry.get("measured")
        parts[_harness(how) if how else "version of the harness not recorded"] = None
        if how and how["protocol"] != "lm-eval":
            parts[f"protocol {how['protocol']}"] = None
    return ", ".join(parts) or "no harness"


def _harness(how: Mapping[str, Any]) -> str:
    return f"{how['harness']} {how['harness_version']}"


def general_tables(base: Mapping[str, Any], results: Sequence[MethodResult]) -> Iterator[Block]:
    """Every benchmark of the base model and after the last stage, and how each was measured."""
    benchmarks = entries(base)
    if not benchmarks:
        return
    yield Heading("General, by benchmark")
    yield Paragraph("The base model, and every method after its last stage.")
    columns = [Column("method", "left")]
    for name, entry in benchmarks.items():
        columns += [Column(name), *(Column(f"{name}, {BESIDE[key]}") for key in _beside(entry))]
    rows: list[list[Cell]] = [[ORI, *_row(benchmarks, [benchmarks])]]
    rows += [
        [result.label, *_row(benchmarks, last)]
        for result in results
        if (last := _last_entries(result))
    ]
    yield Table("general", columns, rows)
    yield _measured_table(benchmarks)


def _last_entries(result: MethodResult) -> list[Entries]:
    """One for each seed, of methods whose last stage is scored with General."""
    if not result.complete or result.setting == "single":  # no model of it has seen all tasks
        return []
    found = [entries(read_scores(run.stages()[-1].path)) for run in result.runs]
    return found if all(found) else []


def _beside(entry: Mapping[str, Any]) -> list[str]:
    return [key for key in BESIDE if _value(entry, key) is not None]


def _value(entry: Mapping[str, Any], key: str) -> float | None:
    found: float | None = entry.get(key, entry.get("metrics", {}).get(key))
    return found


def _row(benchmarks: Entries, seeds: Sequence[Entries]) -> list[Cell]:
    cells: list[Cell] = []
    for name, first in benchmarks.items():
        found = [seed[name] for seed in seeds if name in seed]
        if len(found) < len(seeds):
            found = []
        cells.append(percent([{**entry, "value": entry["score"]} for entry in found]))
        cells += [percent([{"value": _value(e, key)} for e in found]) for key in _beside(first)]
    return cells


def _measured_table(benchmarks: Entries) -> Table:
    """What must be equal before two scores are compared, as `scores.json` recorded it."""
    columns = [
        Column("benchmark", "left"),
        Column("protocol", "left"),
        Column("harness", "left"),
        Column("task", "left"),
        Column("version"),
        Column("split", "left"),
        Column("shots"),
        Column("metric", "left"),
        Column("documents"),
    ]
    keys = ("protocol", "harness", "task", "task_version", "split", "shots", "metric")
    rows = []
    for name, entry in benchmarks.items():
        how = dict(entry.get("measured", {}))
        if how:
            how["harness"] = _harness(how)
        rows.append([name, *(str(how.get(key, "not recorded")) for key in keys), str(entry["n"])])
    return Table("protocol", columns, rows)
