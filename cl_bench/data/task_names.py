"""Task names that do not mean one thing: two spellings, two files, one name for two tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cl_bench.config.yaml_text import text_faults
from cl_bench.data.tasks import (
    canonical_name,
    defined_in,
    general_name,
    known_task_names,
    packaged_files,
    packaged_twin,
    task_folders,
)
from cl_bench.errors import UserError

if TYPE_CHECKING:
    from cl_bench.config.schema import ExperimentConfig

LONGEST = 200
"""Bytes of a task's name, which begins the names of files; file systems allow 255 in all."""
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]|^\.+$")
_INCLUDE = re.compile(r"^include:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
Files = Mapping[str, Sequence[Path]]
"""By name, the YAMLs that define it."""


def name_faults(config: ExperimentConfig) -> list[str]:
    """Everything about the names of a config's tasks that would be settled in silence otherwise."""
    general = config.eval.general
    within = config.eval.within_stage
    inside = (within.tasks or []) if within else []
    stages = {canonical_name(stage.task): stage.task for stage in config.stages}
    wanted = [name for name in general.tasks if general.after != "never" or name in inside]
    folders = [Path(path) for path in config.task_paths]
    found = [f"task_paths: {path} is not a folder" for path in folders if not path.is_dir()]
    benchmarks: dict[str, str] = {}
    for name in wanted:
        try:
            task = general_name(name, config.task_paths, general.protocol)
        except UserError as error:
            found += error.faults
            continue
        if task in stages:
            found.append(
                f"eval.general.tasks: {name}: a task that is a stage ({stages[task]}) has its "
                "scores in the matrix: leave it out of General"
            )
        if task in benchmarks:
            found.append(f"eval.general.tasks: {_twice(benchmarks[task], name)}")
        benchmarks[task] = name
    found += [*_two_spellings(config), *_twice_inside(inside), *_taken(config)]
    given = {**{name: name for name in stages.values()}, **{n: t for t, n in benchmarks.items()}}
    own = _files(task_folders(config.task_paths)[1:])
    if own:
        found += _shadowed(stages, benchmarks, own)
        found += _ambiguous([*map(canonical_name, stages), *benchmarks], own)
    return found + [fault for name in given for fault in _unsafe(name)]


def _taken(config: ExperimentConfig) -> Iterator[str]:
    """Names of the user's own rows that a task has already."""
    names = {stage.task: stage.data for stage in config.stages if stage.data is not None}
    for name, data in names.items():
        if name_taken(name, config.task_paths):
            yield f"stages: {data}: the name '{name}' is that of a task already: give task: too"


def name_taken(name: str, task_paths: Iterable[str | Path] = ()) -> bool:
    """Whether a task of cl-bench, of the user's folders or of lm-evaluation-harness has it."""
    return canonical_name(name) in known_task_names(task_paths) or packaged_twin(name) is not None


def _twice(first: str, second: str) -> str:
    return f"{first} twice" if first == second else f"{first} and {second} are one task"


def _twice_inside(names: Sequence[str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name in names:
        task = canonical_name(name)
        if task in seen:
            yield f"eval.within_stage.tasks: {_twice(seen[task], name)}"
        seen[task] = name


def _unsafe(name: str) -> Iterator[str]:
    if _UNSAFE.search(name):
        yield f"task {name!r}: a task's name begins names of files: it holds no / or \\"
    elif len(name.encode()) > LONGEST:
        yield f"task {name[:40]}...: a name of {len(name)} characters: at most {LONGEST}"


def _files(folders: Iterable[Path]) -> Files:
    """What the YAMLs under some folders define; a file that is reached twice counts once."""
    found: dict[str, list[Path]] = {}
    for name, path in defined_in(folders):
        real = path.resolve()
        if real not in found.setdefault(name, []):
            found[name].append(real)
    return found


def _two_spellings(config: ExperimentConfig) -> list[str]:
    """A task that comes again under another name; one that comes again as it is may."""
    spellings: dict[str, dict[str, None]] = {}
    for stage in config.stages:
        spellings.setdefault(canonical_name(stage.task), {})[stage.task] = None
    twice = [" and ".join(same) for same in spellings.values() if len(same) > 1]
    return [f"stages: {'; '.join(twice)} are one task: write it in one way"] if twice else []


def _shadowed(
    stages: Mapping[str, str], benchmarks: Mapping[str, str], own: Files
) -> Iterator[str]:
    """Own tasks that a name of the config spells, but that it does not reach."""
    for task, name in stages.items():
        if name in own and task != name:
            yield (
                f"{own[name][0]}: the task '{name}' is never reached: as a stage that name means "
                f"cl-bench's {task}: rename it"
            )
    for task, name in benchmarks.items():
        if name in own and task != name:
            yield (
                f"{own[name][0]}: the task '{name}' is never reached: in eval.general.tasks that "
                f"name means cl-bench's {task}: rename it, or write {task}"
            )


def _ambiguous(names: Iterable[str], own: Files) -> Iterator[str]:
    """Names that are reached and that an own YAML defines beside another one."""
    shipped = _files(task_folders()[:1])
    for name, group in _reached(names, own, shipped):
        files = own.get(name, [])
        others = [*files[1:], *shipped.get(name, [])] if files else []
        if others:
            yield f"task '{name}': {files[0]} and {others[0]} both define it: rename one of them"
        elif files and group is not None and group not in own:
            yield (
                f"{files[0]}: the task '{name}' would stand for the one of that name in the group "
                f"'{group}', which is not yours: rename it"
            )
        elif files and (twin := packaged_twin(name)):
            where = "/".join(twin.parts[-3:])
            yield (
                f"{files[0]}: the task '{name}' has the name of one of lm-evaluation-harness "
                f"({where}), whose scores it would be taken for: rename it"
            )
        for file in files:
            yield from _text_faults(file)


def _reached(names: Iterable[str], own: Files, shipped: Files) -> Iterator[tuple[str, str | None]]:
    """Every name with the group that leads to it (None: the config does), members included."""
    seen: set[tuple[str, str | None]] = set()
    queue: list[tuple[str, str | None]] = [(name, None) for name in names]
    while queue:
        name, group = queue.pop(0)
        if (name, group) in seen:
            continue
        seen.add((name, group))
        yield name, group
        files = own.get(name) or shipped.get(name) or list(packaged_files([name]).values())
        if files:
            queue += [(member, name) for member in _members(files[0])]


def _members(file: Path) -> list[str]:
    """Names of tasks in a group's YAML; empty for a task's, and for what is no YAML."""
    try:
        root = yaml.compose(_text(file), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return []
    return list(_listed(_value(root, "task")))


def _listed(node: yaml.Node | None) -> Iterator[str]:
    for member in node.value if isinstance(node, yaml.SequenceNode) else ():
        named = member if isinstance(member, yaml.ScalarNode) else _value(member, "task")
        if isinstance(named, yaml.ScalarNode):
            yield str(named.value)
        else:
            yield from _listed(named)


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _text_faults(file: Path) -> Iterator[str]:
    """Keys that are given twice in a task's YAML and in those that it includes."""
    seen: set[Path] = set()
    queue = [file]
    while queue:
        path = queue.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        text = _text(path)
        yield from (f"{path}: {fault}" for fault in text_faults(text))
        queue += [path.parent / name for name in _INCLUDE.findall(text)]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig", errors="replace")
