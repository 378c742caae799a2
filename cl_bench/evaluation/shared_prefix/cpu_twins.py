"""Two workers at a time on a CPU, each on half of the threads.

Threads that share a forward pass wait for each other after every operation, and do nothing during
those that are not split. Threads with passes of their own do not (docs/performance.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cl_bench.training.hooks import is_only_in_training
from cl_bench.training.patching import is_replaced

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
WORKERS = 2


def twin_of(model: nn.Module) -> nn.Module | None:
    """Modules of their own over the same tensors; None where two passes at once are not better.

    Modules are told what to do in a pass, so passes at the same time need different ones. Models
    with patched forwards or hooks, which may hold on to their modules, have no twin, unless the
    hooks are only for training.
    """
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    threads = torch.get_num_threads()
    if threads % WORKERS or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    if any(_is_patched(module) for module in model.modules()):
        return None
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except (TypeError, ValueError, RuntimeError, AttributeError, copy.Error):
        return None


def _is_patched(module: nn.Module) -> bool:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return is_replaced(module) or not all(map(is_only_in_training, hooks))


@contextmanager
def side_by_side() -> Iterator[Run]:
    """Two workers, which share torch's threads equally until the end.

    Yields `run(work, jobs)`: `work(job)` for every job by whichever worker is idle; answers come in
    the order of the jobs. A failed job raises its error, and those not begun are left out.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // WORKERS))
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
