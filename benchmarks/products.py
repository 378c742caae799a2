"""torch's product of few rows and a weight, against the packed one that decoding uses.

    python benchmarks/products.py --dtype float32

The two take turns; medians of 7 of several calls each, over the shapes of SmolLM2-135M. `error`:
root mean square against float64, where entries have a variance of 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from cl_bench.evaluation.shared_prefix.cpu_packed_weights import packed_linears

SHAPES = [(576, 192), (576, 576), (576, 1536), (1536, 576), (576, 49152)]
ROWS = [1, 4, 8, 32, 128, 1024]


def seconds(call: Callable[[], Tensor], times: int) -> float:
    """Of one call, by the mean of several."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square."""
    return (found.double() - exact).square().mean().sqrt().item()


def compare(layer: nn.Linear, rows: int) -> str:
    """A line of the table."""
    x = torch.randn(rows, layer.in_features, dtype=layer.weight.dtype)
    gflop = 2e-9 * rows * layer.weight.numel()
    times = max(2, min(200, int(2 / gflop)))
    exact = x.double() @ layer.weight.double().T
    plain, packed = [], []
    for _ in range(7):
        plain.append(seconds(lambda: layer(x), times))
        with packed_linears(layer):
            layer(x)
            packed.append(seconds(lambda: layer(x), times))
            ours = error(layer(x), exact)
    a, b = median(plain), median(packed)
    shape = f"{layer.in_features} x {layer.out_features}"
    return (
        f"| {shape} | {rows} | {gflop / a:.0f} | {gflop / b:.0f} | {a / b:.2f}x "
        f"| {error(layer(x), exact):.1e} | {ours:.1e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| weight | rows | torch, GFLOP/s | packed | ratio | torch, error | packed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with torch.no_grad():
        for inputs, outputs in SHAPES:
            layer = nn.Linear(inputs, outputs, bias=False)
            nn.init.normal_(layer.weight, std=inputs**-0.5)
            layer = layer.to(getattr(torch, args.dtype))
            for rows in ROWS:
                print(compare(layer, rows), flush=True)


if __name__ == "__main__":
    main()
