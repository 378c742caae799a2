"""Loading tasks through lm-evaluation-harness, with every fault of all of them in one message."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.data.choices import empty_choice_at_load
from cl_bench.data.examples import training_faults
from cl_bench.data.functions import guard_functions
from cl_bench.data.local_files import (
    absolute_paths,
    beside_yaml,
    find_files_beside_yamls,
    table_files,
)
from cl_bench.data.own_files.task import OwnTask, StageData, own_task
from cl_bench.data.sources import resolve_data_root
from cl_bench.data.table_files import unreadable
from cl_bench.data.task_yaml import unfit
from cl_bench.data.tasks import (
    canonical_name,
    defining_file,
    packaged_files,
    packaged_folder,
    task_folders,
    unknown_task,
)
from cl_bench.data.templates import guard_templates
from cl_bench.errors import UserError


@dataclass(frozen=True)
class LoadedTasks:
    """Loaded tasks. Names are canonical."""

    tasks: dict[str, Any] = field(default_factory=dict)
    """Every leaf task, a `lm_eval.api.task.ConfigurableTask`."""
    members: dict[str, list[str]] = field(default_factory=dict)
    """For each requested name its leaf tasks: itself, or those of the group."""
    groups: dict[str, Any] = field(default_factory=dict)
    """`lm_eval.api.group.Group` objects, for lm-eval's aggregation."""
    own: dict[str, OwnTask] = field(default_factory=dict)
    """Of these tasks those that are made of the user's own rows."""


def load_tasks(
    names: Iterable[str],
    data_root: str | Path | None = None,
    task_paths: Sequence[str | Path] = (),
    *,
    require_training: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The leaf tasks of `load_suite`, by canonical name."""
    suite = load_task_set(
        names, data_root, task_paths, require_training=require_training, metadata=metadata
    )
    return suite.tasks


def load_task_set(
    names: Iterable[str],
    data_root: str | Path | None = None,
    task_paths: Sequence[str | Path] = (),
    *,
    require_training: Iterable[str] = (),
    train_only: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    own: Mapping[str, StageData] | None = None,
) -> LoadedTasks:
    """Loads tasks and groups by name, with their data.

    `data_root` None means `$CL_BENCH_DATA_ROOT` or the user cache. Tasks named in
    `require_training` are loaded too and must have answers to train on; those in `train_only` need
    no test documents. `metadata` is passed to the YAMLs' functions beside `data_root`. `own` are
    tasks that no YAML defines: what they are made of.

    Raises UserError with the faults of all tasks: folders that do not exist, unknown names, YAMLs
    that do not resolve, missing or malformed data, no or an empty training set.
    """
    stages = {canonical_name(name) for name in require_training}
    unscored = {canonical_name(name) for name in train_only}
    wanted = list(dict.fromkeys([*map(canonical_name, names), *sorted(stages)]))
    folders = task_folders(task_paths)
    faults = [f"task_paths: {path} is not a folder" for path in folders if not path.is_dir()]
    suite = LoadedTasks()
    made = own or {}
    with quiet_lm_eval():
        passed = {"data_root": str(resolve_data_root(data_root)), **(metadata or {})}
        manager, missing = _manager([n for n in wanted if n not in made], folders, passed)
        faults += [_why_missing(name, task_paths) for name in sorted(missing)]
        for name in wanted:
            if name in made:
                faults += _make_into(suite, manager, name, made[name], name not in unscored)
            elif name not in missing:
                spec = _without_test(manager, name) if name in unscored else name
                faults += _load_into(suite, manager, name, spec)
    faults += _stage_faults(suite, sorted(stages & suite.members.keys()))
    if faults:
        raise UserError(faults)
    return suite


def _stage_faults(suite: LoadedTasks, stages: Iterable[str]) -> list[str]:
    faults: list[str] = []
    for name in stages:
        if name in suite.groups:
            faults.append(f"{name}: cannot be trained on: it is a group of tasks")
        else:
            faults += training_faults(suite.tasks[name])
    return faults


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keeps back warnings about YAML options and the Hub's retries; errors stay."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _manager(
    wanted: Sequence[str], folders: Sequence[Path], metadata: dict[str, Any]
) -> tuple[Any, set[str]]:
    """A TaskManager over our folders and those packaged ones that `wanted` needs.

    Returns it with the names that nothing defines, members of groups among them.
    """
    from lm_eval.tasks import TaskManager

    guard_templates()
    guard_functions([packaged_folder(), *folders])
    packaged: list[Path] = []
    while True:
        manager = TaskManager(
            include_path=[str(path) for path in [*packaged, *folders]],
            include_defaults=False,
            metadata=metadata,
        )
        find_files_beside_yamls(manager)
        missing = _undefined(manager.task_index, wanted)
        more = {path.parent for path in packaged_files(missing).values()} - set(packaged)
        if not more:
            return manager, missing
        packaged += sorted(more)


def _undefined(index: Mapping[str, Any], wanted: Iterable[str]) -> set[str]:
    """Names without a YAML, among `wanted` and the members of their groups."""
    missing: set[str] = set()
    seen: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in index:
            queue += _members(index[name].cfg or {})
        else:
            missing.add(name)
    return missing


def _members(group: Mapping[str, Any]) -> list[str]:
    """Names that a group's YAML refers to; a member with its own dataset is defined in place."""
    names: list[str] = []
    listed = group.get("task")
    for member in listed if isinstance(listed, list) else []:
        if isinstance(member, str):
            names.append(member)
        elif not isinstance(member, dict):
            continue  # loading it says so
        elif isinstance(member.get("task"), list):
            names += _members(member)
        elif "dataset_path" not in member:
            names.append(member.get("task") or member["group"])
    return names


def _why_missing(name: str, task_paths: Sequence[str | Path]) -> str:
    """lm-eval leaves out a YAML that it cannot read, without a word: say what is wrong with it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    path = defining_file(name, task_paths)
    if path is None:
        return unknown_task(name, task_paths) or f"{name}: lm-eval could not read its YAML"
    try:
        load_yaml(path, resolve_func=False)
    except Exception as error:
        return f"{path}: cannot be read ({_one_line(error)})"
    return f"{path}: lm-eval does not find the task '{name}' that it defines"


def _without_test(manager: Any, name: str) -> str | dict[str, Any]:
    """How to load a task that may lack test documents: lm-eval insists on a split of them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    path = manager.task_index[name].yaml_path
    if path is None:
        return name
    config = load_yaml(path, resolve_func=True)
    splits = [config.get(f"{split}_split") for split in ("test", "validation", "training")]
    if splits[0] or splits[1] or not splits[2]:
        return name
    return beside_yaml({**config, "validation_split": splits[2]}, Path(path).parent)


def _load_into(
    suite: LoadedTasks, manager: Any, name: str, spec: str | dict[str, Any]
) -> list[str]:
    try:
        loaded = manager.load([spec])
    except UserError as error:
        return [type(fault)(f"{name}: {fault}") for fault in error.faults]
    except RecursionError:
        return [f"{name}: could not be loaded: it is nested too deeply, or a group holds itself"]
    except (Exception, SystemExit) as error:
        if fault := empty_choice_at_load(error):
            return [fault]
        if found := _unfit(manager, name, error):
            return [f"{name}: {fault}" for fault in found]
        return [f"{name}: could not be loaded ({_one_line(error)})"]
    if empty := [group for group in loaded["groups"] if not loaded["tasks"]]:
        return [f"{group}: a group without tasks" for group in empty[:1]]
    if twice := sorted(suite.tasks.keys() & loaded["tasks"].keys()):
        return [f"{name}: {', '.join(twice[:3])} is part of another task of the list too"]
    suite.tasks.update(loaded["tasks"])
    suite.groups.update(loaded["groups"])
    suite.members[name] = list(loaded["tasks"])
    return []


def _make_into(
    suite: LoadedTasks, manager: Any, name: str, data: StageData, scored: bool
) -> list[str]:
    try:
        suite.own[name] = made = own_task(name, data, scored)
    except UserError as error:
        return list(error.faults)
    return _load_into(suite, manager, name, made.config)


def _unfit(manager: Any, name: str, error: BaseException) -> list[str]:
    """What a task's YAML names that is not there, where that may be why it cannot be loaded."""
    entry = manager.task_index.get(name)
    if entry is None or not isinstance(entry.cfg, dict):
        return []
    config = entry.cfg
    if entry.yaml_path:
        config = absolute_paths(config, Path(entry.yaml_path).parent)
    return unfit(config, error) or unreadable(config.get("dataset_path"), table_files(config))


def _one_line(error: BaseException) -> str:
    """Type and message, and those of what caused it: `datasets` says only that it failed."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    cause = error.__cause__
    return text if cause is None else f"{text}; caused by {_one_line(cause)}"
