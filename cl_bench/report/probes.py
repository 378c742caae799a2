"""Tables about probes: how far every stage moved the model, and what it lost of gold answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from cl_bench.evaluation.probes.records import probe_values
from cl_bench.report.document import (
    Block,
    Cell,
    Column,
    Heading,
    Number,
    Paragraph,
    Table,
    percent,
)
from cl_bench.report.kl_forgetting import divergence_of, kl_points, kl_section
from cl_bench.report.tables import interval
from cl_bench.results.methods import MethodResult, compare_last
from cl_bench.results.same_documents import left_out_line, pair
from cl_bench.scores.cells import Cell as Score
from cl_bench.scores.cells import unweighted_mean
from cl_bench.scores.general import leaves
from cl_bench.scores.matrix import compare_paired
from cl_bench.store.seals import read_scores

Entry = Mapping[str, Any]
COLUMNS = [
    Column("method", "left"),
    Column("stage", "left"),
    Column("KL to base"),
    Column("KL, new task"),
    Column("General NLL"),
    Column("Δ"),
    Column("stage NLL"),
    Column("Δ"),
    Column("strict"),
    Column("constrained"),
    Column("valid, stage"),
    Column("valid, General"),
]
ABOUT = (
    "NLL: of the gold answers, in nats per token. KL to base: of next-token distributions on "
    "General text, in nats; KL, new task: the same on gold answers of the stage's own task. Δ: "
    "against the base model on the same documents, ± one standard error of the paired difference. "
    "stage columns: the stage tasks scored after it. strict: accuracy of tasks with a closed "
    "label set; constrained: of their most likely label, whatever was written. valid: share of "
    "outputs in valid format. strict below constrained is lost format, constrained itself falling "
    "is lost knowledge. -: not measured."
)


def probes_section(
    experiment: Path, base: Entry, results: Sequence[MethodResult]
) -> Iterator[Block]:
    """The base model, every stage of every run, and the methods compared after the last stage."""
    if not base.get("probes"):
        return
    yield Heading("Probes")
    if "not_measured" in base["probes"]:
        yield Paragraph(f"Not measured: {base['probes']['not_measured']}.")
        return
    yield Paragraph(ABOUT)
    before = experiment / "base" / "predictions"
    rows: list[list[Cell]] = [["base", "-", *_row(base, before, None)]]
    for result in results:
        for run in result.runs:
            for stage in run.stages():
                if stage.scored:
                    scores = read_scores(stage.path)
                    row = _row(scores, stage.path / "predictions", before)
                    rows.append([result.name(run), str(scores["stage"]), *row])
    yield Table("probes", COLUMNS, rows, labels=2)
    yield from _comparisons(base, [result for result in results if result.complete])
    yield from kl_section(*kl_points(base, results), experiment)


def _row(scores: Entry, predictions: Path, before: Path | None) -> list[Cell]:
    """Everything after method and stage; `before` has the base model's documents."""
    probes = scores.get("probes", {})
    trace, general = probes.get("trace", {}), probes.get("general", {})
    moved = divergence_of(scores, "kl")
    strict = {
        task: scores["trace"][task] for task, entry in trace.items() if "constrained" in entry
    }
    return [
        _nats(probes.get("kl"), digits=4),
        Number(None)
        if moved is None
        else Number(moved.score, 4, spread=moved.stderr, of="documents"),
        _nats(probes.get("general_nll")),
        _change(predictions, before, leaves(scores["general"])),
        _nats(probes.get("trace_nll")),
        _change(predictions, before, {task: [task] for task in scores["trace"]}),
        _percent([_cell(entry, "score") for entry in strict.values()]),
        _percent(_cells(trace, "constrained")),
        _percent(_cells(trace, "valid_format")),
        _percent(_cells(general, "valid_format")),
    ]


def _cells(entries: Mapping[str, Entry], key: str) -> list[Score | None]:
    return [_cell(entry[key], "mean") for entry in entries.values() if key in entry]


def _cell(entry: Entry, key: str) -> Score | None:
    return None if entry[key] is None else Score(entry[key], entry["n"], entry["stderr"])


def _percent(cells: Sequence[Score | None]) -> Number:
    known = [cell for cell in cells if cell is not None]
    if not known or len(known) < len(cells):
        return Number(None)
    cell = unweighted_mean(known)
    return percent([{"value": cell.score, "stderr": cell.stderr}])


def _nats(entry: Entry | None, digits: int = 3) -> Number:
    if entry is None or entry["mean"] is None:
        return Number(None)
    return Number(entry["mean"], digits, spread=entry["stderr"], of="documents")


def _change(predictions: Path, before: Path | None, names: Mapping[str, list[str]]) -> Number:
    """The paired change of the NLL; `-` for the base model and without records of documents."""
    if before is None:
        return Number(None)
    read = partial(probe_values, names=names, key="nll")
    paired = pair([predictions, before], read, names)
    if paired is None or not paired.sides[0]:
        return Number(None)
    compared = compare_paired(*paired.sides)
    return Number(compared.difference, 3, True, compared.stderr, "documents")


def _comparisons(base: Entry, results: Sequence[MethodResult]) -> Iterator[Block]:
    """Pairs of methods; KL over all texts together, NLL as the mean of tasks or benchmarks."""
    benchmarks = leaves(base["general"])
    everything = {"General": [leaf for members in benchmarks.values() for leaf in members]}
    groups = [
        ("KL to base", "kl", everything),
        ("General NLL", "nll", benchmarks),
        ("stage NLL", "nll", {task: [task] for task in base["trace"]}),
    ]
    rows = []
    left_out: dict[str, int] = {}
    for what, key, names in groups:
        for first, second in combinations(results, 2):
            compared, others = compare_last(
                first, second, partial(probe_values, names=names, key=key), names
            )
            left_out |= others
            if compared is not None:
                shown = interval(compared, scale=1.0, digits=4)
                rows.append([what, f"{first.label} - {second.label}", *shown])
    if line := left_out_line(left_out):
        yield Paragraph(line)
    if rows:
        yield Paragraph(
            "After the last stage, paired over the same documents; nats, lower is better."
        )
        columns = [
            Column("probe", "left"),
            Column("methods", "left"),
            Column("difference"),
            Column("95 % interval"),
            Column("ordering", "left"),
        ]
        yield Table("probe pairs", columns, rows, labels=2)
