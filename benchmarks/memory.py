"""Bytes that `cl-bench plan` counts against the bytes that are held and written, method by method.

    python benchmarks/memory.py [--model smollm2-135m] [--dtypes bfloat16 float32] [--samples 8]

Held: every tensor that Python can reach in the middle of a method's second stage, model, gradients,
optimiser and the method's own. Activations: what autograd keeps in one forward pass of `--samples`
sequences of `--length` tokens, and the gradient of the logits. On disk: weights (or adapter) and
the method's state, without tokenizer files. Nothing is timed, so other load does not matter.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from side_by_side import batch_of, table
from torch import Tensor, nn

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.activations import MicroBatch, activation_bytes
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.total import total
from cl_bench.data.examples import Example
from cl_bench.methods.base import Method, Stage, Step, overrides
from cl_bench.methods.compose import Composite
from cl_bench.methods.registry import METHODS, method_class
from cl_bench.methods.state import parts_of
from cl_bench.methods.subspaces import SplitLinear
from cl_bench.models.checkpoints import is_adapter, save_tensors
from cl_bench.models.function_adapters import adapter_of, save_function_adapter
from cl_bench.training.cpu import matmul
from cl_bench.training.loss import answer_loss
from cl_bench.training.selections import selection_tensors
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import UpdatePlan

Batch = Mapping[str, Tensor]


@dataclass
class Held:
    """A method in the middle of its second stage. `nbytes`: the engine's own count.

    `live`: bytes of all tensors made since the model was built, the model's among them, but for
    what is kept for `cl-bench inspect`, which is on the CPU wherever the model is.
    """

    model: nn.Module
    method: Method
    nbytes: Mapping[str, int]
    live: int
    stage: Stage


@contextmanager
def second_stage(
    make: Callable[[], Method], build: Callable[[], nn.Module], batch: Batch
) -> Iterator[Held]:
    """Prepare, plan and open the engine as the loop does, after a first stage was finished."""
    gc.freeze()  # so that the collector sees only what is made from here on
    try:
        stage = _stage(build(), 1, batch)
        method = make()
        method.prepare(stage)
        method.finish(stage)
        state = method.state()
        stage = _stage(stage.model, 2, batch)
        method = make()
        method.load_state(state)
        method.prepare(stage)
        chosen = method.plan(stage)
        plan = chosen or UpdatePlan()
        if chosen is not None and not is_adapter(stage.model):
            stage.selection = selection_tensors(plan, stage.selection, stage.model)
        stage.model.train()
        with SelectiveUpdate(stage.model, plan) as engine:
            for part in parts_of(method):
                if overrides(type(part), "after_step"):  # may hold what it saw before the update
                    part.before_step(_step(engine))
            gc.collect()
            live = sum(size for size, _ in live_storages().values())
            live -= sum(value.nbytes for value in stage.selection.values())
            yield Held(stage.model, method, engine.nbytes(), live, stage)
    finally:
        gc.unfreeze()


@dataclass
class _Weights(Mapping[str, Tensor]):
    """Looked up when they are used, as those on disk are."""

    model: nn.Module

    def __getitem__(self, name: str) -> Tensor:
        return self.model.get_parameter(name).detach()

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.model.named_parameters())

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class _Library:
    """What a stage can look up: its own weights for those of any stage."""

    model: nn.Module

    def weights(self, k: int) -> Mapping[str, Tensor]:
        return _Weights(self.model)

    def task_examples(self, name: str) -> Sequence[Example]:
        raise LookupError(f"examples of {name}: what is measured here is a batch of random tokens")

    def score(self, example: Example, text: str) -> float:
        raise LookupError("a batch of random tokens has no metric")


def _step(engine: SelectiveUpdate) -> Step:
    """The first update, of gradients of 0."""
    return Step(1, 0.0, engine.grads, engine.masters, engine.compact, lambda *_: engine.grads)


def _rows(batch: Batch, examples: Sequence[Example], numbers: Sequence[int]) -> dict[str, Tensor]:
    """Those of a batch that belong to some of the stage's examples."""
    rows = [example.doc_id for example in examples]
    own = {key: value[rows] for key, value in batch.items()}
    return {**own, "example": torch.tensor(numbers)}


def _stage(model: nn.Module, index: int, batch: Batch) -> Stage:
    """A stage whose examples are one batch."""
    examples = [Example("", "", i, "random", "generate") for i in range(len(batch["input_ids"]))]
    return Stage(
        index=index,
        task="random",
        seed=0,
        train=TrainConfig(),
        model=model,
        examples=examples,
        earlier=[("earlier", examples)] if index > 1 else [],
        device=torch.device("cpu"),
        share=lambda given, numbers: [_rows(batch, given, numbers)],
        all_reduce=lambda tensor: None,
        library=_Library(model),
    )


def live_storages() -> dict[int, tuple[int, Tensor]]:
    """Address -> (bytes, a tensor that keeps it alive) of the tensors that are not frozen."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = (storage.nbytes(), thing.detach())
    return found


def kept_for_backward(model: nn.Module, batch: Batch) -> int:
    """Bytes of distinct new storages that autograd saves in one forward pass.

    With those of the gradient of the logits, which backward begins with.
    """
    before = live_storages()
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, outputs = answer_loss(model, batch, 1.0)
    new = sum(size for address, size in saved.items() if address not in before)
    return new + outputs.logits.nbytes


def written(held: Held) -> int:
    """Bytes of the safetensors files that a stage leaves: weights or adapter, state, selection."""
    model: Any = held.model
    method = held.method
    if finished := any(isinstance(module, SplitLinear) for module in model.modules()):
        method.finish(SimpleNamespace(model=model))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        if adapter_of(model) is None:
            model.save_pretrained(folder)
        else:
            save_function_adapter(model, Path(folder))
        save_tensors(Path(folder) / "method.safetensors", dict(method.state().tensors))
        if not finished:
            method.finish(held.stage)
        save_tensors(Path(folder) / "selection.safetensors", held.stage.selection)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def variants() -> dict[str, Callable[[], Method]]:
    """Every shipped method with its defaults, FGGM's other granularities, and a composition."""
    fggm, replay = method_class("fggm"), method_class("replay")
    found: dict[str, Callable[[], Method]] = {name: method_class(name) for name in METHODS}
    for aggregation in ("output", "none"):
        options = fggm.options_type.model_validate({"aggregation": aggregation})
        found[f"fggm, {aggregation}"] = lambda options=options: fggm(options)
    return found | {"fggm + replay": lambda: Composite([fggm(), replay()])}


def measure(name: str, build: Callable[[], nn.Module], batch: Batch) -> list[str]:
    """One row: counted and measured megabytes, and their ratio, three times."""
    make = variants()[name]
    shapes = shapes_of(build())
    cost = total(make(), shapes)
    samples, length = batch["input_ids"].shape
    answers = int((batch["labels"][:, 1:] != -100).sum())
    micro = MicroBatch(samples * length, length, answers, padded=False)
    with second_stage(make, build, batch) as held:
        widened = matmul.widens(next(held.model.parameters()))
        pairs = [
            (cost.in_training - cost.set_aside, held.live),
            (
                activation_bytes(shapes, cost, micro, on_cpu=True, widened=widened),
                kept_for_backward(held.model, batch),
            ),
            (cost.checkpoint, written(held)),
        ]
    cells = [[f"{a / 1e6:.1f}", f"{b / 1e6:.1f}", f"{a / b:.3f}"] for a, b in pairs]
    return [name, *(cell for three in cells for cell in three)]


def main() -> None:
    """Print a table for each dtype."""
    from transformers.utils import logging

    from cl_bench.models.load import load_model, resolve_model_path

    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--only", nargs="+", default=list(variants()), choices=list(variants()))
    args = parser.parse_args()
    path = resolve_model_path(args.model)
    three = ["counted", "measured", "ratio"]
    for dtype in args.dtypes:

        def build(dtype: str = dtype) -> nn.Module:
            return load_model(path, dtype)[0]

        vocabulary = build().config.vocab_size
        batch = batch_of(args.length, vocabulary, args.samples)
        rows = [measure(name, build, batch) for name in args.only]
        print(f"\n{args.model}, {dtype}, {args.samples} x {args.length} tokens, MB: held through")
        print("the stage, activations of a micro-batch, a stage on disk\n")
        print(table(["method", *three, *three, *three], rows))


if __name__ == "__main__":
    main()
