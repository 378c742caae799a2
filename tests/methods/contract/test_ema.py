"""The average of the weights, kept beside training and only looked at by scoring."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from cl_bench.experiment.loop import train_stage
from tests.helpers.reference import (
    Gradients,
    assert_close,
    make_stage,
    reference_training,
    weights,
)
from tests.methods.contract.helpers import NEW, TRAIN, method, model64


class Looks:
    """A curve that looks at the weights that it is given to score."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def due(self, step: int, total: int, ends_epoch: bool) -> bool:
        return True

    def score(self, record: Mapping[str, Any], model: Any) -> None:
        self.seen.append(weights(model))


def test_the_average_is_scored_and_training_goes_on_from_the_weights() -> None:
    expected, steps = model64(), []

    def look(gradients: Gradients) -> None:
        steps.append(weights(expected))

    model = copy.deepcopy(expected)
    reference_training(expected, NEW, TRAIN, 3, before_step=look)
    steps.append(weights(expected))
    average = steps[0]
    averages = [average]
    for step in steps[1:]:
        average = {n: 0.7 * v + 0.3 * step[n] for n, v in average.items()}
        averages.append(average)
    stage, batcher = make_stage(model, NEW, TRAIN)
    stage.epochs = 3
    own, looks = method("ema", decay=0.7), Looks()
    train_stage(stage, own, batcher, lambda record, total: None, looks)
    assert_close(weights(model), weights(expected))
    assert len(looks.seen) == len(averages) == 4
    for seen, wanted in zip(looks.seen, averages, strict=True):
        assert_close(seen, wanted)
    before = weights(model)
    with own.scored(stage) as scored:
        assert_close(weights(scored), averages[-1])
    assert_close(weights(model), before, 0.0)
