"""A-GEM (Chaudhry et al. 2019): never against the gradient on a few earlier examples."""

from __future__ import annotations

import torch

from cl_bench.methods.base import Method, Options, Stage, Step


class AGEMOptions(Options):
    memory: int = 4


class AGEM(Method[AGEMOptions]):
    """Where <g, m> < 0, `g -= <g, m> / <m, m> m`; m is the gradient on a batch of the memory."""

    name = "agem"
    keeps = "examples"

    def prepare(self, stage: Stage) -> None:
        self._stage, self._draws = stage, stage.generator("agem")
        self._memory = [example for _, some in stage.earlier for example in some]

    def before_step(self, step: Step) -> None:
        if not self._memory:
            return
        order = torch.randperm(len(self._memory), generator=self._draws)
        some = [self._memory[i] for i in order[: self.options.memory].tolist()]
        past = step.gradient_of(self._stage.batches(some))
        product = sum(float((step.grads[name] * past[name]).sum()) for name in past)
        if product < 0:
            size = sum(float(past[name].square().sum()) for name in past)
            for name, gradient in past.items():
                step.grads[name].sub_(gradient, alpha=product / size)
            self._stage.notes["projected"] = self._stage.notes.get("projected", 0) + 1
