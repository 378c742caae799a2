"""Attention of a decoding step: the compiled kernel beside torch's, over the same slots.

    python benchmarks/decoding.py [--threads N]

Processor milliseconds a layer (of all threads), the smallest of some turns; keys and values of six
layers take turns, so that they come from memory as in a model. The heads are those of SmolLM2-135M:
9 for queries, 3 for keys.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn

from cl_bench.evaluation.shared_prefix import decode_attention
from cl_bench.evaluation.shared_prefix.cpu_decode_kernel import kernel_for
from cl_bench.evaluation.shared_prefix.decode_attention import SlotAttention, Step, parts_of
from cl_bench.evaluation.shared_prefix.kv_slots import SlotLayer

HEADS, GROUPS, SIZE, LAYERS, TURNS = 9, 3, 64, 6, 4
SHAPES = ((30, 850), (60, 600), (4, 4000))
"""Sequences, and the tokens that each holds."""


def layers(slots: int, columns: int, dtype: torch.dtype) -> list[SlotLayer]:
    """Layers of slots in memory as the engine allocates it."""
    found = []
    for _ in range(LAYERS):
        layer = SlotLayer(torch.zeros(1, GROUPS, 1, SIZE, dtype=dtype))
        layer.reserve(slots, columns)
        layer.keys.normal_()
        layer.values.normal_()
        found.append(layer)
    return found


def milliseconds(call: Callable[[SlotLayer], Tensor], filled: list[SlotLayer]) -> float:
    """Of one layer."""
    taken = []
    for _ in range(TURNS):
        began = time.process_time()
        for layer in filled:
            call(layer)
        taken.append((time.process_time() - began) / len(filled))
    return 1000 * min(taken)


def main() -> None:
    """Print a row for every dtype and shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    print("| dtype | sequences x tokens | torch, ms | compiled, ms |\n| --- | --- | ---: | ---: |")
    attention = SlotAttention(nn.Module())
    for dtype in (torch.float32, torch.bfloat16):
        for slots, columns in SHAPES:
            filled = layers(slots, columns, dtype)
            step = Step(
                torch.arange(slots),
                torch.full((slots,), columns - 1),
                parts_of([columns - 1] * slots, [1] * slots),
            )
            query = torch.randn(1, HEADS, slots, SIZE).to(dtype)

            def call(layer: SlotLayer, query: Tensor = query) -> Tensor:
                empty = torch.zeros(1, 1, 1, 1)
                return attention.attend(nn.Module(), query, layer.keys, layer.values, empty)[0]

            with torch.no_grad(), attention.over(step):
                compiled = milliseconds(call, filled) if kernel_for(query, filled[0].keys) else None
                with patch.object(decode_attention, "kernel_for", lambda *_: None):
                    plain = milliseconds(call, filled)
            said = "none" if compiled is None else f"{compiled:.2f}"
            print(f"| {dtype} | {slots} x {columns} | {plain:.2f} | {said} |", flush=True)


if __name__ == "__main__":
    main()
