"""Text of `cl-bench tasks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cl_bench.errors import UserError
from cl_bench.resources import expanded


def task_lines(task_paths: Sequence[str], data_root: Path | None) -> Iterator[str]:
    """Every task of ours and of `task_paths`, and whether its data files are there.

    Raises UserError for paths that are no folders.
    """
    from cl_bench.data.sources import resolve_data_root, trace_file
    from cl_bench.data.tasks import known_task_names
    from cl_bench.metrics.trace_tasks import TASKS

    paths = [expanded(path) for path in task_paths]
    if missing := [f"--task-path {path}: is not a folder" for path in paths if not path.is_dir()]:
        raise UserError(missing)
    root = resolve_data_root(data_root)
    for name in known_task_names(task_paths):
        trace = TASKS.get(name)
        if trace is None:
            yield name
            continue
        there = trace_file(root / "trace" / trace.trace_name, "train").is_file()
        status = "data there" if there else f"no data in {root} (cl-bench data get trace)"
        yield f"{name}  ({trace.trace_name}, {trace.headline})  {status}"
