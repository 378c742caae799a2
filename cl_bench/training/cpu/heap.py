"""Keeping freed memory in the process, where a CPU computes.

glibc gives every block above some hundred kilobytes back to the system when it is freed, and the
next one of the same size is filled with zeros page by page: measured, a sixth of a training step on
two cores (docs/performance.md). Blocks up to `LARGEST` are kept for the next use instead; larger
ones, models and optimisers among them, still go back at once.
"""

from __future__ import annotations

import ctypes
import platform

LARGEST = 256 * 2**20
"""Bytes. Activations are smaller, weights and optimiser buffers as a rule larger."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Names of glibc's `mallopt` settings (malloc.h)."""


def keep_freed_memory() -> bool:
    """Set it for this process; False where the C library is not glibc, which is left alone."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Other threads would keep nothing above 64 MB in arenas of their own (see cpu_twins.py).
    settings = {_MMAP_THRESHOLD: LARGEST, _TRIM_THRESHOLD: 2**31 - 1, _ARENA_MAX: 1}
    return all(mallopt(name, value) for name, value in settings.items())
