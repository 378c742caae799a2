"""Text of `cl-bench tasks` and `doctor`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cl_bench.errors import UserError
from cl_bench.resources import user_cache
from cl_bench.store.provenance import PACKAGES


def task_lines(task_paths: Sequence[str], data_root: Path | None) -> Iterator[str]:
    """Every task of ours and of `task_paths`, and whether its data files are there.

    Raises UserError for paths that are no folders.
    """
    from cl_bench.data.sources import resolve_data_root, trace_file
    from cl_bench.data.tasks import known_task_names
    from cl_bench.metrics.trace_tasks import TASKS

    paths = [Path(path).expanduser() for path in task_paths]
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


def doctor_lines() -> Iterator[str]:
    """Versions, accelerator, memory, disk, and the quickstart model."""
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} is missing: pip install {package}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"accelerator {properties.name}, {properties.total_memory / 1e9:.0f} GB"
    else:
        yield f"no accelerator; {torch.get_num_threads()} CPU threads"
    yield f"memory {psutil.virtual_memory().total / 1e9:.0f} GB"
    yield f"disk free here {shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB"
    model = user_cache() / "models" / "smollm2-135m" / "complete.json"
    yield f"quickstart model: {'there' if model.is_file() else 'not fetched yet'}"
