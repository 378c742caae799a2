"""A frozen copy of a model, whose outputs on the stage's examples a method stays near."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from cl_bench.methods.base import Batch, Stage

if TYPE_CHECKING:
    from torch import Tensor


def model_before(stage: Stage) -> Any:
    """The model that the stage begins with. Called in `prepare`, before anything is trained."""
    return _frozen(copy.deepcopy(stage.model))


def base_model(stage: Stage) -> Any:
    """The model that the whole run began with, adapters left out."""
    import torch

    from cl_bench.models.checkpoints import is_adapter
    from cl_bench.models.function_adapters import adapter_of, detach

    teacher: Any = copy.deepcopy(stage.model)
    if adapter_of(teacher) is not None:
        detach(teacher)
    elif is_adapter(teacher):
        teacher = teacher.merge_and_unload()
    if not stage.first:
        base = stage.weights(0)
        with torch.no_grad():
            for name, weight in teacher.named_parameters():
                weight.copy_(base[name])
    return _frozen(teacher)


def logits_of(teacher: Any, batch: Batch) -> Tensor:
    """What the teacher gives at the answer tokens of a batch, [N, V] in its dtype."""
    import torch

    from cl_bench.training.loss import answer_logits

    with torch.no_grad():
        return answer_logits(teacher, batch).logits


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)
