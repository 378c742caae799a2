"""Text of `cl-bench plan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cl_bench.config import ExperimentConfig
from cl_bench.resolve import RunSpec


def plan_text(config: ExperimentConfig, runs: Sequence[RunSpec]) -> str:
    """Runs, stages, options, and where each training value that is not a default comes from."""
    return "\n".join(_lines(config, runs))


def _lines(config: ExperimentConfig, runs: Sequence[RunSpec]) -> Iterator[str]:
    yield f"{config.name}: {config.model.path} in {config.model.dtype}"
    general = ", ".join(config.eval.general.tasks) or "none"
    yield f"General after {config.eval.general.after}: {general}"
    yield f"stage tasks after {config.eval.trace.after}: {config.eval.trace.cells} cells"
    if within := config.eval.within_stage:
        chosen = ", ".join(within.tasks) if within.tasks else "its own task and the earlier ones"
        every = "epoch" if within.every == "epoch" else f"{within.every} updates"
        yield f"inside a stage every {every}: {chosen}"
    for run in runs:
        yield f"\n{run.label}, seed {run.seed}"
        shown: list[str] = []
        for stage in run.stages:
            examples = "all" if stage.limit is None else str(stage.limit)
            only = "" if config.stages[stage.index - 1].score else ", only trained on"
            yield (
                f"  stage {stage.index}: {' + '.join(stage.tasks)}, {stage.epochs} epochs, "
                f"{examples} examples, from the {stage.start} model{only}"
            )
            options = [
                f"    {part.method.name}.{key} = {value}"
                for part in stage.parts
                for key, value in part.options.model_dump(by_alias=True).items()
            ]
            values = stage.train.model_dump()
            trained = [
                f"    {key} = {values[key]}  ({stage.origins[key]})" for key in sorted(values)
            ]
            if options + trained != shown:
                shown = options + trained
                yield from shown
