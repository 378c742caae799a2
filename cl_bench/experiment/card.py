"""Whether a stage can fit the card that it is to run on: the count that `cl-bench plan` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.model_shapes import model_shapes
from cl_bench.experiment.stage_costs import StageCost, stage_costs
from cl_bench.experiment.workload import Workloads
from cl_bench.methods.spec import Experiment


def card_bytes(device: Any) -> int | None:
    """What a card has; None for other devices, whose memory others use too."""
    import torch

    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def card_faults(experiment: Experiment, held: int | None, processes: int) -> Iterator[str]:
    """Stages whose weights, gradients and optimiser alone are more than a card of `held` bytes.

    Those are known exactly. Activations are counted from above, and micro-batches get smaller where
    memory does not suffice, so they refuse nothing.
    """
    shapes = model_shapes(experiment.config.model).shapes if held is not None else None
    if shapes is None or held is None:
        return
    workloads = Workloads(experiment.config, experiment.own)
    for run in {run.label: run for run in experiment.chosen}.values():
        costs = stage_costs(run, shapes, workloads, processes)
        most = max(range(len(costs)), key=lambda i: _state(costs[i]))
        if (needed := _state(costs[most])) > held:
            train = run.stages[most].train
            yield (
                f"train: {run.label}: stage {most + 1} holds {needed / 1e9:.1f} GB of weights, "
                f"gradients and optimiser in each process, and the card has {held / 1e9:.1f} GB: "
                f"{' or '.join(_remedies(train, processes))}, or train less (`cl-bench plan`)"
            )


def _state(stage: StageCost) -> int:
    base = stage.cost.base
    return base.weights + base.gradients + base.optimiser


def _remedies(train: TrainConfig, processes: int) -> Sequence[str]:
    """What moves a part of it elsewhere, and is not given yet."""
    missing = [part for part in ("optimiser", "weights") if part not in train.offload]
    found = [f"give offload: [{', '.join([*train.offload, missing[0]])}]"] if missing else []
    if not train.shard:
        more = "start more processes with" if processes == 1 else "give"
        found.append(f"{more} shard: true")
    return found or ["start more processes"]
