"""Learning-rate schedules over one phase of a stage."""

from __future__ import annotations

import math

from cl_bench.config.schema import TrainConfig


def learning_rate(train: TrainConfig, step: int, total: int) -> float:
    """The rate of update `step` (0-based) of `total`.

    Linear warm-up over `warmup_steps`, then constant, linear to 0 or half a cosine to 0. The last
    update of a decaying schedule still has a positive rate (0 is reached after it), as in
    `transformers.get_linear_schedule_with_warmup`.
    """
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    done = (step - train.warmup_steps) / max(total - train.warmup_steps, 1)
    if train.schedule == "linear":
        return train.lr * (1.0 - done)
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1.0 + math.cos(math.pi * done))
    return train.lr
