"""An exponential average of the weights is scored; training goes on from the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from cl_bench.methods.base import Method, Options, Stage


class EMAOptions(Options):
    decay: float = 0.9


class EMA(Method[EMAOptions]):
    """After every update `average = decay * average + (1 - decay) * weights`."""

    name = "ema"

    def prepare(self, stage: Stage) -> None:
        named = stage.model.named_parameters()
        self._average = {name: p.detach().float().clone() for name, p in named}

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        for name, master in masters.items():
            self._average[name].lerp_(master.to(self._average[name]), 1 - self.options.decay)
        return False

    @contextmanager
    def scored(self, stage: Stage) -> Iterator[Any]:
        own = stage.snapshot()
        stage.load(self._average)
        try:
            yield stage.model
        finally:
            stage.load(own)
