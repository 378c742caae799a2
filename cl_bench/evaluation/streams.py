"""Independent forward passes on a CPU, two at a time, each on half of the threads.

Threads that share a pass wait for each other after every operation, and do nothing during those
that are not split. Threads with passes of their own do not (docs/performance.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import nn

from cl_bench.evaluation.forward import Counters, PackedModel
from cl_bench.training.hooks import is_only_in_training

Pass = TypeVar("Pass")
Answer = TypeVar("Answer")


def in_streams(
    model: PackedModel,
    passes: Sequence[Pass],
    work: Callable[[PackedModel, Pass], Answer],
    take: Callable[[Answer], None],
) -> None:
    """`take(work(model, each))` for passes that need nothing of each other.

    `take` is called in their order, in this thread; `work` in two others, where the model has a
    twin. The number of threads is as before afterwards.
    """
    # An odd one would leave half of the threads without work.
    paired = len(passes) // 2 * 2
    twin = twin_of(model.model) if paired else None
    if twin is None:
        paired = 0
    else:
        other = PackedModel(twin, Counters())
        _in_pairs([model, other], passes[:paired], work, take)
        model.counters.add(other.counters)
    for each in passes[paired:]:
        take(work(model, each))


def _in_pairs(
    models: Sequence[PackedModel],
    passes: Sequence[Pass],
    work: Callable[[PackedModel, Pass], Answer],
    take: Callable[[Answer], None],
) -> None:
    idle: SimpleQueue[PackedModel] = SimpleQueue()
    for model in models:
        idle.put(model)

    def run(each: Pass) -> Answer:
        model = idle.get()
        try:
            with torch.no_grad():  # a thread has a mode of its own
                return work(model, each)
        finally:
            idle.put(model)

    threads = torch.get_num_threads()
    torch.set_num_threads(threads // len(models))
    try:
        with ThreadPoolExecutor(len(models)) as pool:
            for answer in pool.map(run, passes):
                take(answer)
    finally:
        torch.set_num_threads(threads)


def twin_of(model: nn.Module) -> nn.Module | None:
    """Modules of their own over the same tensors; None where two passes at once are not better.

    Modules are told what to leave out of a pass (`kept.py`), so passes at the same time need
    different ones. Models with patched forwards or hooks, which may hold on to their modules, have
    no twin, unless the hooks are only for training.
    """
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    threads = torch.get_num_threads()
    if threads % 2 or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    if any(_is_patched(module) for module in model.modules()):
        return None
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except (TypeError, ValueError, RuntimeError, AttributeError, copy.Error):
        return None


def _is_patched(module: nn.Module) -> bool:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return "forward" in vars(module) or not all(map(is_only_in_training, hooks))
