"""Is this the same experiment, the same run? Asked before anything is written or scored.

What a folder of an older version does not record cannot be compared, and is said. Stages that are
appended at the end make no other experiment: what is there is compared with its own part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.config.evaluation import ProbesEval
from cl_bench.errors import UserError
from cl_bench.identity.bindings import (
    Contents,
    base_settings,
    examples_checksum,
    in_context_settings,
    of_record,
    run_settings,
    shared_settings,
    training_rows,
    without_parts,
)
from cl_bench.identity.differences import (
    content_differences,
    in_words,
    setting_differences,
    stage_differences,
)
from cl_bench.models.contents import names, same_model
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, located, there
from cl_bench.store.seals import read_scores

if TYPE_CHECKING:
    from cl_bench.data.examples import Example
    from cl_bench.methods.spec import Experiment, RunSpec

Rows = Callable[[str, "int | None", int], "Sequence[Example]"]
"""So many training examples of a task for a seed."""


def check_same(folder: Path, experiment: Experiment, now: Contents, rows: Rows) -> list[str]:
    """Raise UserError when what `folder` holds was made of other things than the config says.

    Reads only. All runs of the config are compared, not those of `--method` alone: whatever is
    added must fit everything that is there. Returns lines about what cannot be compared.
    """
    found: dict[str, list[str]] = {}
    older: list[str] = []
    for who, record, texts in _compared(folder, experiment, now, rows):
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
    folder: Path, experiment: Experiment, now: Contents, rows: Rows
) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """(who, its record, what differs) for the base model's scores and every run with results."""
    if there(folder / "base" / "scores.json"):
        record = read_scores(folder / "base")
        settings = base_settings(experiment, folder)
        yield "base", record, list(_base_differences(record, settings, folder, now))
    for row in experiment.in_context:
        if there(folder / row.folder / "scores.json"):
            record = read_scores(folder / row.folder)
            settings = in_context_settings(experiment, row, folder)
            yield row.folder, record, list(_base_differences(record, settings, folder, now))
    specs = {(run.slug, f"seed-{run.seed}"): run for run in experiment.runs}
    for place in sorted(path for path in folder.glob("*/seed-*") if bound(path)):
        who = f"{place.parent.name}/{place.name}"
        if not there(place / "run.json"):
            yield who, {"inputs": {}}, ["run.json is missing, but there are trained stages"]
            continue
        record = read_run(place / "run.json")
        spec = specs.get((place.parent.name, place.name))
        yield who, record, list(_run_differences(record, experiment, spec, folder, now, rows))


def bound(place: Path) -> bool:
    """Whether a run's folder holds results: a stage that is, or once was, trained or scored."""
    return RunFolder(place).bound


def _run_differences(
    record: Mapping[str, Any],
    experiment: Experiment,
    spec: RunSpec | None,
    folder: Path,
    now: Contents,
    rows: Rows,
) -> Iterator[str]:
    before, kept = record["config"], of_record(record)
    recorded = [stage["tasks"] for stage in before["stages"]]
    ours = [[task] for task in experiment.sequence]
    if spec is not None:
        ours = [list(stage.tasks) for stage in spec.stages]
    elif any(
        len(tasks) > 1 for tasks in recorded
    ):  # of an order that no method of the config knows
        known = dict.fromkeys(experiment.sequence)
        recorded, ours = [[task] for task in _flat(recorded)], [[task] for task in known]
    moved = stage_differences(recorded, ours)
    yield from moved
    yield from content_differences(kept, _with_rows(now, record, experiment, rows))
    if moved:
        return
    if spec is not None:
        settings = run_settings(experiment, spec, folder, len(recorded))
        defaults = _defaults(spec, len(recorded))
    else:  # its method is no longer in the config: what it shares with the others is compared
        settings = shared_settings(experiment, _flat(recorded), folder)
        defaults = {"eval": {"probes": ProbesEval().model_dump(mode="json")}}
        before = {key: before[key] for key in ("model", "eval", "unscored") if key in before}
    yield from _setting_texts(before, settings, defaults, folder, kept, now)


def _flat(stages: Sequence[Sequence[str]]) -> list[str]:
    return [task for tasks in stages for task in tasks]


def _base_differences(
    record: Mapping[str, Any], settings: dict[str, Any], folder: Path, now: Contents
) -> Iterator[str]:
    """Of the base model's row, or of one with worked examples."""
    kept, before = of_record(record), record["settings"]
    recorded, ours = ([[task] for task, _ in each["stages"]] for each in (before, settings))
    moved = stage_differences(recorded, ours)
    yield from moved
    yield from content_differences(kept, now)
    if not moved:
        settings["stages"] = settings["stages"][: len(recorded)]
        known = {key: value for key, value in settings.items() if key in before}
        older = {"eval": {"probes": ProbesEval().model_dump(mode="json")}}
        yield from _setting_texts(_as_config(before), _as_config(known), older, folder, kept, now)


def _as_config(base: Mapping[str, Any]) -> dict[str, Any]:
    """Base's settings under the names that they have in a config."""
    prompt = ("max_prompt_tokens", "max_answer_tokens", "truncation")
    evaluation = {key: base[key] for key in ("general", "probes") if key in base}
    return {
        **{key: base[key] for key in ("in_context", "seed") if key in base},
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
        without_parts(stage) if isinstance(stage, Mapping) else stage
        for stage in found.get("stages", [])
    ]
    return found


def _same_path(before: str, now: str, folder: Path) -> bool:
    """Whether two recorded paths are one place; older versions kept some as they were written."""
    ours, theirs = (Path(located(path, folder.resolve())) for path in (before, now))
    written = Path(before).parts
    return ours == theirs or (not ours.is_absolute() and theirs.parts[-len(written) :] == written)


def _defaults(run: RunSpec, count: int) -> dict[str, Any]:
    """Of the keys that an older version may not have known, of the first stages."""
    from pydantic import ValidationError

    from cl_bench.config.evaluation import EvalConfig
    from cl_bench.config.schema import TrainConfig

    stages = []
    for stage in run.stages[:count]:
        methods = []
        for part in stage.parts:
            try:
                options = type(part.options)().model_dump(mode="json", by_alias=True)
            except ValidationError:  # some have no default
                options = {}
            methods.append({part.method.name: options})
        stages.append({"train": TrainConfig().model_dump(mode="json"), "method": methods})
    return {"eval": EvalConfig().model_dump(mode="json"), "stages": stages}


def _with_rows(
    now: Contents, record: Mapping[str, Any], experiment: Experiment, rows: Rows
) -> Contents:
    """`now` with the training rows that the record is about, where they are not among them.

    Those of a seed that the config does not list any more, and, of a task that another stage
    trains on since, the smaller sample of before.
    """
    from cl_bench.methods.spec import widest

    seed, before = record["config"]["seed"], record["config"]["stages"]
    key, data = training_rows(seed), dict(now["data"])
    samples: dict[str, list[int | None]] = {}
    for stage in before:
        limits = stage["limit"] if isinstance(stage["limit"], list) else [stage["limit"]]
        for task, limit in zip(stage["tasks"], limits, strict=True):
            samples.setdefault(task, []).append(limit)
    visits = {task.name: len(task.limits) for task in experiment.tasks}
    for task, splits in of_record(record).get("data", {}).items():
        if key not in splits or task not in visits:
            continue
        more = task in samples and len(samples[task]) < visits[task]
        if more or key not in data.get(task, {}):
            limit = widest(samples[task]) if more else experiment.limit_of(task)
            checksum = examples_checksum(rows(task, limit, seed))
            data[task] = {**data.get(task, {}), key: checksum}
    return {**now, "data": data}
