"""What the numbers of a folder are bound to.

The settings that decide them (`base_settings`, `run_settings`), and the contents of what they were
made of (`contents`): weights, tokenizer, task definitions, rows. `same.py` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.data.definitions import definition, own_code, shots_of
from cl_bench.models.contents import model_contents, tokenizer_contents
from cl_bench.store.folders import portable, sha256_of

if TYPE_CHECKING:
    from cl_bench.config.schema import ExperimentConfig
    from cl_bench.data.examples import Example
    from cl_bench.evaluation.asked import Asked
    from cl_bench.methods.spec import Experiment, InContextSpec, RunSpec

Contents = dict[str, Any]
"""`model`, `tokenizer`, `tasks` (checksum by task and key), `data` (by leaf task and split)."""

IRRELEVANT: Mapping[str, str] = {
    "name": "names the folder, which may be renamed",
    "seeds": "each is a run of its own: more or fewer change none of the others",
    "task_paths": "where definitions lie; the definitions are compared",
    "data_root": "where rows lie; the rows are compared",
    "stages.1.data": "where rows lie; the rows are compared",
    "stages.1.test": "as data",
    "stages.1.holdout": "which rows are scored; the rows are compared",
    "stages.1.metrics": "part of the task's definition, which is compared",
    "methods": "each is a run of its own; the options of every run are compared",
    "model.path": "where the model lies; its weights are compared (without them, the path)",
    "model.start": "another way to write the path; its weights are compared",
    "model.revision": "which commit is loaded; its weights are compared (without them, the name)",
    "allow_unreachable": "whether a run starts at all; none of its numbers depends on it",
    "stages.1.allow_unreachable": "as for all stages",
    "save_every": "when something is saved; what comes of it is the same",
    "keep": "what is deleted when nothing needs it any more; no number depends on it",
    "checkpoints": "how weights are stored; they are the same to the bit",
    "engine.name": "who answers; engines give the same answers, and every score records its own",
    "engine.args": "as for its name",
    "engine.python": "where it runs",
    "engine.keep": "when it is started; what it answers is the same",
    "track": "who is told of a run; what comes of it is the same",
    "expected": "numbers to compare with; none of the run's depends on them",
    "eval.general.budget": "a word for limits; the limits are compared",
}
"""Keys of a config that no run is bound to, and why."""
PARTS = ("micro_batch_size", "micro_batch_tokens", "gradient_checkpointing", "shard", "offload")
"""Keys of `train:` that say how an update is computed, not what: its loss is a mean over all of it.

They are recorded, and may change in the middle of a run that memory does not suffice for.
"""


# --- What numbers are bound to


def run_settings(
    experiment: Experiment, run: RunSpec, folder: Path, stages: int | None = None
) -> dict[str, Any]:
    """Everything in the config that decides a run's numbers, as `run.json` records it.

    `stages`: of its first stages alone, as it was before others were appended.
    """
    some = run.stages[:stages]
    code = own_code(part.method for stage in some for part in stage.parts)
    limits = {task.name: task.test_limit for task in experiment.tasks}
    return {
        "experiment": experiment.config.name,
        "label": run.label,
        "seed": run.seed,
        **shared_settings(experiment, {task for one in some for task in one.tasks}, folder),
        **({"code": code} if code else {}),
        "stages": [
            {
                "index": stage.index,
                "tasks": list(stage.tasks),
                "start": stage.start,
                "epochs": stage.epochs,
                "limit": _each(stage.limits),
                "test_limit": _each([limits[task] for task in stage.tasks]),
                "method": [
                    {part.method.name: part.options.model_dump(mode="json", by_alias=True)}
                    for part in stage.parts
                ],
                "train": stage.train.model_dump(mode="json"),
                "origins": dict(stage.origins),
            }
            for stage in some
        ],
    }


def without_parts(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings without `PARTS`, and without where a value was written."""
    found = {key: value for key, value in stage.items() if key != "origins"}
    if "train" in found:
        found["train"] = {k: value for k, value in found["train"].items() if k not in PARTS}
    return found


def settings_checksum(settings: Mapping[str, Any]) -> str:
    """Of a run's settings without `PARTS`: two that have the same train the same."""
    return sha256_of({**settings, "stages": [without_parts(each) for each in settings["stages"]]})


def _each(values: Sequence[Any]) -> Any:
    """Of a stage for one task its value, else those of all."""
    return values[0] if len(values) == 1 else list(values)


def shared_settings(experiment: Experiment, tasks: Container[str], folder: Path) -> dict[str, Any]:
    """What all runs of an experiment that train on these tasks have in common."""
    config = experiment.config
    evaluation = config.eval.model_dump(mode="json")
    evaluation["general"] = {"after": config.eval.general.after, **config.eval.general.settings()}
    unscored = [task.name for task in experiment.tasks if not task.scored and task.name in tasks]
    return {
        "model": portable_model(config, folder),
        "eval": {key: value for key, value in evaluation.items() if value is not None},
        **({"unscored": unscored} if unscored else {}),
    }


def base_settings(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """What the base model's scores depend on, as `base/scores.json` records it."""
    config = experiment.config
    train = config.train
    return {
        "model": portable_model(config, folder),
        "stages": [[task.name, task.test_limit] for task in experiment.tasks if task.scored],
        "trace_limit": config.eval.trace.limit,
        "general": config.eval.general.settings(),
        "probes": config.eval.probes and config.eval.probes.model_dump(mode="json"),
        "prompt": [train.max_prompt_tokens, train.max_answer_tokens, train.truncation],
    }


def in_context_settings(experiment: Experiment, row: InContextSpec, folder: Path) -> dict[str, Any]:
    """What the scores of a row with worked examples depend on, as its `scores.json` records it."""
    base = base_settings(experiment, folder)
    own = {key: base[key] for key in ("model", "stages", "trace_limit", "prompt")}
    return {**own, "in_context": row.options.model_dump(mode="json"), "seed": row.seed}


def portable_model(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """The model section with a local path made relative, so that results can be moved."""
    path = config.model.path
    if path != QUICKSTART_MODEL:
        path = portable(path, folder)
    found = config.model.model_dump(mode="json", exclude={"start"}) | {"path": path}
    usual = {key: config.model.__pydantic_fields__[key].default for key in LATER}
    return {key: value for key, value in found.items() if usual.get(key, found) != value}


LATER = ("chat_template", "system", "fewshot_as_multiturn")
"""Keys of `model:` that older folders do not record: left out while they have their defaults."""


def contents(
    asked: Asked,
    examples: Mapping[tuple[str, int], Sequence[Example]],
    model_path: str | Path,
    say: Callable[[str], None] | None = None,
) -> Contents:
    """What the numbers are made of, besides the config."""
    data = scored_data(asked.leaves, asked.documents)
    for (task, seed), items in examples.items():
        data.setdefault(task, {})[training_rows(seed)] = examples_checksum(items)
    return {
        "model": model_contents(model_path, say),
        "tokenizer": tokenizer_contents(model_path),
        "tasks": definitions(asked),
        "data": data,
    }


def definitions(asked: Asked) -> dict[str, dict[str, str]]:
    """The definition of every stage task and every benchmark, by key."""
    stages = {name: definition({name: task}) for name, task in asked.stage_tasks.items()}
    return stages | {name: definition(members) for name, members in asked.general.items()}


def scored_data(
    leaves: Mapping[str, Any], documents: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, str]]:
    """sha256 of the scored documents of each leaf task, and of what its shots are drawn from."""
    found: dict[str, dict[str, str]] = {}
    for name, ids in documents.items():
        task = leaves[name]
        found[name] = {"test": sha256_of([str(task.eval_docs[i]) for i in ids])}
        if shots := shots_of(task):
            found[name]["shots"] = sha256_of(shots)
    return found


def recorded(file: Mapping[str, Any], data: Contents) -> dict[str, Any]:
    """The keys of `run.json` or of base's `scores.json` that hold `data`."""
    inputs = {key: value for key, value in data.items() if key != "data"}
    return {**file, "data": data["data"], "inputs": inputs}


def of_record(file: Mapping[str, Any]) -> Contents:
    """What a `run.json` or a `scores.json` records; keys are missing in those of older versions."""
    return {**file.get("inputs", {}), **({"data": file["data"]} if "data" in file else {})}


def of_base(data: Contents, columns: Iterable[str], general: Iterable[str]) -> Contents:
    """The part of the contents that the base model's scores depend on: no training rows."""
    wanted = {*columns, *general}
    rows = {
        leaf: kept
        for leaf, splits in data["data"].items()
        if (kept := {key: value for key, value in splits.items() if not key.startswith("train")})
    }
    tasks = {name: keys for name, keys in data["tasks"].items() if name in wanted}
    return {**data, "tasks": tasks, "data": rows}


def training_rows(seed: int) -> str:
    """The key of `data` for a task's training rows."""
    return f"train (seed {seed})"


def examples_checksum(items: Sequence[Example]) -> str:
    """Of prompts and answers, and of what of a prompt is learned."""
    return sha256_of(
        [[item.prompt, item.answer, *([item.learned] if item.learned else [])] for item in items]
    )
