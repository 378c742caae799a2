"""How much memory a process has needed so far."""

from __future__ import annotations


def peak_memory_mb() -> int | None:
    """Largest resident size so far, or what the accelerator allocated; None where none tells."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() // 2**20)
    try:
        import resource  # not on Windows
    except ImportError:
        import psutil

        peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
        return None if peak is None else int(peak // 2**20)
    import sys

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest // 2**20 if sys.platform == "darwin" else largest // 1024
