"""Which tasks exist, and loading them: ours, the user's folders, lm-evaluation-harness's own.

Names are found by reading YAML text, so that a config is checked without importing lm-eval. Its
14,000 packaged YAMLs are never indexed (over 10 s): only the folders that hold a wanted task are.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cl_bench.errors import UserError, nearest
from cl_bench.resources import absolute, resource

_NAME = re.compile(r"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?([^\s\"'#\[{]+)", re.MULTILINE)
PINNED = {"lm-eval": "general_", "opencompass-2023": "opencompass_"}
"""How the names of General's pinned tasks begin, by protocol."""


def canonical_name(name: str) -> str:
    """Our name of a task: TRACE's own (`C-STANCE`, in any case) become ours, others stay."""
    from cl_bench.metrics.trace_tasks import trace_task_or_none

    found = trace_task_or_none(name)
    return name if found is None else found.name


def general_name(
    name: str, task_paths: Iterable[str | Path] = (), protocol: str = "lm-eval"
) -> str:
    """The task that a name in `eval.general.tasks` means in a protocol.

    `piqa` is our pinned `general_piqa` (or `opencompass_piqa`). Any other name stays as it is in
    lm-eval's protocol; another protocol raises UserError for a name that it does not define.
    """
    prefix, known = PINNED[protocol], known_task_names(task_paths)
    pinned = f"{prefix}{name.lower()}"
    if pinned in known:
        return pinned
    if protocol != "lm-eval" and not name.startswith(prefix):
        there = [task.removeprefix(prefix) for task in known if task.startswith(prefix)]
        raise UserError(
            f"eval.general.tasks: {name}: the protocol {protocol} does not define it (it has "
            f"{', '.join(there)})"
        )
    return canonical_name(name)


def task_folders(task_paths: Iterable[str | Path] = ()) -> list[Path]:
    """Folders that are searched, weakest first: the shipped `tasks/`, then the user's."""
    return [resource("tasks"), *(absolute(path) for path in task_paths)]


def known_task_names(task_paths: Iterable[str | Path] = ()) -> list[str]:
    """Tasks and groups that the shipped folder and `task_paths` define, sorted."""
    return sorted({name for name, _ in defined_in(task_folders(task_paths))})


def unknown_task(name: str, task_paths: Iterable[str | Path] = ()) -> str | None:
    """What to tell the user about a name that no YAML defines; None for a name that exists."""
    known = known_task_names(task_paths)
    if canonical_name(name) in known or name in packaged_files([name]):
        return None
    for found, path in defined_in(task_folders(task_paths), ".yml"):
        if found == name:
            return f"unknown task '{name}': {path} defines it, but only .yaml is read: rename it"
    from cl_bench.metrics.trace_tasks import trace_names

    hint = nearest(name, [*known, *trace_names()])
    if "did you mean" not in hint:
        close = difflib.get_close_matches(name, _packaged(), n=1, cutoff=0.8)
        hint = nearest(name, close or known)
    return f"unknown task '{name}'{hint}"


def packaged_files(names: Iterable[str]) -> dict[str, Path]:
    """The YAML of lm-evaluation-harness that defines each name, for those that have one.

    Looks first into folders whose name begins the task's; reading all takes about a second.
    """
    wanted = set(names)
    if not wanted:
        return {}
    folders = sorted(path for path in packaged_folder().iterdir() if path.is_dir())
    likely = [folder for folder in folders if any(n.startswith(folder.name) for n in wanted)]
    found = {name: path for name, path in defined_in(likely) if name in wanted}
    for name in wanted - found.keys():
        if name in _packaged():
            found[name] = _packaged()[name]
    return found


def packaged_twin(name: str) -> Path | None:
    """The packaged YAML that defines a name, found by the names of folders and files alone.

    Reading them all takes seconds: only files are read whose name, or that of a folder above them,
    begins the task's or ends in it, as nearly all do.
    """

    def likely(part: str) -> bool:
        return name.startswith(part) or part.endswith(name)

    for file in _packaged_yamls():
        if any(map(likely, file[:-1])) or likely(file[-1].removesuffix(".yaml")):
            path = packaged_folder().joinpath(*file)
            if name in _NAME.findall(path.read_text(encoding="utf-8", errors="replace")):
                return path
    return None


@functools.cache
def _packaged_yamls() -> Sequence[tuple[str, ...]]:
    """Every packaged YAML, as its folders and its own name."""
    root, found = packaged_folder(), []
    for parent, folders, files in os.walk(root):
        folders.sort()
        above = Path(parent).relative_to(root).parts
        found += [(*above, file) for file in sorted(files) if file.endswith(".yaml")]
    return found


@functools.cache
def _packaged() -> Mapping[str, Path]:
    """Every packaged name and its YAML; the files of an installed package do not change."""
    return dict(defined_in([packaged_folder()]))


def defining_file(name: str, task_paths: Iterable[str | Path] = ()) -> Path | None:
    """The YAML in the shipped folder or in `task_paths` that defines a name; the last one wins."""
    files = [path for found, path in defined_in(task_folders(task_paths)) if found == name]
    return files[-1] if files else None


def packaged_folder() -> Path:
    """The tasks that come with lm-evaluation-harness."""
    spec = importlib.util.find_spec("lm_eval")
    locations: Sequence[str] = (spec.submodule_search_locations or []) if spec else []
    return Path(next(iter(locations))) / "tasks"


def defined_in(folders: Iterable[Path], suffix: str = ".yaml") -> Iterator[tuple[str, Path]]:
    """Names of tasks and groups and the files under some folders that define them."""
    for folder in folders:
        for parent, subfolders, files in os.walk(folder):
            subfolders[:] = sorted(s for s in subfolders if s not in ("__pycache__", ".git"))
            for file in sorted(files):
                if file.endswith(suffix):
                    path = Path(parent, file)
                    text = path.read_text(encoding="utf-8", errors="replace")
                    yield from ((name, path) for name in _NAME.findall(text))
