"""How much memory a process has needed, since its start or since a stage began."""

from __future__ import annotations

import sys
from pathlib import Path

_OWN = Path("/proc/self")


def restart_peak() -> bool:
    """Count from what is needed now; whether that can be done (a GPU, or Linux)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        (_OWN / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory_mb() -> int | None:
    """Largest resident size in MiB, or what the accelerator allocated; None where none tells.

    Since `restart_peak` where that could be done, else since the process began.
    """
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() // 2**20)
    try:
        import resource  # not on Windows
    except ImportError:
        import psutil

        peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
        return None if peak is None else int(peak // 2**20)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return largest // 2**20
    return (_resettable() or largest) // 1024


def _resettable() -> int | None:
    """KiB of Linux's own count, which begins anew with `restart_peak`, as getrusage's does not."""
    try:
        lines = (_OWN / "status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) if found else None
