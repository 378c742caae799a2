"""AdamW on a CPU in one pass over memory, compiled from C where a compiler is there.

Separate operations read and write each buffer several times and start threads for each of them.
The kernel rounds every entry as they do, to the last bit, and is used only after it was seen to:
whether a compiler is there changes seconds and no number.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cl_bench.training.cpu.compiled import compiled

SOURCE = Path(__file__).with_suffix(".c")
EXACT = ["-ffp-contract=off"]
"""Products and sums are rounded apart, but where the source says otherwise."""
WORTH = 2**22
"""Entries of a buffer from which on the compiler's half second is won back within a stage."""
LARGEST_WEIGHT = 0.5
"""Of a gradient in the mean: from here on torch interpolates from the other side."""
_HIGH, _DENORMALS, _QUIET = 0x2, 0x140000, 0x100
"""How torch asks Intel's library for square roots: modes of `vmsSqrt`."""

Buffers = tuple[Tensor, Tensor, Tensor, Tensor]
"""Masters, gradients, means and mean squares."""
Factors = tuple[float, float, float, float, float, float, float]
"""Of weights, of a gradient in the mean, of mean squares, of a gradient's square in them; the
correction of roots, epsilon, and the size of the step with a minus."""
Kernel = Callable[[Buffers, Factors, bool], None]
"""update(buffers, factors, zero): in place; `zero` sets the gradients to 0."""
Update = Callable[[Buffers, Factors], None]


def kernel_for(masters: Tensor, weight: float, expected: Update) -> Kernel | None:
    """A kernel that does what `expected` does for these masters; None where there is none.

    `weight`: of a gradient in the mean.
    """
    known = masters.device.type == "cpu" and masters.dtype == torch.float32
    if not known or masters.numel() < WORTH or weight >= LARGEST_WEIGHT:
        return None
    return _kernel(expected)


@functools.cache
def _kernel(expected: Update) -> Kernel | None:
    if (library := compiled(SOURCE, EXACT)) is None:
        return None
    update, pointer, number = library.adamw, ctypes.c_void_p, ctypes.c_int64
    update.argtypes = [*[pointer] * 4, number, pointer, pointer, number, *[ctypes.c_int] * 2]
    update.restype = None
    kernel = functools.partial(_call, update, _vector_root())
    return kernel if _is_exact(kernel, expected) else None


def _vector_root() -> ctypes.c_void_p:
    """The square root of Intel's library, where torch has it; nothing elsewhere."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.vmsSqrt, ctypes.c_void_p)
    except (OSError, AttributeError):
        return ctypes.c_void_p()


def _call(
    update: ctypes._NamedFuncPointer,
    root: ctypes.c_void_p,
    buffers: Buffers,
    factors: Factors,
    zero: bool,
) -> None:
    mode = _HIGH | _DENORMALS | _QUIET
    places = [buffer.data_ptr() for buffer in buffers]
    values = (ctypes.c_float * len(factors))(*factors)
    update(*places, buffers[0].numel(), values, root, mode, zero, torch.get_num_threads())


def _is_exact(kernel: Kernel, expected: Update) -> bool:
    """Whether three updates of arbitrary numbers are the same to the last bit."""
    numbers = torch.linspace(-9, 9, 5003)
    ours, theirs = (
        (0.01 * numbers.sin(), numbers.cos() * numbers.exp(), 0 * numbers, 0 * numbers)
        for _ in range(2)
    )
    for decay, correction, size in ((1.0, 0.22, -0.01), (0.9999, 0.31, -0.005), (1.0, 1.0, -1e-5)):
        factors = (decay, 0.1, 0.95, 0.05, correction, 1e-8, size)
        kernel(ours, factors, False)
        expected(theirs, factors)
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
