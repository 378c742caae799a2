"""Where the seconds of a training step or of a Fisher pass go, by operation.

    python benchmarks/profile_step.py fggm [--models smollm2-135m] [--lengths 128 512]

Work is `sft`, `fggm` (as in step.py, bf16) or a granularity of fisher.py (`rows`, `columns`,
`elements`, bf16). Three of them run under torch's profiler after one without; times are the
operations' own (without those they call), a step. What lies between operations is Python.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from fisher import GRANULARITIES, contestant
from side_by_side import Contestant, arguments, load, machine, table
from step import ours
from torch.profiler import ProfilerActivity, profile

STEPS, LINES = 3, 12


def worker(work: str, name: str, length: int, layers: int | None) -> Contestant:
    """What is profiled, ready to run."""
    if work in GRANULARITIES:
        return contestant(work, name, "bf16", layers, length)
    return ours(work, partial(load, name, layers=layers), torch.bfloat16, length)


def rows(made: Contestant) -> list[list[str]]:
    """Operation, share of the wall clock, milliseconds a step, calls a step: the largest first."""
    made.run(0)
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        made.run(STEPS - 1)  # and the one that warms up
    wall = (time.perf_counter() - began) * 1e3 / STEPS
    averages = [event for event in profiler.key_averages() if event.self_cpu_time_total]
    averages.sort(key=lambda event: -event.self_cpu_time_total)
    found = [
        (event.key.removeprefix("aten::"), event.self_cpu_time_total / 1e3 / STEPS, event.count)
        for event in averages
    ]
    other = sum(milliseconds for _, milliseconds, _ in found[LINES:])
    known = other + sum(milliseconds for _, milliseconds, _ in found[:LINES])
    lines = [[key, ms, f"{count / STEPS:.0f}"] for key, ms, count in found[:LINES]]
    lines += [["other operations", other, ""], ["between operations", wall - known, ""]]
    return [
        [str(key), f"{float(ms) / wall:.1%}", f"{float(ms):.0f}", str(count)]
        for key, ms, count in lines
    ]


def main() -> None:
    """Prints one table per work, model and length."""
    parser = arguments(__doc__ or "")
    parser.add_argument("work", nargs="+", choices=["fggm", "sft", *GRANULARITIES])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    for work in options.work:
        for name in options.models:
            for length in options.lengths:
                made = worker(work, name, length, options.layers)
                print(f"\n{work}, {name}, length {length}\n")
                print(table(["operation", "share", "ms", "calls"], rows(made)), flush=True)


if __name__ == "__main__":
    main()
