"""C sources compiled for this processor while the program runs, where a compiler is there.

It runs for about a second. Libraries use torch's OpenMP, with its threads. Whoever asks has another
way of doing the same: there may be no compiler, no Linux, or an OpenMP that is not torch's.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

COMPILE = [
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fPIC", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math"),
]
# Not linked to an OpenMP of its own: the names are found in torch's, whose threads it uses. Those
# of a second one would take turns on the cores with torch's, which wait by spinning.
LINK = ["-shared"]
SECONDS = 60
"""What a compiler may take before there is no library."""


def compiled(sources: Sequence[Path], options: Sequence[str]) -> ctypes.CDLL | None:
    """A library of C sources; None where it cannot be made or loaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    openmp = "OpenMP" in torch.__config__.parallel_info()
    if compiler is None or not sys.platform.startswith("linux") or not openmp:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = [str(Path(folder, source.with_suffix(".o").name)) for source in sources]
            linked = str(Path(folder, "library.so"))
            commands = [
                [compiler, *COMPILE, *options, "-c", str(source), "-o", out]
                for source, out in zip(sources, made, strict=True)
            ]
            for command in [*commands, [compiler, *LINK, *made, "-o", linked, "-lm"]]:
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
            # All names now: one that is missing must not end the process later.
            return ctypes.CDLL(linked, mode=os.RTLD_NOW)
    except (OSError, subprocess.SubprocessError):
        return None
