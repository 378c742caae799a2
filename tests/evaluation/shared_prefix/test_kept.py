"""The output layer and the last MLP see the scored positions alone, with the same logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cl_bench.evaluation.shared_prefix.scored_positions import only_kept
from tests.helpers.tiny import tiny_model

IDS = torch.arange(12).view(2, 6) + 40
KEEP = torch.tensor([3, 5, 5, 10])


class Pair(nn.Module):
    """An MLP that returns more than its output, as those with experts do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x), None


class First(nn.Module):
    """What a layer does with such an output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


def run(model, keep):
    seen = []
    hook = model.model.layers[-1].mlp.down_proj.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel())
    )
    with torch.no_grad(), only_kept(model, keep) as select:
        logits = select(model(input_ids=IDS).logits)
    hook.remove()
    return logits, seen


@pytest.mark.parametrize("keep", [KEEP, torch.arange(12), torch.tensor([0])])
def test_kept_logits_are_those_of_the_whole_pass(keep):
    model = tiny_model().eval()
    with torch.no_grad():
        whole = model(input_ids=IDS).logits.flatten(0, 1)
    logits, seen = run(model, keep)
    assert seen == [len(keep)]
    torch.testing.assert_close(logits, whole[keep], rtol=1e-6, atol=1e-6)
    assert "forward" not in vars(model.model.layers[-1].mlp)
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_nothing_kept():
    logits, seen = run(tiny_model().eval(), torch.tensor([], dtype=torch.long))
    assert len(logits) == 0
    assert seen == [1], "not every token of a trunk that nobody asks about"


def test_an_mlp_with_another_output_sees_everything():
    model = tiny_model().eval()
    with torch.no_grad():
        whole = model(input_ids=IDS).logits.flatten(0, 1)
    layer = model.model.layers[-1]
    inner = layer.mlp
    layer.mlp = Pair(inner)
    with torch.no_grad(), only_kept(model, KEEP):
        x = torch.randn(2, 6, model.config.hidden_size)
        found = layer.mlp(x)
    torch.testing.assert_close(found[0], inner(x), rtol=1e-6, atol=1e-6)
    assert found[0].shape == x.shape
    layer.mlp = First(Pair(inner))
    with torch.no_grad(), only_kept(model, KEEP) as select:
        logits = select(model(input_ids=IDS).logits)
    torch.testing.assert_close(logits, whole[KEEP], rtol=1e-6, atol=1e-6)
