"""Gradients outside of updates: of one process and of two, and what they leave of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_bench.methods.gradients import gradient_on
from tests.helpers.reference import NEW, TRAIN, encode, make_stage, model64, sample_loss


def test_a_mean_over_the_tokens_of_all_processes() -> None:
    model = model64()
    names = ["lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    wanted = {name: model.get_parameter(name) for name in names}
    items = encode(NEW, TRAIN)
    loss = sum(sample_loss(model, item) for item in items)
    loss = loss / sum(item.answer_tokens for item in items)
    expected = torch.autograd.grad(loss, list(wanted.values()))
    model.requires_grad_(False)
    wanted["model.norm.weight"].requires_grad_(True)

    halves: list[list[Tensor]] = []
    found: dict[str, Tensor] = {}
    for rank in (0, 1):  # the second one hears what the first one said
        stage, _ = make_stage(model, NEW, TRAIN)
        share, said, heard = stage.share, [], iter(halves[0] if halves else [])

        def own(given, numbers, share=share, rank=rank):  # type: ignore[no-untyped-def]
            return list(share(given, numbers))[rank::2]

        def add(tensor: Tensor, said: list[Tensor] = said, heard=heard) -> None:  # type: ignore[no-untyped-def]
            said.append(tensor.clone())
            tensor.add_(next(heard, torch.zeros_like(tensor)))

        stage.share, stage.all_reduce = own, add
        found = gradient_on(stage, NEW, wanted)
        halves.append(said)
    assert len(halves[0]) == len(halves[1]) == 1 + len(names)
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)
    left = [name for name, p in model.named_parameters() if p.requires_grad]
    assert left == ["model.norm.weight"] and all(p.grad is None for p in model.parameters())
