"""Which metric every cell holds, and what else the tasks' metrics say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from cl_bench.metrics.trace_tasks import TASKS
from cl_bench.report.cells import ORI, short
from cl_bench.report.document import Block, Bullets, Column, Heading, Paragraph, Table
from cl_bench.results.methods import MethodResult
from cl_bench.store.seals import read_scores

Entry = Mapping[str, Any]
PART_NAMES = ("trace", "general")
UNSCORABLE = "unscorable"
"""Documents on which TRACE's own code fails: shown where there are any."""


def metrics_section(base: Mapping[str, Any], results: Sequence[MethodResult]) -> Iterator[Block]:
    """What a score is, by task, and the metrics beside it.

    Nothing for scores of an older cl-bench, which do not say.
    """
    entries = _entries(base)
    if not any("metric" in entry for entry in entries.values()):
        return
    yield Heading("Metrics")
    yield from _what_scores_are(entries)
    last = {
        result.label: [_entries(read_scores(run.stages()[-1].path)) for run in result.runs]
        for result in results
        if result.complete
    }
    rows = [row for name in entries for row in _rows(name, entries[name], last)]
    if rows:
        yield Paragraph(
            "The other metrics that the tasks list, each on its own scale: the base model, and "
            "every method after its last stage. ± is one standard error over documents. -: not "
            "computed."
        )
        columns = [Column("task", "left"), Column("metric", "left"), Column(ORI)]
        yield Table("metrics", [*columns, *map(Column, last)], rows, labels=2)
    for name, entry in entries.items():
        for metric, reason in entry.get("not_computed", {}).items():
            yield Paragraph(f"{short(name)}: {metric} is not computed: {reason}.")


def _entries(scores: Mapping[str, Any]) -> dict[str, Entry]:
    return {
        name: entry for part in PART_NAMES for name, entry in scores[part].items() if name != "mean"
    }


def _what_scores_are(entries: Mapping[str, Entry]) -> Iterator[Block]:
    found: dict[str, list[str]] = {}
    for name, entry in entries.items():
        found.setdefault(_what(name, entry), []).append(short(name))
    yield Paragraph("What a score is:")
    yield Bullets([f"{what}: {', '.join(names)}" for what, names in found.items()])


def _what(name: str, entry: Entry) -> str:
    if "metric" not in entry:
        return "not recorded"
    if name in TASKS:
        return f"TRACE's {_headline(name, entry)}, mean over documents"
    filtered = "" if entry["filter"] == "none" else f" (filter {entry['filter']})"
    scale = f" / {_plain(entry['scale'])}" if "scale" in entry else ""
    together = entry["aggregation"]
    how = "mean over documents" if together == "mean" else f"{together} of all documents together"
    if together == "matthews_corrcoef":
        how += ", -100 to 100, 0 for a constant answer"
    return f"{entry['metric']}{scale}{filtered}, {how}"


def _headline(name: str, entry: Entry) -> str:
    return TASKS[name].headline if name in TASKS else str(entry.get("metric"))


def _rows(
    name: str, entry: Entry, last: Mapping[str, Sequence[Mapping[str, Entry]]]
) -> Iterator[list[str]]:
    if "metric" not in entry:
        return
    headline = {_headline(name, entry), f"{entry['metric']},{entry['filter']}"}
    rest = [[seed.get(name, {}) for seed in seeds] for seeds in last.values()]
    for metric in entry["metrics"]:
        values = [_value(found, metric) for found in ([entry], *rest)]
        if metric not in headline and not (metric == UNSCORABLE and set(values) <= {"0", "-"}):
            yield [short(name), metric, *values]


def _value(entries: Sequence[Entry], metric: str) -> str:
    values = [entry.get("metrics", {}).get(metric) for entry in entries]
    if not values or any(value is None for value in values):
        return "-"
    stderr = entries[0].get("metrics_stderr", {}).get(metric) if len(entries) == 1 else None
    text = f"{fmean(values):.4g}"
    return text if stderr is None else f"{text} ± {stderr:.2g}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
