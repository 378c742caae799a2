"""Entries `ori` of `methods:`: the base model as it is, or with worked examples in its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from cl_bench.config.file import faults
from cl_bench.config.schema import ExperimentConfig, InContext, MethodEntry, slug
from cl_bench.experiment.lists import text_of
from cl_bench.methods.registry import BASE_ROW
from cl_bench.methods.spec import Experiment, InContextSpec

SHOTS = "shots"


def in_context_rows(config: ExperimentConfig, problems: list[str]) -> list[list[InContextSpec]]:
    """For every row that `methods:` asks for, one of each seed; faults are added to `problems`."""
    found = []
    for order, entry in enumerate(config.methods or []):
        if entry.name != BASE_ROW:
            continue
        if SHOTS in entry.overrides:
            found += [
                [InContextSpec(label, slug(label), seed, options, order) for seed in config.seeds]
                for label, options in _rows(entry, problems)
            ]
        elif entry.label or entry.overrides:
            given = ["label"] * (entry.label is not None) + list(entry.overrides)
            problems.append(
                f"methods: {BASE_ROW}: the base model takes no {', '.join(given)} (with "
                f"`{SHOTS}: 6` it is a row of its own, which answers with examples in the prompt)"
            )
    if found and config.eval.trace.after == "never":
        problems += [
            f"methods: {row[0].label}: eval.trace.after: never scores no stage task, and it has "
            "no other scores"
            for row in found
        ]
    return found


def _rows(entry: MethodEntry, problems: list[str]) -> Iterator[tuple[str, InContext]]:
    """Label and options, of a list of shots for each number."""
    given = entry.overrides[SHOTS]
    numbers: Sequence[Any] = given if isinstance(given, list) else [given]
    if not numbers:
        problems.append(f"methods: {BASE_ROW}: {SHOTS}: the list is empty: give one number or more")
    for number in numbers:
        label = entry.label or f"{BASE_ROW} {text_of(number)}-shot"
        if entry.label and isinstance(given, list):
            label = f"{entry.label} {SHOTS}={text_of(number)}"
        try:
            yield label, InContext.model_validate({**entry.overrides, SHOTS: number})
        except ValidationError as error:
            problems += faults(error, InContext, f"methods: {label}")


def missing_columns(experiment: Experiment, before: Mapping[str, Any] | None) -> list[str]:
    """The stage tasks that a row, as far as it is scored, still lacks."""
    known = {} if before is None else before["trace"]
    return [name for name in experiment.base_columns if name not in known]
