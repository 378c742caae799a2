"""C compiled while a process runs, where a compiler is there; without one there is another way."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

COMPILE = ["-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
# Not linked to an OpenMP of its own: the names are found in torch's, whose threads it uses. Those
# of a second one would take turns on the cores with torch's, which wait by spinning.
LINK = ["-shared"]
SECONDS = 60
"""What a compiler may take before there is no library."""


def compiled(source: Path, options: Sequence[str] = ()) -> ctypes.CDLL | None:
    """A library of one file in C; None where Linux, a compiler or torch's OpenMP is missing."""
    import torch

    compiler = shutil.which("cc") or shutil.which("gcc")
    openmp = "OpenMP" in torch.__config__.parallel_info()
    if compiler is None or not sys.platform.startswith("linux") or not openmp:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            made, linked = str(Path(folder, "kernel.o")), str(Path(folder, "kernel.so"))
            for command in (
                [compiler, *COMPILE, *options, "-c", str(source), "-o", made],
                [compiler, *LINK, made, "-o", linked, "-lm"],
            ):
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
            # All names now: one that is missing must not end the process later.
            return ctypes.CDLL(linked, mode=os.RTLD_NOW)
    except (OSError, subprocess.SubprocessError):
        return None
