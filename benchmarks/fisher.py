"""Seconds and exactness of the one-pass Fisher against the per-sample loop.

    python benchmarks/fisher.py [--models smollm2-135m] [--lengths 128 512] [--dtypes fp32 bf16]

The same batch of 8 samples with 16 answer tokens, processes for each, in turn, medians.
`dense` is one forward and backward of the whole batch with all weight gradients and `loop` the
usual Fisher code (one sample at a time, dense gradients squared, summed over rows); both compute
logits at answer positions only, with torch's own layers. Ratios are against those two in the same
dtype. The last table compares the float32 scores with a float64 loop over `--oracle-samples`
samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from side_by_side import (
    ANSWERS,
    BATCH,
    Contestant,
    arguments,
    batch_of,
    begin,
    in_process,
    load,
    machine,
    race,
    table,
    timed,
)
from torch import Tensor, nn

from cl_bench.importance.fisher import fisher_scores, scored_parameters
from cl_bench.training.cpu.heap import keep_freed_memory
from cl_bench.training.loss import answer_loss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GRANULARITIES = ("rows", "columns", "elements")


def dense(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """One forward and backward with every weight gradient."""
    answer_loss(model, batch, float(BATCH * ANSWERS))[0].backward()
    for parameter in model.parameters():
        parameter.grad = None


def loop(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Row sums of squared per-sample gradients, one sample at a time."""
    scores: dict[str, Tensor] = {}
    for i in range(len(batch["input_ids"])):
        answer_loss(model, {k: v[i : i + 1] for k, v in batch.items()}, 1.0)[0].backward()
        for name, parameter in scored_parameters(model).items():
            if parameter.grad is not None:
                wide = parameter.grad.to(torch.promote_types(parameter.dtype, torch.float32))
                square = wide.square()
                square = square.sum(1) if square.dim() == 2 else square
                scores[name] = scores[name] + square if name in scores else square
        for parameter in model.parameters():
            parameter.grad = None
    return scores


def contestant(
    name: str, model_name: str, dtype: str, layers: int | None, length: int
) -> Contestant:
    """One of the two yardsticks or of the three granularities."""
    model, batch = load(model_name, DTYPES[dtype], layers).eval(), batch_of(length)
    step: Callable[[], object]
    if name in GRANULARITIES:
        keep_freed_memory()
        step = partial(fisher_scores, model, [batch], name)
    else:
        step = partial({"dense": dense, "loop": loop}[name], model, batch)
    return Contestant(name, timed(step), dtype, 0.0)


def report(rows: list[Contestant]) -> str:
    """Ratios first."""
    known = {c.name: c.median for c in rows}
    yardsticks = [known.get(name, float("nan")) for name in ("dense", "loop")]
    lines = [
        [f"{c.name} ({c.dtype})"]
        + [f"{c.median / yardstick:.2f}" for yardstick in yardsticks]
        + [f"{c.median:.2f}", str(len(c.seconds))]
        for c in rows
    ]
    return table(["pass", "x dense", "x loop", "s", "n"], lines)


def exactness(name: str, layers: int | None, length: int, samples: int) -> list[str]:
    """Largest relative error of a tensor's float32 row scores against the float64 loop."""
    batch = {key: value[:samples] for key, value in batch_of(length).items()}
    mine = fisher_scores(load(name, torch.float32, layers).eval(), [batch])
    theirs = loop(load(name, torch.float64, layers).eval(), batch)
    errors = [
        float((score.double() - theirs[key]).norm() / theirs[key].norm())
        for key, score in mine.items()
    ]
    return [name, str(length), str(samples), f"{max(errors):.1e}"]


def main() -> None:
    """Prints one table per model, length and dtype, then the errors."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--oracle-samples", type=int, default=2)
    options = parser.parse_args()
    begin(options)
    print(machine())
    errors = []
    for name in options.models:
        for length in options.lengths:
            for dtype in options.dtypes:
                rows = [
                    in_process(
                        partial(contestant, kind, name, dtype, options.layers, length),
                        options.threads,
                    )
                    for kind in ("dense", "loop", *GRANULARITIES)
                    if not options.only or kind in options.only
                ]
                race(rows, options.repeats, options.budget)
                print(
                    f"\n{name}, length {length}, batch {BATCH}, {dtype}\n\n{report(rows)}",
                    flush=True,
                )
            if options.oracle_samples:
                errors.append(exactness(name, options.layers, length, options.oracle_samples))
    if errors:
        print("\n" + table(["model", "length", "samples", "largest relative error"], errors))


if __name__ == "__main__":
    main()
