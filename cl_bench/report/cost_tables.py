"""The tables of `cl-bench plan`: memory, work and disk, a row per method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cl_bench.config.intervals import NEVER
from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.added import Work
from cl_bench.costs.model_shapes import ModelShapes
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.trained import everything
from cl_bench.experiment.disk import RECORD_BYTES, TOKEN_BYTES
from cl_bench.experiment.stage_costs import StageCost, StageWork
from cl_bench.report.tables import Column, table

Costs = Mapping[str, Sequence[Sequence[StageCost]]]
"""By label, for each seed the cost of every stage."""


@dataclass(frozen=True)
class OnDisk:
    """Bytes of a run's weights and states: of each stage, in the end, and at most on the way."""

    stages: list[int]
    left: int
    at_most: int


def cost_lines(
    found: ModelShapes,
    costs: Costs,
    disk: Mapping[str, Sequence[OnDisk]],
    cards: Sequence[float],
    config: ExperimentConfig,
    reference: int = 0,
    processes: int = 1,
) -> Iterator[str]:
    """Both tables with what must be known to read them; one line where no shapes are known.

    `disk`: for each label what every seed leaves. `reference`: bytes of the base model's
    distributions, which all runs share.
    """
    shapes = found.shapes
    if shapes is None:
        yield f"memory, work and disk: not known: {found.source}"
        return
    yield f"{shapes.numel / 1e9:.3f} B parameters (shapes from {found.source})"
    if not costs:
        return
    of_all = f" of {processes}" if processes > 1 else ""
    yield f"\nMemory of one process{of_all} in GB (10^9 bytes), in the stage that needs most\n"
    yield from table(_MEMORY, [_memory_row(label, runs, cards) for label, runs in costs.items()])
    yield ""
    stages = [stage for runs in costs.values() for stage in runs[0]]
    yield from _memory_notes(stages, cards)
    yield from _main_memory(costs)
    if processes > 1:
        yield from _process_notes(stages, processes, shapes)
    yield from _remarks(costs)
    yield "\nWork and disk (stage, state, all: GB)\n"
    yield from table(
        _WORK, [_work_row(label, costs[label], disk[label], shapes) for label in costs]
    )
    yield ""
    yield from _WORK_NOTES
    yield from _space_notes(config, [one for runs in disk.values() for one in runs])
    yield (
        f"predictions/: on top, some {RECORD_BYTES} bytes a document and {TOKEN_BYTES} a generated "
        "token at every scoring."
    )
    if config.save_every != NEVER:
        midway = max(one.cost.midway for runs in costs.values() for one in runs[0])
        yield (
            f"midway/: up to {_gb(midway)} GB while a stage is trained, for a moment twice that, "
            f"so that it goes on where it is interrupted (save_every: {config.save_every})."
        )
    if reference:
        yield f"base/kl/: at most {_gb(reference)} GB once, the base model for the probe kl."
        yield "Its texts (eval.probes) are read once more at every scoring, without generating."


_MEMORY = (
    Column("method", "left"),
    *map(Column, ("weights", "gradients", "optimiser", "own", "activations", "total")),
    Column("fits", "left"),
)
_WORK = (
    Column("method", "left"),
    *map(Column, ("trained", "FLOPs/token", "of sft", "scoring pass", "replay")),
    *map(Column, ("stage", "state", "all")),
)
_WORK_NOTES = (
    "FLOPs/token: products with block matrices, forward and backward; not attention, not the head.",
    "scoring pass: as a share of an sft epoch over the examples it sees, all as long as allowed.",
    "stage: weights (or adapter), the method's state, and choices and scores for `inspect`; state:",
    "of that, the method's state alone; all: of every stage, for every seed.",
)


def _memory_row(
    label: str, runs: Sequence[Sequence[StageCost]], cards: Sequence[float]
) -> list[str]:
    stage = max(runs[0], key=lambda one: one.total)
    cost, known = stage.cost, stage.activations is not None
    sizes = [f"{card:g}" for card in sorted(set(cards)) if stage.total <= card * 1e9]
    return [
        label,
        _gb(cost.base.weights),
        _gb(cost.base.gradients),
        _gb(cost.base.optimiser),
        _gb(cost.own),
        "?" if stage.activations is None else _gb(stage.activations),
        _gb(stage.total) if known else f"{_gb(stage.total)} + ?",
        (" ".join(sizes) or "none") if known else "?",
    ]


def _memory_notes(stages: Sequence[StageCost], cards: Sequence[float]) -> Iterator[str]:
    sizes = ", ".join(f"{card:g}" for card in sorted(set(cards)))
    yield f"fits: of cards with {sizes} GB. Temporary buffers are not counted; a card that is sold"
    yield "with N GB has some 7 % more than N 10^9 bytes, for them and for the driver."
    stage = max(stages, key=lambda one: one.activations or 0)
    if stage.activations is None or stage.recomputed is None:
        yield "activations: not known for this kind of model."
        return
    batch = stage.batch
    yield (
        f"activations: at most, for {batch.tokens:,} tokens at once, {batch.answers:,} of them "
        "answers."
    )
    if stage.recomputed < stage.activations:
        yield (
            f"gradient_checkpointing: true would take the largest from {_gb(stage.activations)} "
            f"to {_gb(stage.recomputed)} GB."
        )
    if any(one.cost.memory > one.cost.in_training for one in stages):
        yield "total: where a scoring pass holds more than training does, that."


def _main_memory(costs: Costs) -> Iterator[str]:
    """What `train.offload` has elsewhere, by method."""
    for label, runs in costs.items():
        main = max((stage.cost.main for stage in runs[0]), key=lambda one: one.all)
        parts = {
            "weights": main.weights,
            "gradients": main.gradients,
            "masters and moments": main.masters,
            "the method's": main.method,
        }
        if main.all:
            listed = ", ".join(f"{what} {_gb(size)}" for what, size in parts.items() if size)
            yield f"{label}: {_gb(main.all)} GB more in main memory (train.offload): {listed}."


def _process_notes(stages: Sequence[StageCost], processes: int, shapes: Shapes) -> Iterator[str]:
    """What the processes hold together, and what each has whole."""
    if not any(stage.split for stage in stages):
        yield f"{processes} processes: each holds all of it (train.shard: true would split it), and"
        yield f"1/{processes} of the work; hours are of all of them, at --tflops each."
        return
    yield f"{processes} processes, train.shard: weights have embeddings, head and two layers whole;"
    yield (
        f"scoring takes the whole model in each: {_gb(shapes.model_bytes)} GB, and a checkpoint as "
        "much main memory in the first. Hours are of all of them, at --tflops each."
    )


def _remarks(costs: Costs) -> Iterator[str]:
    """What a method does otherwise, or cannot do, with this model."""
    for label, runs in costs.items():
        found = [remark for stages in runs for one in stages for remark in one.cost.added.remarks]
        for remark in dict.fromkeys(found):
            yield f"{label}: {remark}."


def _space_notes(config: ExperimentConfig, runs: Sequence[OnDisk]) -> Iterator[str]:
    """What `keep:` and `checkpoints:` change about these figures."""
    if config.checkpoints == "delta":
        yield "checkpoints: delta: at most what differs from the stage or model before, where a"
        yield "method says what it trains; each stage is written whole for a moment."
    if config.keep != "all":
        most = max((one.at_most for one in runs), default=0)
        yield f"keep: {config.keep}: all counts what stays in the end; on the way a run takes up to"
        yield f"{_gb(most)} GB."


def _work_row(
    label: str,
    runs: Sequence[Sequence[StageCost]],
    disk: Sequence[OnDisk],
    shapes: Shapes,
) -> list[str]:
    stage = max(runs[0], key=lambda one: one.total)
    cost, plain = stage.cost, everything(shapes).flops_per_token
    work = cost.added.work
    passes = [
        f"{one.flops(stage.batch.length) / plain:.2f}x of {one.examples or 'all'}"
        for one in work.passes
    ]
    return [
        label,
        f"{100 * cost.base.entries / shapes.numel:.3g} %",
        flops(cost.flops_per_token),
        f"{cost.flops_per_token / plain:.2f}x",
        " + ".join(passes) or "-",
        _again(work),
        _gb(max(disk[0].stages)),
        _gb(max(one.cost.state for one in runs[0])),
        _gb(sum(one.left for one in disk)),
    ]


def _again(work: Work) -> str:
    """What an epoch sees besides the stage's own examples: a share of earlier ones, others."""
    share = [f"{100 * work.earlier:g} %"] if work.earlier else []
    found = [*share, *([f"{work.examples:,}"] if work.examples else [])]
    found += [f"{100 * work.earlier_once:g} % once"] if work.earlier_once else []
    found += [f"{work.examples_once:,} once"] if work.examples_once else []
    return " + ".join(found) or "-"


def work_text(work: StageWork, tflops: float | None) -> str:
    """FLOPs of a stage or a run, against sft, and hours at a sustained rate if one is given."""
    text = f"{'' if work.exact else 'at most '}{flops(work.training)}FLOP training"
    if work.scoring:
        text += f" + {flops(work.scoring)}FLOP scoring pass"
    if work.generation:
        text += f" + {flops(work.generation)}FLOP generation"
    text += f", {work.total / work.sft:.2f}x sft"
    if tflops is not None:
        text += f", {work.total / (tflops * 3.6e15):.2g} h at {tflops:g} TFLOP/s"
    return text


def flops(value: float) -> str:
    """`9.26 G`: three digits and a prefix."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value / 1e6:.3g} M"


def _gb(count: int) -> str:
    if count == 0:
        return "-"
    value = count / 1e9
    return "<0.01" if value < 0.005 else f"{value:.2f}" if value < 99.995 else f"{value:.1f}"
