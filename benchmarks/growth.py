"""How time and memory grow with the work: measured at several sizes, fitted, plotted.

    python benchmarks/growth.py [--parts ...] [--out growth.json] [--figure docs/growth.svg]

Seconds are those of the processor on one thread, which other load on the machine hardly changes;
they are medians of three. Each part has a size that doubles. `t = a + b * size^p` would fit
anything, so two numbers are given: the exponent p of a straight line through the logarithms, and
the share of the largest time that a fixed cost `a` (least squares, p = 1) explains. A part that
grows as its work has p of at most 1; of a step, whose attention is quadratic in the tokens, the
FLOPs' own exponent stands beside it.

step tokens     a training step of 4 sequences by their length (SmolLM2's first layers)
documents       answering multiple-choice questions by their number
shots           the same 16 questions behind more and more examples that all of them share
methods         `preflight` of a config by the number of its methods
stages          the same by the number of stages
finished        the process `cl-bench run` on an experiment that is finished, by its methods
report          `cl-bench report --full` by the number of runs
model           peak memory of a process that trains one step, by the model's parameters
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from side_by_side import batch_of, load, machine, table

ROOT = Path(__file__).resolve().parents[1]
METHODS = ["sft", "fggm", "ewc", "replay", "l2sp", "lwf", "migu", "ema"]
TASKS = ("mini_numglue_cm", "mini_fomc", "mini_py150", "mini_numglue_ds")
REPEATS = 3


@dataclass(frozen=True)
class Part:
    """What is measured: sizes in order, and a function from a size to seconds (or bytes)."""

    name: str
    size: str
    unit: str
    sizes: Sequence[int]
    measure: Callable[[int], float]
    own: Callable[[int], float] | None = None
    """The work of a size, where it is not proportional to it."""


def median(call: Callable[[], object], who: int = resource.RUSAGE_SELF) -> float:
    """Processor seconds of a call, after one that is not counted; `who`: this process, or those
    that it starts."""
    call()
    seconds = []
    for _ in range(REPEATS):
        before = resource.getrusage(who)
        call()
        after = resource.getrusage(who)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(np.median(seconds))


# --- Training


def step_of(layers: int, samples: int, length: int) -> Callable[[], None]:
    """A step of full fine-tuning, as `cl-bench run` does it."""
    from cl_bench.training.cpu.heap import keep_freed_memory
    from cl_bench.training.loss import answer_loss
    from cl_bench.training.selective_update import SelectiveUpdate
    from cl_bench.training.update_plan import UpdatePlan

    keep_freed_memory()
    model = load("smollm2-135m", torch.float32, layers).train()
    engine = SelectiveUpdate(model, UpdatePlan())
    batch = batch_of(length, samples=samples)
    tokens = float((batch["labels"] != -100).sum())

    def step() -> None:
        answer_loss(model, batch, tokens)[0].backward()
        engine.clip(1.0)
        engine.step(1e-5, zero_grads=True)

    return step


def step_seconds(length: int) -> float:
    return median(step_of(2, 4, length))


def step_work(length: int) -> float:
    """FLOPs of the step, in any unit: matrices by tokens, attention by their square."""
    from side_by_side import matrix_gflop

    return matrix_gflop(load("smollm2-135m", torch.float32, 2), length, 1.0, 4 * 16)


def peak_bytes(layers: int) -> float:
    """How far a process that trains one step grows, in a process of its own."""
    command = [sys.executable, __file__, "--grow", str(layers)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(said.stdout.splitlines()[-1])


def grow(layers: int) -> None:
    """What `peak_bytes` runs."""
    import psutil
    import transformers.modeling_utils  # noqa: F401  (its memory is not the step's)

    from cl_bench.experiment.peak_memory import peak_memory_mb

    start = psutil.Process().memory_info().rss  # of getrusage's peak a part is the parent's
    step_of(layers, 1, 32)()
    print((peak_memory_mb() or 0) * 2**20 - start)


# --- Scoring


def scoring_seconds(documents: int, shots: int) -> float:
    """Seconds for multiple-choice questions of four choices behind shared examples."""
    from lm_eval.api.instance import Instance

    from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
    from cl_bench.models.load import load_tokenizer
    from cl_bench.models.quickstart import quickstart_model

    model = load("smollm2-135m", torch.float32, 4).eval()
    lm = SharedPrefixLM(model, load_tokenizer(quickstart_model()))
    header = "".join(
        f"Question: What is {i} plus {i + 3}, said in words and explained step by step?\n"
        f"Answer: It is {2 * i + 3}, since {i} and {i} are {2 * i}, and 3 more are {2 * i + 3}.\n\n"
        for i in range(shots)
    )
    asked = [
        Instance("loglikelihood", {}, (f"{header}Question: Who is number {i}?\nAnswer:", c), i)
        for i in range(documents)
        for c in (" one", " two", " nobody", " number four")
    ]
    return median(lambda: lm.loglikelihood(asked))


# --- Starting and reporting


def config(folder: Path, methods: int, stages: int) -> Path:
    """A config of generated tasks and a tiny random model, in a folder."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.tiny import byte_tokenizer, tiny_model

    tiny_model().save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    given = {
        "name": "growth",
        "model": {"path": "./model", "dtype": "float32"},
        "seeds": [1],
        "allow_unreachable": True,
        "methods": METHODS[:methods],
        "stages": [{"task": TASKS[i % len(TASKS)], "limit": 4} for i in range(stages)],
        "train": {"batch_size": 4, "max_prompt_tokens": 64, "max_answer_tokens": 4},
        "eval": {
            "trace": {"limit": 2, "cells": "last+diagonal"},
            "general": {"tasks": ["mini_piqa"], "limit": 2, "after": "last"},
            "probes": False,
        },
    }
    file = folder / "growth.yaml"
    file.write_text(yaml.safe_dump(given))
    return file


def preflight_seconds(methods: int, stages: int) -> float:
    """Seconds until everything that can be wrong was looked at, without imports."""
    from cl_bench.checks.preflight import preflight
    from cl_bench.evaluation.engines.choice import Engine
    from cl_bench.experiment.resolve import resolve_file

    with tempfile.TemporaryDirectory() as place:
        file = str(config(Path(place), methods, stages))
        return median(lambda: preflight(resolve_file(file), Engine(), say=lambda line: None))


def finished_seconds(methods: int) -> float:
    """Seconds of a command that has nothing to do but to see that."""
    with tempfile.TemporaryDirectory() as place:
        config(Path(place), methods, 2)
        command = [sys.executable, "-m", "cl_bench", "run", "growth.yaml"]

        def run() -> None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            said = subprocess.run(
                command, check=False, cwd=place, capture_output=True, text=True, env=environment
            )
            if said.returncode:
                sys.exit(said.stderr[-3000:])

        return median(run, resource.RUSAGE_CHILDREN)


def report_seconds(runs: int) -> float:
    """Seconds of the whole report of invented runs: a third of them methods, of three seeds."""
    sys.path.insert(0, str(ROOT))
    from cl_bench.cli import run_command
    from tests.helpers.invented_runs import Invented

    methods = {f"m{i}": (0.01 * i, 0.4) for i in range(runs // 3)}
    with tempfile.TemporaryDirectory() as place:
        Invented(methods=methods, seeds=(1, 2, 3)).write(Path(place))
        command = ["report", "invented", "--full", "--results", place]

        def report() -> None:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                if run_command(command):
                    raise RuntimeError("the report failed")

        return median(report)


def parameters(layers: int) -> int:
    """Of SmolLM2-135M cut to so many layers."""
    return sum(p.numel() for p in load("smollm2-135m", torch.float32, layers).parameters())


PARTS = (
    Part("step tokens", "tokens", "s", (128, 256, 512, 1024, 2048), step_seconds, step_work),
    Part("documents", "documents", "s", (16, 32, 64, 128, 256), lambda n: scoring_seconds(n, 2)),
    Part("shots", "shots", "s", (1, 2, 4, 8, 16, 32), lambda n: scoring_seconds(16, n)),
    Part("methods", "methods", "s", (1, 2, 4, 8), lambda n: preflight_seconds(n, 2)),
    Part("stages", "stages", "s", (1, 2, 4, 8, 16), lambda n: preflight_seconds(2, n)),
    Part("finished", "methods", "s", (1, 2, 4), finished_seconds),
    Part("report", "runs", "s", (3, 6, 12, 24, 48), report_seconds),
    Part("model", "parameters", "bytes", (2, 4, 8, 16, 30), peak_bytes),
)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def fixed_share(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the largest value, what a line `a + b * size` has at size 0."""
    _, fixed = np.polyfit(sizes, values, 1)
    return float(min(max(fixed, 0.0) / values[-1], 1.0))


def measured(part: Part) -> dict[str, Any]:
    """Sizes, values, and the fit of one part."""
    sizes = [parameters(n) if part.name == "model" else n for n in part.sizes]
    values = []
    for given in part.sizes:
        began = time.perf_counter()
        values.append(part.measure(given))
        seconds = time.perf_counter() - began
        print(
            f"{part.name} {given}: {values[-1]:.4g} ({seconds:.0f} s)", file=sys.stderr, flush=True
        )
    own = [part.own(n) for n in part.sizes] if part.own else sizes
    return {
        "name": part.name,
        "size": part.size,
        "unit": part.unit,
        "sizes": sizes,
        "values": values,
        "exponent": exponent(sizes, values),
        "work": exponent(sizes, own),
        "fixed": fixed_share(own, values),
    }


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    scale = 1e9 if found["unit"] == "bytes" else 1.0
    unit = "GB" if found["unit"] == "bytes" else "s"
    sizes = ", ".join(f"{n / 1e6:.0f} M" if n > 1e6 else str(n) for n in found["sizes"])
    values = ", ".join(f"{value / scale:.2f}" for value in found["values"])
    numbers = [f"{found[key]:.2f}" for key in ("exponent", "work", "fixed")]
    return [found["name"], f"{found['size']}: {sizes}", f"{values} {unit}", *numbers]


def plot(found: Sequence[dict[str, Any]], file: Path) -> None:
    """Values over sizes, both logarithmic, with the fitted line of each part."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3 * columns, 2.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, each in zip(axes.flat, found, strict=False):
        sizes, values = np.array(each["sizes"]), np.array(each["values"])
        slope, level = np.polyfit(np.log(sizes), np.log(values), 1)
        axis.loglog(sizes, values, "o", color="tab:blue")
        axis.loglog(sizes, np.exp(level) * sizes**slope, color="tab:blue", linewidth=1)
        axis.set(title=f"{each['name']}: p = {slope:.2f}", xlabel=each["size"], ylabel=each["unit"])
        axis.minorticks_off()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument("--most", type=int, help="sizes of a part, the smallest first")
    parser.add_argument("--out", type=Path, help="keep what was measured here, and go on with it")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that are started
    if args.grow:
        grow(args.grow)
        return
    known = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for part in PARTS:
        if part.name not in known and (not args.parts or part.name in args.parts):
            sizes = part.sizes[: args.most] if args.most else part.sizes
            known[part.name] = measured(replace(part, sizes=sizes))
            if args.out:
                args.out.write_text(json.dumps(known))
    found = [known[part.name] for part in PARTS if part.name in known]
    headers = ["", "sizes", "measured", "exponent", "of the work", "fixed share"]
    print(table(headers, [row(each) for each in found]))
    print(f"\n{machine()}")
    if args.figure:
        plot(found, args.figure)


if __name__ == "__main__":
    main()
