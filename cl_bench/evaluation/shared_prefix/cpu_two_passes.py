"""Forward passes that need nothing of each other: two at a time, where the model has a twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

import torch

from cl_bench.evaluation.shared_prefix.cpu_twins import side_by_side
from cl_bench.evaluation.shared_prefix.readers import Reader

Pass = TypeVar("Pass")
Answer = TypeVar("Answer")


def in_streams(
    reader: Reader,
    passes: Sequence[Pass],
    work: Callable[[Reader, Pass], Answer],
    take: Callable[[Answer], None],
) -> None:
    """`take(work(reader, each))` for all passes.

    `take` is called in their order, in this thread; `work` perhaps in two others.
    """
    # An odd one would leave half of the threads without work.
    paired = len(passes) // 2 * 2
    twin = reader.twin() if paired else None
    if twin is None:
        paired = 0
    else:
        idle: SimpleQueue[Reader] = SimpleQueue()
        idle.put(reader)
        idle.put(twin)

        def answer(each: Pass) -> Answer:
            mine = idle.get()
            try:
                with torch.no_grad():  # a thread has a mode of its own
                    return work(mine, each)
            finally:
                idle.put(mine)

        with side_by_side() as run:
            for found in run(answer, passes[:paired]):
                take(found)
        reader.counters.add(twin.counters)
    for each in passes[paired:]:
        take(work(reader, each))
