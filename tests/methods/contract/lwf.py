"""Learning without forgetting (Li and Hoiem 2016): stay near the outputs of the model before."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from cl_bench.methods.base import Batch, Method, Options, Stage
from cl_bench.training.loss import AnswerOutputs, answer_logits


class LwFOptions(Options):
    strength: float = 1.0
    temperature: float = 2.0


class LwF(Method[LwFOptions]):
    """loss + strength * T^2 * KL(teacher || model) on the new examples, a mean over tokens."""

    name = "lwf"
    keeps = "weights"

    def prepare(self, stage: Stage) -> None:
        self._teacher: Any = None
        if not stage.first:
            self._teacher = copy.deepcopy(stage.model).eval().requires_grad_(False)

    def penalty(self, batch: Batch, outputs: AnswerOutputs) -> Tensor | None:
        if self._teacher is None:
            return None
        with torch.no_grad():
            old = answer_logits(self._teacher, batch).logits
        hot = self.options.temperature
        p, q = ((logits / hot).log_softmax(-1) for logits in (old, outputs.logits))
        distance = (p.exp() * (p - q)).sum(-1).mean()
        return self.options.strength * hot**2 * distance
