"""Is this the same experiment, the same run? What numbers are bound to, and what differs.

A folder is bound to the settings that decide its numbers (`base_settings`, `run_settings`) and to
the contents of what it was made of (`contents`): weights, tokenizer, task definitions, rows. They
are compared (`check_same`) before anything is written or scored. What a folder of an older version
does not record cannot be compared, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.data.definitions import definition, own_code, shots_of
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError
from cl_bench.identity.differences import (
    content_differences,
    in_words,
    setting_differences,
    stage_differences,
)
from cl_bench.models.contents import model_contents, names, same_model, tokenizer_contents
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, located, portable, sha256_of, there
from cl_bench.store.seals import read_scores

if TYPE_CHECKING:
    from cl_bench.config.schema import ExperimentConfig
    from cl_bench.data.examples import Example
    from cl_bench.evaluation.suite import Suite
    from cl_bench.methods.spec import RunSpec

Contents = dict[str, Any]
"""`model`, `tokenizer`, `tasks` (checksum by task and key), `data` (by leaf task and split)."""
Rows = Callable[[str, int], "Sequence[Example]"]
"""The training examples of a task for a seed."""

IRRELEVANT: Mapping[str, str] = {
    "name": "names the folder, which may be renamed",
    "seeds": "each is a run of its own: more or fewer change none of the others",
    "task_paths": "where definitions lie; the definitions are compared",
    "data_root": "where rows lie; the rows are compared",
    "methods": "each is a run of its own; the options of every run are compared",
    "model.path": "where the model lies; its weights are compared (without them, the path)",
    "model.revision": "which commit is loaded; its weights are compared (without them, the name)",
    "allow_unreachable": "whether a run starts at all; none of its numbers depends on it",
    "stages.1.allow_unreachable": "as for all stages",
    "eval.general.budget": "a word for limits; the limits are compared",
}
"""Keys of a config that no run is bound to, and why."""


# --- What numbers are bound to


def run_settings(config: ExperimentConfig, run: RunSpec, folder: Path) -> dict[str, Any]:
    """Everything in the config that decides a run's numbers, as `run.json` records it."""
    code = own_code(part.method for stage in run.stages for part in stage.parts)
    return {
        "experiment": config.name,
        "label": run.label,
        "seed": run.seed,
        **_shared_settings(config, folder),
        **({"code": code} if code else {}),
        "stages": [
            {
                "index": stage.index,
                "tasks": list(stage.tasks),
                "start": stage.start,
                "epochs": stage.epochs,
                "limit": stage.limit,
                "test_limit": config.stages[stage.index - 1].test_limit,
                "method": [
                    {part.method.name: part.options.model_dump(mode="json", by_alias=True)}
                    for part in stage.parts
                ],
                "train": stage.train.model_dump(mode="json"),
                "origins": dict(stage.origins),
            }
            for stage in run.stages
        ],
    }


def _shared_settings(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """What all runs of an experiment have in common."""
    evaluation = config.eval.model_dump(mode="json")
    evaluation["general"] = {"after": config.eval.general.after, **config.eval.general.settings()}
    unscored = [canonical_name(stage.task) for stage in config.stages if not stage.score]
    return {
        "model": portable_model(config, folder),
        "eval": {key: value for key, value in evaluation.items() if value is not None},
        **({"unscored": unscored} if unscored else {}),
    }


def base_settings(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """What the base model's scores depend on, as `base/scores.json` records it."""
    train = config.train
    return {
        "model": portable_model(config, folder),
        "stages": [
            [canonical_name(stage.task), stage.test_limit] for stage in config.stages if stage.score
        ],
        "trace_limit": config.eval.trace.limit,
        "general": config.eval.general.settings(),
        "probes": config.eval.probes and config.eval.probes.model_dump(mode="json"),
        "prompt": [train.max_prompt_tokens, train.max_answer_tokens, train.truncation],
    }


def portable_model(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """The model section with a local path made relative, so that results can be moved."""
    path = config.model.path
    if path != QUICKSTART_MODEL:
        path = portable(path, folder)
    return config.model.model_dump(mode="json") | {"path": path}


def contents(
    suite: Suite,
    examples: Mapping[tuple[str, int], Sequence[Example]],
    model_path: str | Path,
    say: Callable[[str], None] | None = None,
) -> Contents:
    """What the numbers are made of, besides the config."""
    data = scored_data(suite.leaves, suite.documents)
    for (task, seed), items in examples.items():
        data.setdefault(task, {})[_train(seed)] = _examples_checksum(items)
    return {
        "model": model_contents(model_path, say),
        "tokenizer": tokenizer_contents(model_path),
        "tasks": definitions(suite),
        "data": data,
    }


def definitions(suite: Suite) -> dict[str, dict[str, str]]:
    """The definition of every stage task and every benchmark, by key."""
    stages = {name: definition({name: task}) for name, task in suite.stage_tasks.items()}
    return stages | {name: definition(members) for name, members in suite.general.items()}


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


def _train(seed: int) -> str:
    return f"train (seed {seed})"


def _examples_checksum(items: Sequence[Example]) -> str:
    return sha256_of([[item.prompt, item.answer] for item in items])


# --- Is it the same?


def check_same(
    folder: Path, config: ExperimentConfig, runs: Sequence[RunSpec], now: Contents, rows: Rows
) -> list[str]:
    """Raise UserError when what `folder` holds was made of other things than `config` says.

    Reads only. `runs` are all of the config's, not those of `--method` alone: whatever is added
    is compared with everything that is there. Returns lines about what cannot be compared.
    """
    found: dict[str, list[str]] = {}
    older: list[str] = []
    for who, record, texts in _compared(folder, config, runs, now, rows):
        for text in dict.fromkeys(texts):
            found.setdefault(text, []).append(who)
        older += [] if "inputs" in record else [who]
    if found:
        lines = [f"{folder}: {text} ({names(who)})" for text, who in found.items()]
        raise UserError(
            [
                *lines,
                f"{folder}: holds results that were made otherwise, and was left as it is: put "
                "back what differs, or give the config another name:",
            ]
        )
    if not older:
        return []
    return [
        f"{folder}: {names(older)}: of an older version that did not record weights, tokenizer "
        "and task definitions: they cannot be compared"
    ]


def _compared(
    folder: Path, config: ExperimentConfig, runs: Sequence[RunSpec], now: Contents, rows: Rows
) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """(who, its record, what differs) for the base model's scores and every run with results."""
    if there(folder / "base" / "scores.json"):
        record = read_scores(folder / "base")
        yield "base", record, list(_base_differences(record, config, folder, now))
    specs = {(run.slug, f"seed-{run.seed}"): run for run in runs}
    for place in sorted(path for path in folder.glob("*/seed-*") if bound(path)):
        who = f"{place.parent.name}/{place.name}"
        if not there(place / "run.json"):
            yield who, {"inputs": {}}, ["run.json is missing, but there are trained stages"]
            continue
        record = read_run(place / "run.json")
        spec = specs.get((place.parent.name, place.name))
        yield who, record, list(_run_differences(record, config, spec, folder, now, rows))


def bound(place: Path) -> bool:
    """Whether a run's folder holds results: a stage that is, or once was, trained or scored."""
    return RunFolder(place).bound


def _run_differences(
    record: Mapping[str, Any],
    config: ExperimentConfig,
    spec: RunSpec | None,
    folder: Path,
    now: Contents,
    rows: Rows,
) -> Iterator[str]:
    before, kept = record["config"], of_record(record)
    tasks = [task for stage in before["stages"] for task in stage["tasks"]]
    moved = stage_differences(tasks, [canonical_name(stage.task) for stage in config.stages])
    yield from moved
    yield from content_differences(kept, _with_rows(now, kept, before["seed"], rows))
    if moved:
        return
    if spec is not None:
        settings, defaults = run_settings(config, spec, folder), _defaults(spec)
    else:  # its method is no longer in the config: what it shares with the others is compared
        settings, defaults = _shared_settings(config, folder), {}
        before = {key: before[key] for key in ("model", "eval", "unscored") if key in before}
    yield from _setting_texts(before, settings, defaults, folder, kept, now)


def _base_differences(
    record: Mapping[str, Any], config: ExperimentConfig, folder: Path, now: Contents
) -> Iterator[str]:
    kept = of_record(record)
    before, settings = record["settings"], base_settings(config, folder)
    sides = [[task for task, _ in each["stages"]] for each in (before, settings)]
    moved = stage_differences(sides[0], sides[1])
    yield from moved
    yield from content_differences(kept, now)
    if not moved:
        known = {key: value for key, value in settings.items() if key in before}
        yield from _setting_texts(_as_config(before), _as_config(known), {}, folder, kept, now)


def _as_config(base: Mapping[str, Any]) -> dict[str, Any]:
    """Base's settings under the names that they have in a config."""
    prompt = ("max_prompt_tokens", "max_answer_tokens", "truncation")
    evaluation = {key: base[key] for key in ("general", "probes") if key in base}
    return {
        "model": base["model"],
        "stages": [{"test_limit": limit} for _, limit in base["stages"]],
        "eval": {**evaluation, "trace": {"limit": base.get("trace_limit")}},
        "train": dict(zip(prompt, base.get("prompt", []), strict=False)),
    }


def _setting_texts(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    defaults: Mapping[str, Any],
    folder: Path,
    kept: Contents,
    contents_now: Contents,
) -> Iterator[str]:
    sides = [_compared_keys(each) for each in (before, now)]
    paths = [str(side["model"].pop("path")) for side in sides]
    revisions = [side["model"].pop("revision", None) for side in sides]
    if same_model(kept.get("model", {}), contents_now.get("model", {})) is None:
        # Neither weights nor commits to compare: then the names must be the same.
        if not _same_path(paths[0], paths[1], folder):
            yield in_words(["model", "path"], paths[0], paths[1])
        if revisions[0] != revisions[1]:
            yield in_words(["model", "revision"], revisions[0], revisions[1])
    if "code" not in before:
        sides[1].pop("code", None)
    found: dict[str, list[str]] = {}
    for path, old, new in setting_differences(sides[0], sides[1], defaults):
        of_stage = path[0] == "stages" and len(path) > 2
        text = in_words(path[2:] if of_stage else path, old, new)
        found.setdefault(text, []).extend([str(int(path[1]) + 1)] if of_stage else [])
    for text, stages in found.items():
        some = 0 < len(stages) < len(sides[1]["stages"])
        yield f"{text}, stage {names(stages)}" if some else text


def _compared_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without what no number depends on: the folder's name, where a value was written."""
    found = {key: value for key, value in settings.items() if key != "experiment"}
    found["model"] = dict(found["model"])
    found["stages"] = [
        {key: value for key, value in stage.items() if key != "origins"}
        if isinstance(stage, Mapping)
        else stage
        for stage in found.get("stages", [])
    ]
    return found


def _same_path(before: str, now: str, folder: Path) -> bool:
    """Whether two recorded paths are one place; older versions kept some as they were written."""
    ours, theirs = (Path(located(path, folder.resolve())) for path in (before, now))
    written = Path(before).parts
    return ours == theirs or (not ours.is_absolute() and theirs.parts[-len(written) :] == written)


def _defaults(run: RunSpec) -> dict[str, Any]:
    """Of the keys that an older version may not have known."""
    from pydantic import ValidationError

    from cl_bench.config.schema import EvalConfig, TrainConfig

    stages = []
    for stage in run.stages:
        methods = []
        for part in stage.parts:
            try:
                options = type(part.options)().model_dump(mode="json", by_alias=True)
            except ValidationError:  # some have no default
                options = {}
            methods.append({part.method.name: options})
        stages.append({"train": TrainConfig().model_dump(mode="json"), "method": methods})
    return {"eval": EvalConfig().model_dump(mode="json"), "stages": stages}


def _with_rows(now: Contents, kept: Contents, seed: int, rows: Rows) -> Contents:
    """`now` with the training rows of a seed that the config may not list any more."""
    key, data = _train(seed), dict(now["data"])
    for task, splits in kept.get("data", {}).items():
        if key in splits and task in now["tasks"] and key not in data.get(task, {}):
            data[task] = {**data.get(task, {}), key: _examples_checksum(rows(task, seed))}
    return {**now, "data": data}
