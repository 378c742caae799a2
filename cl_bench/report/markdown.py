"""The Markdown report of an experiment: what each method learned, kept and lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from cl_bench.data.tasks import canonical_name
from cl_bench.report.cells import labels_table, learned_table, short
from cl_bench.report.curves import curve_lines, load_curves
from cl_bench.report.expected import expected_section
from cl_bench.report.general import entries, general_tables, made_with
from cl_bench.report.in_context import in_context_section
from cl_bench.report.probes import probes_section
from cl_bench.report.requests import notes_section, requests_section
from cl_bench.report.states import states_section
from cl_bench.report.tables import Column, code, interval, percentages, table
from cl_bench.report.task_metrics import metrics_section
from cl_bench.results.in_context import InContextRow, in_context_rows
from cl_bench.results.methods import MethodResult, compare_last, lacking, load_results
from cl_bench.results.same_documents import left_out_line, mixed_prompts, other_data
from cl_bench.results.summary import base_summary, cells, documents
from cl_bench.scores.general import leaves
from cl_bench.scores.matrix import Cell, Summary
from cl_bench.store.experiments import read_experiment, read_run
from cl_bench.store.file_errors import what_failed
from cl_bench.store.folders import write_text
from cl_bench.store.seals import read_scores
from cl_bench.terminal import say


def write_report(experiment: Path) -> str:
    """Write `report.md` in the experiment's folder; returns its text, also where that fails."""
    text = "\n".join(_lines(experiment)) + "\n"
    try:
        write_text(experiment / "report.md", text)
    except OSError as error:
        say(f"cl-bench: warning: report.md was not written ({what_failed(error)})")
    return text


def _lines(experiment: Path) -> Iterator[str]:
    opened = read_experiment(experiment, whole=True)
    config = opened["config"]
    base_scores = read_scores(experiment / "base")
    results = load_results(experiment)
    tasks = list(base_scores["trace"])
    yield f"# {config['name']}"
    yield ""
    yield from _about(config, base_scores, results)
    yield from _data(experiment, base_scores, results)
    yield ""
    sequence = [canonical_name(stage["task"]) for stage in config["stages"]]
    yield from _method_table(experiment, tasks, sequence, results)
    yield from _kept(results)
    yield from expected_section(config.get("expected", []))
    finished = [result for result in results if result.complete]
    if len(finished) > 1:
        yield ""
        yield from _comparisons(base_scores, finished)
    yield from probes_section(experiment, base_scores, results)
    yield from in_context_section(experiment, base_scores, in_context_rows(experiment))
    yield ""
    yield from learned_table(base_scores, results)
    yield from general_tables(base_scores, results)
    for result in results:
        yield from _matrix(result, base_scores, tasks)
    if curves := load_curves(results):
        from cl_bench.report.figures import draw_curves

        yield from curve_lines(curves, draw_curves(curves, experiment))
    yield from labels_table(base_scores, results)
    yield from metrics_section(base_scores, results)
    yield from requests_section(base_scores, results)
    yield from states_section(experiment, base_scores, results, sequence)
    yield from notes_section(opened.get("notes", []))


def _kept(results: Sequence[MethodResult]) -> Iterator[str]:
    """Which methods may look back at earlier tasks, and at what of them."""
    records = [(result.label, read_run(result.runs[0].path / "run.json")) for result in results]
    kept = [(label, record["keeps"]) for label, record in records if record.get("keeps")]
    if kept:
        yield ""
        each = "; ".join(f"{code(label)}: {' and '.join(words)}" for label, words in kept)
        yield f"Old data (what a method keeps of earlier tasks): {each}."


def _about(
    config: Mapping[str, Any], base: Mapping[str, Any], results: Sequence[MethodResult]
) -> Iterator[str]:
    model = _model_name(config["model"]["path"])
    only = [canonical_name(s["task"]) for s in config["stages"] if not s.get("score", True)]
    more = f" ({len(only)} only trained on: {', '.join(map(short, only))})" if only else ""
    revision = config["model"].get("revision")
    source = model if revision is None else f"{model}@{revision}"
    stages = "1 stage" if len(config["stages"]) == 1 else f"{len(config['stages'])} stages"
    yield f"Model {code(source)}, {stages}{more}, seeds {_seeds(results)}."
    if model == "smollm2-135m":
        yield (
            "The model is SmolLM2-135M-Instruct dequantised from 4 bits: its scores are not those "
            "of the published weights."
        )
    if any(name.startswith("mini_") for name in [*base["trace"], *base["general"]]):
        yield "The mini tasks are generated by cl-bench: not comparable with TRACE or General."
    benchmarks = entries(base)
    sizes = ", ".join(f"{name} ({entry['n']})" for name, entry in benchmarks.items())
    if sizes:
        made = f"unweighted mean of {sizes} [documents], {made_with(benchmarks)}"
    else:
        made = "not measured (eval.general.after: never)"
    yield f"General: {made}, {_engines(base, results)}."
    yield "Scores are percentages, ± is one standard error over documents."


def _model_name(path: str) -> str:
    """A hub id as it is; of a folder, which is recorded relative to the results, its name."""
    return Path(path).name if path.startswith(".") or Path(path).is_absolute() else path


def _engines(base: Mapping[str, Any], results: Sequence[MethodResult]) -> str:
    """The engine that answered; of several which one where, as every `scores.json` records it."""
    found: dict[str, list[str]] = {base["engine"]: ["base model"]}
    for result in results:
        for run in result.runs:
            for stage in run.stages():
                if stage.scored:
                    engine = read_scores(stage.path)["engine"]
                    number = stage.path.name.split("-")[1]
                    found.setdefault(engine, []).append(f"{result.name(run)} stage {number}")
    if len(found) == 1:
        return f"engine {code(base['engine'])}"
    where = [f"{code(engine)} ({', '.join(places)})" for engine, places in found.items()]
    return f"engines: {'; '.join(where)}"


def _data(
    experiment: Path, base: Mapping[str, Any], results: Sequence[MethodResult]
) -> Iterator[str]:
    """What to know where the rows of a table are not of the same data."""
    runs = [run for result in results for run in result.runs]
    lines = list(other_data(experiment, runs))
    if "inputs" not in base:
        for run in runs:
            mixed = mixed_prompts(experiment, run)
            counts = ", ".join(f"{leaf} {count}" for leaf, count in mixed.items())
            if mixed:
                who = f"{run.path.parent.name}/{run.path.name}"
                lines.append(f"data: {who} was asked other documents than base: {counts}")
    if lines:
        yield ""
        yield "**Not one set of data: what differs cannot be compared across the tables below.**"
        yield ""
        yield from (f"- {line}" for line in lines)


def _seeds(results: Sequence[MethodResult]) -> str:
    seeds = {run.path.name.removeprefix("seed-") for result in results for run in result.runs}
    return ", ".join(sorted(seeds, key=int)) or "none"


def _method_table(
    experiment: Path, tasks: list[str], sequence: list[str], results: Sequence[MethodResult]
) -> Iterator[str]:
    columns = [
        Column("method", "left"),
        Column("General"),
        Column("Δ General"),
        Column("OP final"),
        Column("OP mean"),
        Column("BWT"),
        Column("learned"),
        Column("forgotten"),
    ]
    general, _, *others = _numbers([base_summary(experiment, tasks, sequence)])
    rows = [["ori (base model)", general, "-", *others]]
    for row in in_context_rows(experiment):
        rows.append([row.label + _seeds_of(row), *_numbers(row.summaries(tasks, sequence))])
    for result in results:
        label = result.label
        if len(result.runs) > 1:
            label += f" ({len(result.runs)} seeds)"
        done = result.done
        if not result.complete:
            label += f" ({sum(done)} of {result.stages * len(done)} stages)"
        if result.failed:
            label += f", diverged in {', '.join(result.failed)}"
        rows.append([label, *_numbers(result.summaries)])
    yield from table(columns, rows)
    yield ""
    yield (
        "OP final: mean of the last row (TRACE's OP). OP mean: mean over stages t of OP_t "
        "(FGGM's wording); it gives early tasks more weight. BWT over T-1. learned: mean of the "
        "diagonal. forgotten: best earlier score minus last, mean over tasks. -: not measured."
    )
    for result in results:
        if result.setting == "single":
            yield (
                f"{result.label}: every stage starts from the base model, so no model has seen all "
                "tasks: its number is `learned`."
            )
        if result.setting == "joint":
            yield (
                f"{result.label}: all tasks in one stage, so nothing comes before or after "
                "another: OP is the mean of its only row."
            )


def _seeds_of(row: InContextRow) -> str:
    return f" ({len(row.places)} seeds)" if len(row.places) > 1 else ""


def _numbers(summaries: Sequence[Summary]) -> list[str]:
    data = [summary.to_json() for summary in summaries]
    finals = [each["general_final"] for each in data]
    return [
        percentages([each["general"] for each in finals]),
        percentages([each["general_delta"] for each in finals], signed=True),
        percentages([each["op_final"] for each in data]),
        percentages([each["op_mean"] for each in data]),
        percentages([each["bwt"] for each in data], signed=True),
        percentages([each["learning_accuracy"] for each in data]),
        percentages([each["forgetting"] for each in data]),
    ]


def _comparisons(base: Mapping[str, Any], results: Sequence[MethodResult]) -> Iterator[str]:
    yield "## Differences after the last stage"
    yield ""
    yield (
        "Paired over the same documents. An ordering is resolved only when the 95 % interval "
        "excludes 0."
    )
    yield ""
    groups = {
        "General": leaves(base["general"]),
        "OP final": {name: [name] for name in base["trace"]},
    }
    rows = []
    left_out: dict[str, int] = {}
    for what, names in groups.items():
        for first, second in combinations(results, 2):
            if lost := [task for one in (first, second) for task in lacking(one, names)]:
                which = ", ".join(map(short, dict.fromkeys(lost)))
                pair = f"{first.label} - {second.label}"
                rows.append([what, pair, "-", "-", f"not measured ({which})"])
                continue
            compared, others = compare_last(first, second, partial(documents, names=names), names)
            left_out |= {task: max(n, left_out.get(task, 0)) for task, n in others.items()}
            if compared is not None:
                rows.append([what, f"{first.label} - {second.label}", *interval(compared)])
    if line := left_out_line(left_out):
        yield line
        yield ""
    if not rows and left_out:
        yield "No pair of methods has documents in common."
        return
    if not rows:
        yield "Not shown: the records of single documents (predictions/) are not in this folder."
        return
    columns = [
        Column("score", "left"),
        Column("methods", "left"),
        Column("difference"),
        Column("95 % interval"),
        Column("ordering", "left"),
    ]
    yield from table(columns, rows)


def _matrix(result: MethodResult, base: Mapping[str, Any], tasks: list[str]) -> Iterator[str]:
    """Stage by task, for each seed; the base model's row first."""
    for run in result.runs:
        yield ""
        yield f"## {result.label}, {run.path.name.replace('-', ' ')}"
        yield ""
        rows = [["base", *_row(cells(base["trace"]), tasks), _mean(base["general"])]]
        for stage in run.stages():
            if stage.scored:
                scores = read_scores(stage.path)
                row = _row(cells(scores["trace"]), tasks)
                label = "joint" if isinstance(scores["task"], list) else f"{scores['stage']}"
                rows.append([label, *row, _mean(scores["general"])])
        columns = [Column("stage", "left"), *(Column(short(t)) for t in tasks), Column("General")]
        yield from table(columns, rows)


def _row(found: Mapping[str, Cell | None], tasks: Sequence[str]) -> list[str]:
    return [
        "-"
        if (cell := found.get(task)) is None
        else percentages([cell.to_json() | {"value": cell.score}])
        for task in tasks
    ]


def _mean(general: Mapping[str, Any]) -> str:
    return "-" if general.get("mean") is None else f"{100 * general['mean']:.1f}"
