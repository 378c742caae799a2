"""Seconds and bytes of a training step: the selective engine against how people train today.

    python benchmarks/step.py [--models smollm2-135m] [--lengths 128 512] [--layers N]

One batch (8 samples, 16 answer tokens), processes for each, four steps in turn, medians. Peers:
transformers' Trainer as its users set it up (float32, `bf16=True`, a bf16 model), the same with
every dense gradient multiplied by a mask as public implementations of gradient masking do, and
PEFT LoRA r=8 on all linear layers. Ours: `sft` and `fggm` (30 % of the rows of every block matrix,
30 % of the entries of every vector), float32 and bf16. Ratios are against the fastest full
fine-tuning of Trainer and against the fastest masked one. State is weights + gradients + optimiser
state, the bytes of the tensors that are alive at the optimiser's step. `--peak` measures instead
how far the process of each contestant grows, in processes of their own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from side_by_side import (
    ANSWERS,
    BATCH,
    RHO,
    Contestant,
    arguments,
    batch_of,
    begin,
    device,
    finished,
    in_process,
    load,
    machine,
    matrix_gflop,
    matrix_rate,
    race,
    table,
    timed,
)
from torch import Tensor, nn

from cl_bench.training.cpu.heap import keep_freed_memory
from cl_bench.training.loss import answer_loss
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import Elements, Frozen, Rows, Selection, UpdatePlan

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
PEAKS = ("Trainer full fp32", "cl-bench sft bf16", "cl-bench fggm bf16", "cl-bench fggm fp32")


def selected(model: nn.Module) -> UpdatePlan:
    """30 % of the rows of block matrices and of the entries of vectors, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    selections: dict[str, Selection] = {}
    for name, p in model.named_parameters():
        if p.dim() == 1:
            selections[name] = Elements(torch.rand(p.shape, generator=generator) < RHO)
        elif "embed" not in name:
            count = round(RHO * p.shape[0])
            index = torch.randperm(p.shape[0], generator=generator)[:count].sort().values
            selections[name] = Rows(index)
    return UpdatePlan(selections, default=Frozen())


def ours(
    name: str, load_model: Callable[..., nn.Module], dtype: torch.dtype, length: int
) -> Contestant:
    """A step of the engine: loss, backward, clip, AdamW, zero."""
    keep_freed_memory()
    model = load_model(dtype).train()
    plan = UpdatePlan() if name == "sft" else selected(model)
    engine = SelectiveUpdate(model, plan)
    batch = batch_of(length)

    def step() -> None:
        answer_loss(model, batch, float(BATCH * ANSWERS))[0].backward()
        engine.clip(1.0)
        engine.step(1e-5, zero_grads=True)

    gflop = matrix_gflop(model, length, 1.0 if name == "sft" else RHO, BATCH * ANSWERS)
    label = f"cl-bench {name}"
    return Contestant(
        label, timed(step), NAMES[dtype], gflop, lambda: sum(engine.nbytes().values())
    )


class Samples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The benchmark's batch, over and over, as the samples Trainer's loader wants."""

    def __init__(self, length: int) -> None:
        self.batch = {key: value.cpu() for key, value in batch_of(length).items()}

    def __len__(self) -> int:
        return 64 * BATCH

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {key: value[i % BATCH] for key, value in self.batch.items()}


def trainer(kind: str, load_model: Callable[..., nn.Module], setup: str, length: int) -> Contestant:
    """Full, masked or LoRA fine-tuning with transformers' Trainer, as users set it up."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    dtype = torch.bfloat16 if setup == "bf16 model" else torch.float32
    model = load_model(dtype)
    if kind == "LoRA r=8":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    if kind == "gradient x mask":
        plan = selected(model)
        for name, parameter in model.named_parameters():
            mask = dense_mask(plan.of(name), parameter)
            parameter.register_hook(partial(torch.mul, mask))
    gflop = matrix_gflop(
        model.get_base_model() if "LoRA" in kind else model, length, 1.0, BATCH * length
    )
    state = {"bytes": 0}

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds from the start of a step to its end; bytes alive at the optimiser's step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            finished()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            finished()
            self.seconds.append(time.perf_counter() - self.start)

        def on_optimizer_step(self, *_: Any, model: nn.Module, optimizer: Any, **__: Any) -> None:
            tensors = [*model.parameters(), *(p.grad for p in model.parameters())]
            moments = [v for s in optimizer.state.values() for v in s.values()]
            tensors += [v for v in moments if isinstance(v, Tensor)]
            state["bytes"] = sum(t.nbytes for t in tensors if t is not None)

    def run(count: int) -> list[float]:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=count + 1,
                learning_rate=1e-5,
                bf16=setup == "bf16=True",
                use_cpu=device().type == "cpu",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            )
            Trainer(model, options, train_dataset=Samples(length), callbacks=[clock]).train()
        return clock.seconds[1:]  # the first one allocates the optimiser's state

    return Contestant(f"Trainer {kind}", run, setup, gflop, lambda: state["bytes"])


def dense_mask(selection: Selection, parameter: Tensor) -> Tensor:
    """The 0/1 mask in the parameter's dtype and shape."""
    mask = torch.zeros_like(parameter)
    if isinstance(selection, Rows):
        mask[selection.index] = 1
    elif isinstance(selection, Elements):
        mask[selection.mask] = 1
    return mask


def makers(
    load_model: Callable[..., nn.Module], length: int, only: list[str] | None
) -> list[Callable[[], Contestant]]:
    """Everyone, or those whose name and setup contain one of `only`."""
    found: list[tuple[str, Callable[[], Contestant]]] = []
    for name in ("fggm", "sft"):
        for dtype in (torch.bfloat16, torch.float32):
            make = partial(ours, name, load_model, dtype, length)
            found.append((f"cl-bench {name} {NAMES[dtype]}", make))
    for kind in ("full", "gradient x mask", "LoRA r=8"):
        for setup in ("fp32", "bf16=True", "bf16 model"):
            make = partial(trainer, kind, load_model, setup, length)
            found.append((f"Trainer {kind} {setup}", make))
    return [make for label, make in found if not only or any(part in label for part in only)]


def report(rows: list[Contestant], rates: dict[torch.dtype, float]) -> str:
    """Ratios first; the floor is the time of the matrix products at the machine's rate."""

    def best(kind: str, value: Callable[[Contestant], float]) -> float:
        return min((value(c) for c in rows if c.name == f"Trainer {kind}"), default=float("nan"))

    full, masked = (best(k, lambda c: c.median) for k in ("full", "gradient x mask"))
    fp32 = [c.state_bytes() for c in rows if c.name == "Trainer full" and c.dtype != "bf16 model"]
    state = min(fp32, default=0)
    lines = []
    for c in rows:
        memory = c.state_bytes()
        rate = rates[torch.float32 if c.dtype == "fp32" else torch.bfloat16]
        lines.append(
            [
                f"{c.name} ({c.dtype})",
                f"{c.median / full:.2f}",
                f"{c.median / masked:.2f}",
                f"{memory / state:.2f}" if state else "",
                f"{c.median:.2f}",
                f"{memory / 1e9:.2f}",
                f"{c.gflop:.0f}",
                f"{c.median / (c.gflop / rate):.2f}",
                str(len(c.seconds)),
            ]
        )
    headers = ["step", "x full", "x masked", "x state", "s", "state GB", "GFLOP", "x floor", "n"]
    return table(headers, lines)


def peak(name: str, label: str, layers: int | None) -> float:
    """GB that the process of one contestant grows to above its start: length 32, two steps."""
    command = [sys.executable, __file__, "--models", name, "--lengths", "32", "--grow", label]
    command += [] if layers is None else ["--layers", str(layers)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.splitlines()[-1])  # Trainer prints before


def grow(load_model: Callable[..., nn.Module], label: str, length: int) -> None:
    """What `peak` runs: prints the growth of the peak resident memory."""
    import transformers.trainer  # noqa: F401  (its memory is not the step's)

    start = resident_gb()
    (make,) = makers(load_model, length, [label])
    make().run(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 - start)


def resident_gb() -> float:
    """Resident memory of this process now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e9


def main() -> None:
    """Prints one table per model and length, and one of peak memory per model with `--peak`."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--peak", nargs="*", metavar="LABEL", help="peak memory of these instead")
    parser.add_argument("--grow", metavar="LABEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    begin(options)
    if options.grow:
        grow(partial(load, options.models[0], layers=options.layers), options.grow, 32)
        return
    print(machine())
    for name in options.models:
        load_model = partial(load, name, layers=options.layers)
        if options.peak is not None:
            labels = options.peak or PEAKS
            grown = [(label, peak(name, label, options.layers)) for label in labels]
            rows = [[label, f"{gb / grown[0][1]:.2f}", f"{gb:.2f}"] for label, gb in grown]
            print(f"\n{name}\n\n" + table(["peak memory", "x first", "GB"], rows), flush=True)
            continue
        for length in options.lengths:
            rivals = [
                in_process(make, options.threads)
                for make in makers(load_model, length, options.only)
            ]
            race(rivals, options.repeats, options.budget)
            model = load_model(torch.float32)
            rates = {dtype: matrix_rate(model, length, dtype) for dtype in NAMES}
            known = ", ".join(f"{NAMES[dtype]} {rate:.0f}" for dtype, rate in rates.items())
            print(f"\n{name}, length {length}, batch {BATCH}; products at {known} GFLOP/s\n")
            print(report(rivals, rates), flush=True)


if __name__ == "__main__":
    main()
