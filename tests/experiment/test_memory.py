"""Memory that does not suffice for a micro-batch: smaller ones, or what to set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cl_bench.device_memory import out_of_memory
from cl_bench.errors import RunError
from cl_bench.experiment import update
from cl_bench.methods.base import Method
from cl_bench.methods.compose import Composite
from cl_bench.methods.registry import METHODS, method_class
from tests.experiment.midway.sessions import Beginning, trained
from tests.helpers.cases import CASES, configured
from tests.helpers.reference import NEW, OLD, TRAIN, model64, weights
from tests.helpers.sequences import Shelf

AUTO = TRAIN.model_copy(update={"micro_batch_size": "auto", "micro_batch_tokens": 36})
TEXTS = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "MPS backend out of memory (MPS allocated: 1 GB)",
)


def test_errors_of_memory_are_known() -> None:
    assert all(out_of_memory(RuntimeError(text)) for text in TEXTS)
    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError(TEXTS[0]))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(ValueError(TEXTS[0]))
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value), caught.value


@contextmanager
def too_small(rows: int, after: int = 0) -> Iterator[list[int]]:
    """Backward passes of more rows fail in their middle, but for the first `after` ones.

    Gives the rows of each.
    """
    real, seen = update.answer_loss, []

    def fails(model: Any, batch: Any, tokens: float) -> Any:
        seen.append(len(batch["input_ids"]))
        if seen[-1] <= rows or len(seen) <= after:
            return real(model, batch, tokens)
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        hook = lists[0][0].register_forward_hook(raises_in_backward)
        try:
            return real(model, batch, tokens)
        finally:
            hook.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "answer_loss", fails)
        yield seen


def raises_in_backward(module: Any, inputs: Any, output: Any) -> None:
    """When the gradients of the layers above are there; at once where none come so far."""
    hidden = output[0] if isinstance(output, tuple) else output

    def full(_: Any = None) -> None:
        raise torch.OutOfMemoryError(TEXTS[0])

    hidden.register_hook(full) if hidden.requires_grad else full()


def both(name: str, **options: Any) -> Callable[[], Method]:
    """LoRA, and another method on its adapters."""
    lora, other = (
        configured(method_class("lora"), dropout=0.0),
        configured(method_class(name), **options),
    )
    return lambda: Composite([lora(), other()])


OWN: dict[str, Callable[[], Method]] = {
    **CASES,
    **{name: method_class(name) for name in METHODS if name not in CASES},
    "loki": configured(method_class("loki"), share=0.5, steps=2),
    "das": configured(method_class("das"), score_examples=3),
    # Dropout draws for each micro-batch, and by default MIGU counts its padding.
    **{name: configured(method_class(name), dropout=0.0) for name in ("lora", "o_lora", "ogd")},
    "migu": configured(method_class("migu"), count_padding=False, lm_head="all"),
    **{f"lora + {name}": both(name) for name in ("ema", "ewc", "lwf")},
    "lora + migu": both("migu", count_padding=False),
}


def chosen() -> list[Any]:
    """More options of a method are for the soak."""
    marks = {name: () if name in METHODS else (pytest.mark.slow,) for name in OWN}
    return [pytest.param(name, marks=marks[name]) for name in sorted(OWN)]


@pytest.mark.parametrize("name", chosen())
def test_every_method_trains_the_same(name: str, tmp_path: Path) -> None:
    """In pieces from the middle of an update on as whole, to rounding in float64."""
    make, model = OWN[name], model64()
    shelf = Shelf([weights(model)])
    first = trained(Beginning(make, model, OLD, AUTO, shelf=shelf), tmp_path / "first")
    index = 1 if name == "mtl" else 2
    shelf = Shelf([weights(model), dict(first.weights)])
    second = Beginning(make, first.model, NEW, AUTO, index, first.state, shelf, [("old", OLD)])
    whole = trained(second, tmp_path / "whole")
    # The first of two micro-batches: what was summed of it alone would change the whole.
    with too_small(rows=1, after=2) as seen:
        pieces = trained(second, tmp_path / "pieces")
    failed = next(i for i, rows in enumerate(seen) if i >= 2 and rows > 1)
    assert max(seen[failed + 1 :]) == 1, "smaller for the rest of the stage"
    note = pieces.notes.pop("out_of_memory")
    assert len(note["updates"]) == 1 and note["pieces"] in (2, 4)
    assert pieces.notes.keys() == whole.notes.keys()
    assert len(whole.records) == len(pieces.records) >= 5
    for one, other in zip(whole.records, pieces.records, strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    for key, value in whole.weights.items():
        assert float((value - pieces.weights[key]).abs().max()) < 1e-12, key


@pytest.mark.parametrize("name", ["sft", "migu", "lora with dropout"])
def test_an_interrupted_stage_has_the_same_pieces(name: str, tmp_path: Path) -> None:
    """Memory does not suffice once; the sessions after it are not told again, and end the same."""
    make = {**OWN, "lora with dropout": configured(method_class("lora"), dropout=0.3)}[name]
    start = Beginning(make, model64(), NEW, AUTO, epochs=3)
    with too_small(rows=1, after=3):
        whole = trained(start, tmp_path / "whole")
    with too_small(rows=1, after=3) as seen:
        parts = trained(start, tmp_path / "parts", looks=1)
    assert parts.sessions > 3 and sum(rows > 1 for rows in seen[3:]) == 1
    assert whole.notes["out_of_memory"]["pieces"] == 2
    parts.is_that_of(whole)


@pytest.mark.parametrize(("rows", "updates"), [(2, [1]), (1, [1, 1])])
def test_it_is_cut_until_it_fits(rows: int, updates: list[int], tmp_path: Path) -> None:
    """With the draws of dropout that this micro-batch size has."""
    make = configured(method_class("lora"), dropout=0.3)
    large = AUTO.model_copy(update={"micro_batch_tokens": 1000})
    fixed = AUTO.model_copy(update={"micro_batch_size": rows})
    with too_small(rows) as seen:
        left = trained(Beginning(make, model64(), NEW, large), tmp_path / "cut")
    note = left.notes.pop("out_of_memory")
    assert note == {"updates": updates, "pieces": 4 // rows}
    assert seen[:3] == [4, 2, rows], "as large as fits"
    left.is_that_of(trained(Beginning(make, model64(), NEW, fixed), tmp_path / "fixed"))


class Gathers(Method):
    """Says nothing of an update that begins again."""

    name = "gathers"

    def after_micro_batch(self, grads: Any) -> None:
        self.sums = {name: grad.clone() for name, grad in grads.items()}


class Watches(Method):
    """The same, of hooks in the model."""

    name = "watches"

    def prepare(self, stage: Any) -> None:
        stage.model.register_forward_hook(lambda *_: None)


class Knows(Watches):
    """One that says it."""

    name = "knows"

    def begin_again(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        (Gathers, {}, "method gathers does not say how an update is begun again"),
        (Watches, {}, "method watches does not say how an update is begun again"),
        (lambda: Composite([Watches(), Knows()]), {}, "method watches does not say"),
        (Knows, {"batch_size": 1}, "with one example in a forward pass; set a smaller micro_"),
        (Knows, {"micro_batch_size": 3}, "set a smaller micro_batch_size (now 3), or auto or grad"),
        (Knows, {"micro_batch_size": 1}, "example in a forward pass; set gradient_checkpointing: "),
        (
            Knows,
            {"micro_batch_size": 1, "gradient_checkpointing": True},
            "set shorter prompts (max_prompt_tokens, now 12) under another name:",
        ),
    ],
)
def test_what_cannot_be_cut_says_what_to_set(
    method: Callable[[], Method], change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    train = AUTO.model_copy(update=change)
    with too_small(rows=0), pytest.raises(RunError) as caught:
        trained(Beginning(method, model64(), NEW, train), tmp_path)
    text = str(caught.value)
    assert text.startswith("stage 1 (new): out of memory in update 1 (CUDA out of memory.")
    assert said in text and text.count("out of memory in") == 1, text
