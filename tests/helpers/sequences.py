"""Several stages of one method without an experiment around them, each from the state saved before.

What a method hands on is written to files and read again between stages, as after an interrupt.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import Example
from cl_bench.methods.base import Method
from cl_bench.methods.state import State, give_state, handed_on, state_of
from cl_bench.models.checkpoints import load_tensors, save_tensors
from tests.helpers.reference import Gradients, make_stage, run_method, weights


@dataclass
class Shelf:
    """Weights after stages 0, 1, ... for methods that ask for them."""

    saved: list[Mapping[str, Tensor]] = field(default_factory=list)

    def weights(self, k: int) -> Mapping[str, Tensor]:
        return self.saved[k]

    def task_examples(self, name: str) -> Sequence[Example]:
        raise LookupError(f"{name}: there is no experiment around these stages")

    def score(self, example: Example, text: str) -> float:
        return float(text == example.answer)


@dataclass
class Ended:
    """What a stage left."""

    model: Any
    notes: dict[str, Any]
    state: State
    records: list[dict[str, Any]]

    @property
    def weights(self) -> Gradients:
        return weights(self.model)


def run_sequence(
    make: Callable[[], Method],
    model: nn.Module,
    tasks: Sequence[list[Example]],
    train: TrainConfig,
    epochs: int = 1,
) -> list[Ended]:
    """Every task with a fresh method object; the models are those after each stage."""
    state, shelf = State(), Shelf([weights(model)])
    earlier: list[tuple[str, Sequence[Example]]] = []
    ended: list[Ended] = []
    for index, items in enumerate(tasks, 1):
        own = make()
        give_state(own, state)
        stage, batcher = make_stage(model, items, train, index, earlier)
        stage.library = shelf
        records = run_method(own, stage, batcher, epochs)
        state = _through_files(handed_on(own, state, state_of(own)))
        model = stage.model
        shelf.saved.append(weights(model))
        ended.append(Ended(copy.deepcopy(model), stage.notes, state, records))
        earlier = [*earlier, (items[0].task, items)]
    return ended


def _through_files(state: State) -> State:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "method.safetensors"
        save_tensors(file, dict(state.tensors))
        return State(load_tensors(file), json.loads(json.dumps(dict(state.records))))
