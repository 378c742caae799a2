"""What a number was made with: code, packages, hardware, data."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cl_bench import __version__

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "lm-eval", "safetensors")


def provenance(data_files: Iterable[Path] = ()) -> dict[str, Any]:
    """Git commit and dirty flag, package versions, hardware, checksums of the data files."""
    from cl_bench.store.folders import sha256_file

    return {
        "cl_bench": __version__,
        "git": _git(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": _hardware(),
        "data": {str(path): sha256_file(path) for path in sorted(set(data_files))},
    }


def _git() -> dict[str, Any] | None:
    """The commit of the checkout cl-bench runs from; None when it is an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None

    def ask(*words: str) -> str:
        # Without its lock: asking must not disturb, nor leave a lock behind where the disk is full.
        command = ["git", "--no-optional-locks", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = ask("rev-parse", "HEAD")
    changed = ask("status", "--porcelain", "--", "cl_bench", "tasks", "configs")
    return {"commit": commit, "dirty": bool(changed)} if commit else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import os

    import psutil
    import torch

    cuda = torch.cuda.is_available()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
        "accelerators": torch.cuda.device_count() if cuda else 0,
    }
