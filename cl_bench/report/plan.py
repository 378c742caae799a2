"""Text of `cl-bench plan`: what it costs, then what would run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from cl_bench.config.evaluation import GeneralEval
from cl_bench.costs.model_shapes import model_shapes
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.trained import everything
from cl_bench.data.in_context import goes_without
from cl_bench.errors import UserError
from cl_bench.experiment.disk import reference_bytes, stored_sizes
from cl_bench.experiment.space import kept_bytes
from cl_bench.experiment.stage_costs import StageCost, stage_costs
from cl_bench.experiment.workload import Workloads
from cl_bench.methods.spec import Experiment, InContextSpec, RunSpec, StageSpec
from cl_bench.report.cost_tables import OnDisk, cost_lines, flops, work_text

CARDS = (24.0, 48.0, 80.0)
"""GB of the cards that are asked about when the user names none."""


def plan_text(
    experiment: Experiment,
    cards: Sequence[float] = (),
    tflops: float | None = None,
    processes: int = 1,
) -> str:
    """Costs of every method, then runs, stages, options, and where each training value comes from.

    `cards`: sizes in GB to compare the memory with. `tflops`: sustained 10^12 FLOP/s of a process,
    for hours. `processes`: how many train and score together.
    """
    return "\n".join(_lines(experiment, cards or CARDS, tflops, processes))


def _general_line(general: GeneralEval) -> str:
    """When, what, in which protocol, and how many documents of each benchmark at most."""
    sizes = [(name, general.documents_of(name)) for name in general.tasks]
    listed = ", ".join(f"{name} ({'all' if n is None else n})" for name, n in sizes) or "none"
    budget = f", budget {general.budget}" if general.budget else ""
    return (
        f"General after {general.after}, protocol {general.protocol}{budget} [documents]: {listed}"
    )


def _lines(
    experiment: Experiment,
    cards: Sequence[float],
    tflops: float | None,
    processes: int,
) -> Iterator[str]:
    config, runs = experiment.config, experiment.chosen
    yield f"{config.name}: {config.model.source} in {config.model.dtype}"
    yield _general_line(config.eval.general)
    yield f"stage tasks after {config.eval.trace.after}: {config.eval.trace.cells} cells"
    if experiment.until is not None:
        yield f"--until: this start ends after stage {experiment.until}"
    if within := config.eval.within_stage:
        chosen = ", ".join(within.tasks) if within.tasks else "its own task and the earlier ones"
        every = "epoch" if within.every == "epoch" else f"{within.every} updates"
        yield f"inside a stage every {every}: {chosen}"
    found = model_shapes(config.model)
    workloads = Workloads(config, experiment.own)
    costs: list[list[StageCost]] = [[] for _ in runs]
    reference = 0
    if found.shapes is not None:
        reference = reference_bytes(config.eval, found.shapes, len(experiment.base_columns))
        costs = _costs(runs, found.shapes, workloads, processes)
    by_label: dict[str, list[list[StageCost]]] = {}
    for run, stages in zip(runs, costs, strict=True):
        by_label.setdefault(run.label, []).append(stages)
    disk: dict[str, list[OnDisk]] = {}
    for run, stages in zip(runs, costs, strict=True):
        if stages:
            sizes = stored_sizes(run, [stage.cost for stage in stages], config)
            one = OnDisk(sizes, *kept_bytes(run.stages, sizes, config.keep))
            disk.setdefault(run.label, []).append(one)
    yield from cost_lines(found, by_label, disk, cards, config, reference, processes)
    for row in experiment.chosen_in_context:
        yield from _in_context_lines(experiment, row, workloads, found.shapes)
    for run, stages in zip(runs, costs, strict=True):
        yield f"\n{run.label}, seed {run.seed}"
        yield from _run_lines(experiment, run, stages, tflops and tflops * processes)


def _in_context_lines(
    experiment: Experiment, row: InContextSpec, workloads: Workloads, shapes: Shapes | None
) -> Iterator[str]:
    """What stands in front of the prompts of a row with worked examples, and what it costs."""
    config, options = experiment.config, row.options
    yield f"\n{row.label}, seed {row.seed}: the base model, scored once; nothing is trained"
    yield from (f"    ori.{key} = {value}" for key, value in options.model_dump().items())
    for task in experiment.tasks:
        if not task.scored:
            continue
        load = workloads.of([(task.name, experiment.limit_of(task.name))], config.train)
        if goes_without(options.layout, task.name):
            yield f"  {task.name}: no examples: TRACE's layout asks it without"
            continue
        if load is None:
            yield f"  {task.name}: {options.shots} examples in front of every prompt"
            continue
        tokens = min(options.shots * load.tokens, (options.max_prompt_tokens or inf) / 2)
        each = "" if load.exact else ", if each is as long as training lets it be"
        text = f"  {task.name}: some {tokens:,.0f} tokens of examples before every prompt{each}"
        documents = task.test_limit or config.eval.trace.limit
        if shapes is not None and documents is not None:
            forward = everything(shapes).flops_per_token / 3
            text += f", {flops(documents * tokens * forward)}FLOP for {documents} documents"
        yield f"{text} (less where an engine reads them once)"


def _costs(
    runs: Sequence[RunSpec], shapes: Shapes, workloads: Workloads, processes: int
) -> list[list[StageCost]]:
    """Of every run. Raises UserError with all that methods say this model lacks."""
    costs, faults = [], []
    for run in runs:
        try:
            costs.append(stage_costs(run, shapes, workloads, processes))
        except UserError as error:
            faults += [f"methods: {run.label}: {fault}" for fault in error.faults]
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return costs


def _run_lines(
    experiment: Experiment, run: RunSpec, costs: Sequence[StageCost], tflops: float | None
) -> Iterator[str]:
    shown: list[str] = []
    columns = experiment.columns
    for position, stage in enumerate(run.stages):
        only = "" if any(task in columns for task in stage.tasks) else ", only trained on"
        yield (
            f"  stage {stage.index}: {' + '.join(stage.tasks)}, {stage.epochs} epochs, "
            f"{_examples(stage)}, from the {stage.start} model{only}"
        )
        work = costs[position].work if costs else None
        if work is not None:
            yield f"    {work_text(work, tflops)}"
        values = _values(stage)
        if values != shown:
            shown = values
            yield from shown
    known = [cost.work for cost in costs if cost.work is not None]
    if tflops is not None and len(known) < len(run.stages):
        yield (
            "  --tflops: no hours for all stages, since the model's shapes or the number of "
            "training examples is not known: name the data with -o data_root=... or give limit:"
        )
    if known and len(known) == len(costs):
        yield f"  all stages: {work_text(sum(known[1:], known[0]), tflops)}"


def _examples(stage: StageSpec) -> str:
    """`64 examples`, `all examples of each` or `64 + all examples`."""
    sizes = ["all" if limit is None else str(limit) for limit in stage.limits]
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{sizes[0]} examples of each"
    return f"{' + '.join(sizes)} examples"


def _values(stage: StageSpec) -> list[str]:
    """A line per option of the methods and per training value with its origin."""
    options = [
        f"    {part.method.name}.{key} = {value}"
        for part in stage.parts
        for key, value in part.options.model_dump(by_alias=True).items()
    ]
    values = stage.train.model_dump()
    return options + [
        f"    {key} = {values[key]}  ({stage.origins[key]})" for key in sorted(values)
    ]
