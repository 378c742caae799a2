"""Text and JSON of what `cl-bench inspect` measures with models: drift, estimates of the Fisher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from cl_bench.evaluation.probes.hidden_states import Drift
from cl_bench.experiment.drift import Drifts, StageDrift
from cl_bench.experiment.fisher_estimates import ALPHA, Estimate
from cl_bench.report.inspection import alike_text, label
from cl_bench.report.tables import Column, table
from cl_bench.results.selections import Alike
from cl_bench.store.folders import RunFolder

MEASURES: Mapping[str, str] = {
    "cosine": "1 - cosine, mean over positions",
    "relative": "change over size (L2), mean over positions",
    "cka": "linear CKA (1: alike but for a rotation)",
}
_ESTIMATES = f"""
Fisher of rows at the weights that the stage began with, each against that of all examples one by
one: Jaccard index of the rows that alpha: {ALPHA} would train, in brackets that of chance, and rank
correlation of scores. Parts of the examples are parts of what they are compared with; the two
halves are compared with each other.
"""


def drift_lines(drifts: Drifts, run: RunFolder) -> Iterator[str]:
    """A table for each measure: layers by stages, from the base model and from the stage before."""
    stages = drifts.runs[run.path]
    documents = ", ".join(f"{task} ({count})" for task, count in drifts.documents.items())
    yield "## Drift of hidden states"
    yield ""
    yield f"On {drifts.positions:,} positions of prompts [documents]: {documents}."
    yield "Layer 0: embeddings; each other what the layers before it add up to, the last behind the"
    yield "last norm. From the base model / from the model that the stage began with."
    yield ""
    for measure, title in MEASURES.items():
        layers = range(max(len(one.from_base) for one in stages.values()) if stages else 0)
        columns = [Column(title, "left"), *(Column(label(stage)) for stage in stages)]
        rows = [
            [str(layer), *(_pair(one, layer, measure) for one in stages.values())]
            for layer in layers
        ]
        yield from table(columns, rows)
        yield ""


def _pair(one: StageDrift, layer: int, measure: str) -> str:
    values = [getattr(each[layer], measure) for each in (one.from_base, one.from_before)]
    return " / ".join(f"{value:.4f}" if isfinite(value) else "-" for value in values)


def estimate_lines(found: Sequence[Estimate]) -> Iterator[str]:
    """A row for each estimate."""
    yield "## Estimates of the Fisher"
    yield ""
    yield from _ESTIMATES.strip().splitlines()
    yield ""
    columns = [Column("estimate", "left"), *map(Column, ("examples", "rows trained", "ranks"))]
    rows = [
        [one.what, f"{one.examples:,}", alike_text(one.masks), f"{one.ranks:+.3f}"] for one in found
    ]
    yield from table(columns, rows)
    yield ""


def drift_json(drifts: Drifts) -> dict[str, Any]:
    """Documents, positions, and by run and stage a list of layers; null for what is not finite."""

    def layers(found: Sequence[Drift]) -> list[dict[str, float | None]]:
        return [{k: v if isfinite(v) else None for k, v in asdict(one).items()} for one in found]

    return {
        "documents": dict(drifts.documents),
        "positions": drifts.positions,
        "runs": {
            run_name(path): {
                stage: {"base": layers(one.from_base), "before": layers(one.from_before)}
                for stage, one in stages.items()
            }
            for path, stages in drifts.runs.items()
        },
    }


def run_name(run: Path) -> str:
    """`fggm/seed-42`."""
    return "/".join(run.parts[-2:])


def estimates_json(found: Sequence[Estimate]) -> list[dict[str, Any]]:
    """A record for each."""
    return [
        {
            "estimate": one.what,
            "examples": one.examples,
            "ranks": one.ranks,
            **_alike(one.masks),
        }
        for one in found
    ]


def _alike(masks: Alike) -> dict[str, float | None]:
    return {"jaccard": masks.value, "chance": masks.chance}
