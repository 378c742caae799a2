"""What `cl-bench eval --task` takes."""

from __future__ import annotations

import pytest

from cl_bench.errors import UserError
from cl_bench.experiment.rescore import chosen_tasks


def test_general_stands_for_all_benchmarks_of_the_run() -> None:
    assert chosen_tasks(["FOMC", "General", "piqa"], ["piqa", "mmlu"]) == [
        "trace_fomc",
        "piqa",
        "mmlu",
    ]
    assert chosen_tasks([], ["piqa"]) == []
    with pytest.raises(UserError, match="the run has no benchmarks"):
        chosen_tasks(["general"], [])
