"""The README.md of an exported model: what it was trained on, what it scores, what it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.models.load import split_revision
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, StageFolder, stage_number
from cl_bench.store.seals import read_scores

SHOWN = ("lr", "batch_size", "schedule", "max_prompt_tokens", "max_answer_tokens")
"""Settings of the training that a reader of the card looks for first."""


def model_card(run: RunFolder, stage: int, kind: str, base: str | None) -> str:
    """The card's text. `kind`: what the folder holds; `base`: what it was trained from, as a reader
    elsewhere can find it (a hub name), or None.
    """
    record = read_run(run.path / "run.json")
    config = record["config"]
    stages = config["stages"][:stage]
    place = next(one for one in run.stages() if stage_number(one.path.name) == stage)
    plain = config["model"].get("chat_template", "off") == "off"
    form = "plain text" if plain else "its chat template"
    lines = [
        *_front(kind, base),
        f"# {config['experiment']}: {config['label']}, after stage {stage}",
        "",
        f"{_what(kind, base, config['model'])} cl-bench trained it on {len(stages)} "
        f"{'task' if len(stages) == 1 else 'tasks, one after the other'}, with prompts in {form}.",
        "",
        "## Training",
        "",
        *_table(("stage", "task", "epochs", "examples", "method"), map(_stage, stages)),
        "",
        *_settings(stages),
        "",
        "## Scores",
        "",
        *_scores(run, place),
        "",
        "## Provenance",
        "",
        *_provenance(record),
    ]
    return "\n".join(lines) + "\n"


def _front(kind: str, base: str | None) -> Iterator[str]:
    """What the hub reads of a card."""
    yield "---"
    if base is not None:
        yield f"base_model: {split_revision(base)[0]}"
        yield f"base_model_relation: {'adapter' if kind == 'adapter' else 'finetune'}"
    yield f"library_name: {'peft' if kind == 'adapter' else 'transformers'}"
    yield "pipeline_tag: text-generation"
    yield "tags: [continual-learning, cl-bench]"
    yield "---"
    yield ""


def _what(kind: str, base: str | None, model: Mapping[str, Any]) -> str:
    source = "a model of a local folder" if base is None else f"`{base}`"
    if model["path"] == QUICKSTART_MODEL:
        source = f"`{QUICKSTART_MODEL}`, SmolLM2-135M-Instruct dequantised from 4 bits"
    held = {
        "adapter": f"A PEFT adapter of {source}",
        "merged": f"{source}, with an adapter merged into its weights",
        "functions": f"Functions beside the weights of {source}, which cl-bench alone attaches",
    }.get(kind, f"All weights of {source}")
    return f"{held[0].upper()}{held[1:]} ({model['dtype']})."


def _stage(stage: Mapping[str, Any]) -> list[str]:
    method = " + ".join(name for part in stage["method"] for name in part)
    limit = stage["limit"]
    return [
        str(stage["index"]),
        ", ".join(stage["tasks"]),
        str(stage["epochs"]),
        "all" if limit is None else str(limit),
        method,
    ]


def _settings(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The last stage's options and the settings of its training."""
    for part in stages[-1]["method"]:
        for name, options in part.items():
            given = ", ".join(f"{key} {value}" for key, value in options.items())
            yield f"- {name}: {given or 'no options'}"
    train = stages[-1]["train"]
    yield f"- training: {', '.join(f'{key} {train[key]}' for key in SHOWN)}"


def _scores(run: RunFolder, place: StageFolder) -> Iterator[str]:
    """Every cell that the stage has, beside the base model's."""
    if not place.scored:
        yield "This stage was not scored."
        return
    before = _cells(read_scores(place.base))
    rows = [
        [
            task,
            str(entry.get("metric", "-")),
            _percent(before.get(task, {}).get("score")),
            _percent(entry["score"]),
            str(entry["n"]),
        ]
        for task, entry in _cells(read_scores(place.path)).items()
    ]
    if rows:
        yield from _table(("task", "metric", "base model", "this model", "documents"), rows)
        yield ""
    yield "Scores are in percent of each task's own metric, on the documents that cl-bench chose."


def _cells(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of stage tasks and benchmarks, without the mean of the latter."""
    parts = [scores.get(part) or {} for part in ("trace", "general")]
    return {n: cell for part in parts for n, cell in part.items() if isinstance(cell, Mapping)}


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def _provenance(record: Mapping[str, Any]) -> Iterator[str]:
    config = record["config"]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    yield f"- cl-bench {record['cl_bench']}, {packages}"
    yield f"- seed {config['seed']}; settings of the run: sha256 {record['sha256']}"
    for name, checksum in record.get("inputs", {}).get("model", {}).get("files", {}).items():
        yield f"- base model, {name}: sha256 {checksum}"


def _table(titles: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"| {' | '.join('---' for _ in titles)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
