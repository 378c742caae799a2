"""A run's numbers beside those of another run: quotients, and what it failed to learn.

Errors take the two runs as independent. Scored on the same documents they mostly rise and fall
together, so that the errors here are rather too large.
"""

from __future__ import annotations

from math import sqrt

from cl_bench.scores.cells import Measure
from cl_bench.scores.matrix import ScoreMatrix


def quotient(value: Measure, reference: Measure) -> Measure:
    """`value / reference`, with the error of a quotient to first order.

    Not measured where one of them is not, or where the reference is 0 or less.
    """
    if value.value is None or reference.value is None:
        missing = value if value.value is None else reference
        return Measure(None, not_measured=missing.not_measured)
    if reference.value <= 0:
        return Measure(None, not_measured="the reference is 0 or less")
    ratio = value.value / reference.value
    if value.stderr is None or reference.stderr is None:
        return Measure(ratio)
    error = sqrt(value.stderr**2 + (ratio * reference.stderr) ** 2) / reference.value
    return Measure(ratio, error)


def intransigence(matrix: ScoreMatrix, reference: ScoreMatrix) -> Measure:
    """The mean over tasks of a reference's score minus the score right after learning. -1 to 1.

    After Chaudhry et al. (ECCV 2018): positive is what a run could not learn and the reference
    could. There the reference for task k is trained on the data of the tasks 1 to k; here it is one
    model: of all tasks at once (`mtl`), or of each task alone (`single`).
    """
    if matrix.setting == "base" or reference.setting == "base" or not matrix.tasks:
        return Measure(None, not_measured="the base model was not trained")
    total = squares = 0.0
    known = True
    for task in matrix.tasks:
        own = matrix.cell(matrix.latest_of(task), task)
        place = reference.latest_of(task) if task in reference.tasks else 0
        other = reference.cell(place, task) if place else None
        if own is None or other is None:
            whose = "this run" if own is None else "the reference"
            return Measure(None, not_measured=f"{task} of {whose}")
        total += other.score - own.score
        known = known and own.stderr is not None and other.stderr is not None
        squares += (own.stderr or 0.0) ** 2 + (other.stderr or 0.0) ** 2
    count = len(matrix.tasks)
    return Measure(total / count, sqrt(squares) / count if known else None)
