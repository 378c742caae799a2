"""What one of several processes holds, counted by hand for a small decoder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cl_bench.costs.shapes import decoder_shapes
from cl_bench.costs.split import split_total
from cl_bench.costs.total import total
from cl_bench.methods.ewc import EWC
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.lora import LoRA
from cl_bench.methods.sft import SFT

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 24,
    "tie_word_embeddings": True,
}
LAYER = 8 * 8 * 2 + 4 * 8 * 2 + 3 * 16 * 8
MATRICES, VECTORS = 24 * 8 + 3 * LAYER, 7 * 8
GATHERED = 24 * 8 + 2 * LAYER


def shapes(dtype_bytes: int = 2):
    found = decoder_shapes(CONFIG, dtype_bytes)
    assert found is not None and found.numel == MATRICES + VECTORS
    return found


@pytest.mark.parametrize("dtype_bytes", [2, 4])
def test_matrices_are_divided_and_vectors_are_not(dtype_bytes: int) -> None:
    whole = total(SFT(), shapes(dtype_bytes))
    part = split_total(whole, shapes(dtype_bytes), 4).base
    assert part.weights == dtype_bytes * (MATRICES // 4 + VECTORS + GATHERED)
    assert part.gradients == 4 * (MATRICES // 4 + VECTORS)
    # Of float32 weights the vectors, which stay whole, are their own masters.
    vectors = 3 * VECTORS if dtype_bytes == 2 else 2 * VECTORS
    assert part.optimiser == 4 * (3 * MATRICES // 4 + vectors)
    assert part.checkpoint == whole.base.checkpoint
    assert split_total(whole, shapes(dtype_bytes), 1) == whole


def test_states_of_methods_are_divided_where_they_are_split() -> None:
    whole, part = total(EWC(), shapes()), split_total(total(EWC(), shapes()), shapes(), 2)
    assert whole.own == (4 + 2) * (MATRICES + VECTORS)
    assert part.own == whole.own // 2
    assert max(one.held for one in part.added.work.passes) < max(
        one.held for one in whole.added.work.passes
    )
    fggm = total(FGGM(), shapes())
    assert split_total(fggm, shapes(), 2).base.gradients < 0.6 * fggm.base.gradients


def test_adapters_stay_whole() -> None:
    whole = total(LoRA(), replace(shapes(), config=None))
    part = split_total(whole, shapes(), 4).base
    assert (part.gradients, part.optimiser) == (whole.base.gradients, whole.base.optimiser)
    own = whole.base.weights - 2 * (MATRICES + VECTORS)
    assert part.weights == own + 2 * (MATRICES // 4 + VECTORS + GATHERED)
