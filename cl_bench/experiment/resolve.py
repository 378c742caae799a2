"""From the config to what is run: one `RunSpec` per method and seed, every value with its origin.

A command resolves its config once and hands the `Experiment` down; no other module reads `stages:`
but the check of the names in it (`data/task_names.py`).

Precedence, weakest first: built-in default, the method's own default, `train:`, the method's
entry, the stage's entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cl_bench.config.file import faults, read_config
from cl_bench.config.further_faults import sound_part
from cl_bench.config.labels import label_faults
from cl_bench.config.schema import (
    QUICKSTART_MODEL,
    ExperimentConfig,
    MethodEntry,
    TrainConfig,
    slug,
)
from cl_bench.config.stages import StageConfig
from cl_bench.data.own_files.task import StageData
from cl_bench.data.task_names import name_faults
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError, nearest
from cl_bench.experiment.base_rows import in_context_rows
from cl_bench.experiment.lists import entries_of
from cl_bench.experiment.schedule import schedule
from cl_bench.experiment.started import started
from cl_bench.experiment.until import stopped
from cl_bench.methods.base import Method
from cl_bench.methods.registry import BASE_ROW, method_class
from cl_bench.methods.spec import Experiment, MethodPart, RunSpec, StageSpec, TaskSpec
from cl_bench.methods.static_checks import composition_fault
from cl_bench.methods.user_files import method_from_file, split_file


def resolve_file(
    path: str,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    results: Path = Path("results"),
    until: str | None = None,
) -> Experiment:
    """Read a config and resolve it; every fault names the file, all come together.

    `results`: where `model: {from: ...}` looks for runs. `until`: the stage after which to stop.
    """
    file, data = read_config(path, overrides)
    found: list[str] = []
    try:
        data = started(data, file, results)
    except UserError as error:
        found = [f"{file}: {fault}" for fault in error.faults]
        data = {**data, "model": {"path": QUICKSTART_MODEL}}
    config: ExperimentConfig | None
    try:
        config = ExperimentConfig.model_validate(data)
    except ValidationError as error:
        found += faults(error, ExperimentConfig, str(file))
        config = sound_part(data)
        if any(item["loc"][:1] == ("methods",) for item in error.errors()):
            only = ()
    experiment: Experiment | None = None
    if config is not None:
        try:
            experiment = stopped(resolve(config, only), until)
        except UserError as error:
            found += [f"{path}: {fault}" for fault in error.faults]
        found += [f"{path}: {fault}" for fault in name_faults(config)]
    if found or experiment is None:
        raise UserError(list(dict.fromkeys(found)))
    return experiment


def resolve(config: ExperimentConfig, only: Sequence[str] = ()) -> Experiment:
    """Every run of the experiment, in the order of `methods:` and `seeds:`.

    `only` chooses the methods with these labels or names. Raises UserError with every fault.
    """
    experiment, problems = resolve_tasks(config)
    entries = _entries(config, problems)
    runs: list[RunSpec] = []
    for order, (label, per_stage, of) in enumerate(entries):
        stages = []
        for index, (stage, entry) in enumerate(zip(config.stages, per_stage, strict=True), 1):
            spec = _resolve_stage(config, index, stage, entry, label, problems)
            if spec is not None:
                stages.append(spec)
        if len(stages) < len(config.stages):
            continue
        try:
            scheduled = schedule(experiment, stages, by_stage=config.methods is None)
        except UserError as error:
            problems += [f"methods: {label}: {fault}" for fault in error.faults]
            continue
        runs += [RunSpec(label, slug(label), seed, scheduled, order, of) for seed in config.seeds]
    _check_stage_keys(config, entries, problems)
    rows = in_context_rows(config, problems)
    problems += label_faults([label for label, _, _ in entries] + [row[0].label for row in rows])
    known = list(dict.fromkeys(name for run in runs for name in (run.label, *run.named)))
    known += [*(row[0].label for row in rows), *([BASE_ROW] if rows else [])]
    unknown = [name for name in only if slug(name) not in set(map(slug, known))]
    if len({run.order for run in runs}) == len(entries):  # else the fault that hides one is told
        problems += [f"--method {name}: not in methods:{nearest(name, known)}" for name in unknown]
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    wanted = {slug(name) for name in only}
    chosen = [run for run in runs if not wanted or wanted & {run.slug, *map(slug, run.named)}]
    every = tuple(one for row in rows for one in row)
    some = tuple(one for one in every if not wanted or wanted & {one.slug, BASE_ROW})
    return replace(
        experiment,
        runs=tuple(runs),
        chosen=tuple(chosen),
        in_context=every,
        chosen_in_context=some,
    )


def resolve_tasks(config: ExperimentConfig) -> tuple[Experiment, list[str]]:
    """The tasks without the runs, for which no method is looked at, and what is wrong with them."""
    visits: dict[str, list[StageConfig]] = {}
    for stage in config.stages:
        visits.setdefault(canonical_name(stage.task), []).append(stage)
    tasks = tuple(
        TaskSpec(
            name=name,
            given=own[0].task,
            scored=own[0].score,
            test_limit=own[0].test_limit,
            limits=tuple(stage.limit for stage in own),
            allow_unreachable=any(stage.allow_unreachable for stage in own),
            data=next((data for stage in own if (data := _rows_of(stage))), None),
        )
        for name, own in visits.items()
    )
    problems = [
        f"stages: {name}: {key} differs between its stages ({', '.join(map(str, values))}): a task "
        "is one column of the matrix, scored on the same documents after every stage"
        for name, own in visits.items()
        for key in ("test_limit", "score")
        if len(values := dict.fromkeys(getattr(stage, key) for stage in own)) > 1
    ]
    problems += [fault for name, own in visits.items() for fault in _several_rows(name, own)]
    sequence = tuple(canonical_name(stage.task) for stage in config.stages)
    return Experiment(config, tasks, sequence), problems


def _rows_of(stage: StageConfig) -> StageData | None:
    """The user's own rows that a stage names."""
    if stage.data is None:
        return None
    return StageData(stage.data, stage.test, stage.holdout, tuple(stage.metrics or ()))


def _several_rows(name: str, stages: Sequence[StageConfig]) -> Iterator[str]:
    """A task that is made of one file here and of another, or scored otherwise, there."""
    given = list(dict.fromkeys(found for stage in stages if (found := _rows_of(stage))))
    for key in ("data", "test", "holdout", "metrics"):
        values = list(dict.fromkeys(getattr(each, key) for each in given))
        if len(values) > 1:
            yield (
                f"stages: {name}: {key} differs between stages of this name "
                f"({', '.join(map(str, values))}): give other rows another name with task:, and "
                f"write `task: {name}` alone to train on these again"
            )
            return


def _entries(
    config: ExperimentConfig, problems: list[str]
) -> list[tuple[str, list[MethodEntry], str]]:
    """For each run its label, one entry per stage, and the label of the entry that lists its values
    (empty without a list); `ori` is not a run."""
    if config.methods is None:
        own = [_stage_entry(stage, i, problems) for i, stage in enumerate(config.stages)]
        label = " then ".join(dict.fromkeys(_default_label(entry) for entry in own))
        problems += label_faults([label])
        return [(label, own, "")]
    return [
        (label, [one] * len(config.stages), of)
        for entry in config.methods
        if entry.name != BASE_ROW
        for label, one, of in _listed(entry, problems)
    ]


def _listed(entry: MethodEntry, problems: list[str]) -> list[tuple[str, MethodEntry, str]]:
    """An entry, or those that its lists stand for, with its own label."""
    whole = _default_label(entry)
    classes = _classes(entry, whole, [])
    try:
        found = entries_of(entry, whole, classes or [])
    except UserError as error:
        problems += [f"methods: {whole}: {fault}" for fault in error.faults]
        return [(whole, MethodEntry(name="sft"), "")]
    return [(label, one, "" if label == whole else whole) for label, one in found]


def _stage_entry(stage: StageConfig, index: int, problems: list[str]) -> MethodEntry:
    try:
        return MethodEntry.model_validate(stage.method)
    except ValidationError as error:
        problems += faults(error, MethodEntry, f"stages.{index}.method")
        return MethodEntry(name="sft")


def _default_label(entry: MethodEntry) -> str:
    if entry.label is not None:
        return entry.label
    if entry.compose:
        parts = [p if isinstance(p, str) else str(p.get("name", "file")) for p in entry.compose]
        return " + ".join(parts)
    if entry.name:
        return entry.name
    path, name = split_file(str(entry.file))
    return name or path.stem


def _resolve_stage(
    config: ExperimentConfig,
    index: int,
    stage: StageConfig,
    entry: MethodEntry,
    label: str,
    problems: list[str],
) -> StageSpec | None:
    classes = _classes(entry, label, problems)
    if classes is None:
        return None
    train, origins = _train(config, stage, index, entry, label, [c for c, _ in classes], problems)
    parts = []
    for method, own in classes:
        values = {
            key: value
            for source in (entry.overrides, own, stage.overrides)
            for key, value in source.items()
            if key in option_keys(method)
        }
        try:
            parts.append(MethodPart(method, method.options_type.model_validate(values)))
        except ValidationError as error:
            problems += faults(error, method.options_type, f"methods: {label}")
    if train is None or len(parts) != len(classes):
        return None
    tasks, limits = (canonical_name(stage.task),), (stage.limit,)
    return StageSpec(index, tasks, stage.epochs, limits, train, origins, tuple(parts))


def option_keys(method: type[Method]) -> set[str]:
    """The keys a user writes for a method's options (aliases where there are some)."""
    return {field.alias or name for name, field in method.options_type.model_fields.items()}


def _classes(
    entry: MethodEntry, label: str, problems: list[str]
) -> list[tuple[type[Method], dict[str, Any]]] | None:
    """The classes of an entry, with the options given to a part of a composition."""
    parts: list[Any] = entry.compose if entry.compose is not None else [entry]
    found: list[tuple[type[Method], dict[str, Any]]] = []
    for part in parts:
        try:
            given = part if isinstance(part, MethodEntry) else MethodEntry.model_validate(part)
            if given is not entry and (given.compose or given.label is not None):
                what = "compose: [...]" if given.compose else "a label:"
                raise UserError(f"compose: {what} inside of a composition: name its methods alone")
            file = given.file
            cls = method_from_file(*split_file(file)) if file else method_class(str(given.name))
            found.append((cls, {} if given is entry else given.overrides))
        except UserError as error:
            problems += [f"methods: {label}: {fault}" for fault in error.faults]
            return None
        except ValidationError as error:
            problems += faults(error, MethodEntry, f"methods: {label}: compose")
            return None
    if len({cls.name for cls, _ in found}) != len(found):
        problems.append(f"methods: {label}: compose: a method is listed twice")
        return None
    if fault := composition_fault([cls for cls, _ in found]):
        problems.append(f"methods: {label}: {fault}")
    known = set(TrainConfig.model_fields).union(*(option_keys(cls) for cls, _ in found))
    for key in entry.overrides:
        if key not in known:
            problems.append(f"methods: {label}: {key}: unknown key{nearest(key, known)}")
    for cls, own in found:
        for key in own.keys() - option_keys(cls):
            hint = nearest(key, option_keys(cls))
            problems.append(f"methods: {label}: {cls.name}: {key}: unknown key{hint}")
    return found


def _train(
    config: ExperimentConfig,
    stage: StageConfig,
    index: int,
    entry: MethodEntry,
    label: str,
    classes: list[type[Method]],
    problems: list[str],
) -> tuple[TrainConfig | None, dict[str, str]]:
    keys = TrainConfig.model_fields.keys()
    origins = dict.fromkeys(keys, "default")
    values: dict[str, Any] = {}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        *((f"method {cls.name}", cls.train_defaults) for cls in classes),
        ("train", {key: getattr(config.train, key) for key in config.train.model_fields_set}),
        (f"methods: {label}", {k: v for k, v in entry.overrides.items() if k in keys}),
        (f"stages.{index - 1}", {k: v for k, v in stage.overrides.items() if k in keys}),
    ]
    for origin, layer in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    try:
        return TrainConfig.model_validate(values), origins
    except ValidationError as error:
        problems += faults(error, TrainConfig, f"methods: {label}, stages.{index - 1}")
        return None, origins


def _check_stage_keys(
    config: ExperimentConfig,
    entries: Sequence[tuple[str, Sequence[MethodEntry], str]],
    problems: list[str],
) -> None:
    """A stage's extra key must be one of `train:` or an option of some method of the file."""
    known = set(TrainConfig.model_fields)
    for _, per_stage, _ in entries:
        for entry in per_stage:
            for cls, _ in _classes(entry, _default_label(entry), []) or []:
                known |= option_keys(cls)
    for index, stage in enumerate(config.stages):
        for key in stage.overrides:
            if key not in known:
                hint = nearest(key, known | set(StageConfig.model_fields))
                problems.append(f"stages.{index} ({stage.task}): {key}: unknown key{hint}")
