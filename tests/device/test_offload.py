"""`train.offload` on a device whose memory is not the main memory.

torch's fake tensors have devices and no numbers. On their device `lazy`, of which nothing is here,
an operation on tensors of two devices is an error, as it is on a card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.offload import held_total
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.total import total
from cl_bench.experiment.loop import engine_of
from cl_bench.methods.ewc import EWC
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.stage import Stage, Step
from cl_bench.methods.state import State
from cl_bench.training import selected
from cl_bench.training.update_plan import Full, Rows, UpdatePlan
from tests.helpers.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer")
CARD, MAIN = "lazy:0", "cpu"


@contextmanager
def on_a_card(model: Any) -> Iterator[FakeTensorMode]:
    """While open, `model` has fake weights on the card."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        for module in model.modules():
            for name, own in list(module._parameters.items()):
                if own is not None:
                    moved = fake.from_tensor(own.detach()).to(CARD)
                    module._parameters[name] = nn.Parameter(moved)
            for name, own in list(module._buffers.items()):
                if own is not None:
                    module._buffers[name] = fake.from_tensor(own).to(CARD)
        model.tie_weights()
        yield fake


def stage_on_card(model: Any, offload: list[str]) -> Stage:
    return Stage(
        index=2,
        task="task",
        seed=1,
        train=TrainConfig(offload=offload),
        model=model,
        examples=[],
        earlier=[],
        device=torch.device(CARD),
        share=lambda examples, numbers: (),
        all_reduce=lambda tensor: None,
    )


def bytes_on(tensors: Any) -> dict[str, int]:
    found = {CARD: 0, MAIN: 0}
    for tensor in tensors:
        found[str(tensor.device)] += tensor.nbytes
    return found


@pytest.mark.parametrize("offload", [[], ["optimiser"], ["method"], ["optimiser", "method"]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_where_everything_is_in_an_update(monkeypatch, offload: list[str], dtype) -> None:
    """Bytes of the card and of the main memory are those that `plan` counts."""
    model = tiny_model(61, "qwen2", tie=True, dtype=dtype).train()
    counted = held_total(
        total(EWC(), shapes_of(model)), shapes_of(model), TrainConfig(offload=offload)
    )
    with on_a_card(model):
        stage = stage_on_card(model, offload)
        method = EWC()
        names = dict(model.named_parameters())
        fisher = {n: torch.ones(p.shape, dtype=torch.float32) for n, p in names.items()}
        method.load_state(State(fisher))
        method.prepare(stage)
        with engine_of(stage, UpdatePlan()) as engine:
            model(
                input_ids=torch.zeros(2, 9, dtype=torch.int64, device=CARD)
            ).logits.sum().backward()
            method.before_step(step_of(engine))
            engine.step(1e-3, zero_grads=True)
            assert {str(leaf.device) for leaf in engine._leaves.values()} == {CARD}
            flats = list(engine._flats.values())
            held = bytes_on(
                [
                    *model.parameters(),
                    *(
                        each
                        for flat in flats
                        for each in (flat.grads, flat.exp_avg, flat.exp_avg_sq)
                    ),
                    *(m for n, m in engine.masters.items() if not own_master(m, names[n])),
                    *(
                        each
                        for kept in (method._past, method._anchors)
                        for each in kept[0].values()
                    ),
                ]
            )
    assert held[MAIN] == counted.main.all
    assert held[CARD] == counted.in_training


def own_master(master: Tensor, parameter: Tensor) -> bool:
    """Fake tensors have no memory to compare: as the engine decides."""
    return master.device == parameter.device and master.dtype == parameter.dtype


def step_of(engine: Any) -> Step:
    return Step(1, 1e-3, engine.grads, engine.masters, engine.compact, lambda batches, loss: {})


def test_chosen_rows_with_their_state_in_main_memory(monkeypatch) -> None:
    """Gradients of rows go there, and their weights come back."""
    model = tiny_model(61, "qwen2", tie=True, dtype=torch.bfloat16).train()
    monkeypatch.setattr(selected, "_fault", lambda selection, parameter: None)  # reads numbers
    shapes = shapes_of(model)
    counted = held_total(total(FGGM(), shapes), shapes, TrainConfig(offload=["optimiser"]))
    with on_a_card(model):
        plan = {
            name: Rows(torch.arange(2)) if parameter.dim() == 2 else Full()
            for name, parameter in model.named_parameters()
        }
        stage = stage_on_card(model, ["optimiser"])
        with engine_of(stage, UpdatePlan(plan)) as engine:
            model(
                input_ids=torch.zeros(2, 9, dtype=torch.int64, device=CARD)
            ).logits.sum().backward()
            sums = []
            engine.all_reduce(sums.append)
            engine.step(1e-3)
            assert {str(each.device) for each in sums} == {CARD}, "NCCL sums on the card alone"
            assert bytes_on([*engine.masters.values(), *engine.grads.values()])[CARD] == 0
            indices = [slot.index for slot in engine._slots.values() if slot.index is not None]
            assert bytes_on(indices)[MAIN] == 0
    assert counted.base.gradients == 0 and counted.base.optimiser == counted.base.indices > 0
