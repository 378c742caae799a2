"""Task arithmetic (Ilharco et al. 2023) over stages, as mergekit's `task_arithmetic`."""

from __future__ import annotations

from cl_bench.methods.task_vectors import TaskVectorOptions, TaskVectors


class TaskArithmeticOptions(TaskVectorOptions):
    """Options of task arithmetic."""


class TaskArithmetic(TaskVectors[TaskArithmeticOptions]):
    """theta_0 + lambda * sum of the vectors of all stages so far.

    With the defaults the vectors lead from each stage to the next and their sum is plain training;
    `lambda` then scales what all stages together changed. Models that were trained apart
    (`compose: [single, task_arithmetic]`) are the setting of the paper.
    """

    name = "task_arithmetic"
    family = "merges"
    source = "Ilharco 2023, arXiv 2212.04089"
