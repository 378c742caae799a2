"""What the tests of this folder share: examples, a float64 model, the methods loaded as files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import Example
from cl_bench.methods.base import Method
from cl_bench.methods.registry import method_class
from cl_bench.methods.state import State, give_state, handed_on, state_of
from cl_bench.methods.user_files import method_from_file
from tests.helpers.reference import examples, make_stage, run_method
from tests.helpers.sequences import Ended
from tests.helpers.tiny import tiny_model

TRAIN = TrainConfig(
    lr=1e-3, batch_size=8, micro_batch_size=3, max_prompt_tokens=12, max_answer_tokens=4
)
"""One update an epoch of the examples below, so that their order does not matter."""
OLD, NEW = examples("old", 6), examples("new", 7)


def model64(**options: Any) -> nn.Module:
    return tiny_model(dtype=torch.float64, **options)


def method(name: str, **options: Any) -> Method:
    """The method of a file in this folder, as a config's `file:` has it loaded; else a shipped one.

    Those of the folder that were shipped are gone from it, and their tests are of the shipped ones.
    """
    file = Path(__file__).with_name(f"{name}.py")
    cls = method_from_file(file) if file.is_file() else method_class(name)
    return cls(cls.options_type.model_validate(options))


def two_stages(
    name: str,
    model: nn.Module,
    epochs: int = 1,
    tasks: tuple[list[Example], list[Example]] = (OLD, NEW),
    train: TrainConfig = TRAIN,
    **options: Any,
) -> tuple[Ended, Ended]:
    """Two tasks, each with a fresh method object; the models are those after each stage."""
    state, earlier, ended = State(), [], []
    for index, items in enumerate(tasks, 1):
        own = method(name, **options)
        give_state(own, state)
        stage, batcher = make_stage(model, items, train, index, earlier)
        records = run_method(own, stage, batcher, epochs)
        state = handed_on(own, state, state_of(own))
        model = stage.model
        ended.append(Ended(copy.deepcopy(model), stage.notes, state, records))
        earlier = [*earlier, (items[0].task, items)]
    return ended[0], ended[1]
