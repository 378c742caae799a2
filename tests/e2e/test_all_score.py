"""All processes score: what they leave is what one process leaves, byte for byte.

Updates are of one example, so that all numbers of processes train to the same bits.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from cl_bench.cli import run_command
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.launching import Ended, launched

CPU = {"ACCELERATE_USE_CPU": "true"}
SMALL = ("--engine-args", "token_budget=64")


def experiment(bench: Bench, limit: int) -> None:
    """Two stages whose training rows are none that are scored."""
    for task, answers in (("FOMC", "ABC"), ("NumGLUE-ds", "789")):
        rows = [{"prompt": f"Seen {i}:", "answer": answers[i % 3]} for i in range(12)]
        (bench.root / "data" / "trace" / task / "train.json").write_text(json.dumps(rows))
    bench.write_config(
        methods=[{"name": "ori", "shots": 1}, "sft"],
        stages=[{"task": "FOMC", "limit": 2}, {"task": "trace_numglue_ds", "limit": 2}],
        train={"lr": 1e-3, "batch_size": 1, "max_prompt_tokens": 64, "max_answer_tokens": 6},
        eval={
            "trace": {"limit": limit},
            "general": {"tasks": ["piqa"], "limit": limit},
            "within_stage": {"every": "epoch", "limit": limit},
        },
    )


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many tokens this process has computed: in passes, decoding steps and texts of KL."""
    count = {"pass": 0, "step": 0, "text": 0}
    run, step, run_alone = PackedModel.run, PackedModel.step, PackedModel.run_alone

    def counted_run(self, layout, *rest):
        count["pass"] += sum(len(placed.columns) for placed in layout.placed if placed.first)
        return run(self, layout, *rest)

    def counted_step(self, fed, *rest):
        count["step"] += len(fed)
        return step(self, fed, *rest)

    def counted_text(self, ids, *rest):
        count["text"] += len(ids)
        return run_alone(self, ids, *rest)

    monkeypatch.setattr(PackedModel, "run_alone", counted_text)
    monkeypatch.setattr(PackedModel, "run", counted_run)
    monkeypatch.setattr(PackedModel, "step", counted_step)
    return count


def all_together(bench: Bench, world: int, count: dict[str, int], name: str) -> list[Ended]:
    def work(rank: int) -> int:
        count.update(dict.fromkeys(count, 0))
        code = run_command(["run", "tiny.yaml", *SMALL, "-o", f"name={name}"])
        Path(f"{rank}.count").write_text(json.dumps(count))
        return code

    return launched(bench.root, work, world, environment=CPU)


@pytest.mark.parametrize(("world", "limit"), [(2, 12), (3, 2), (4, 8)])
def test_files_are_those_of_one_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, world: int, limit: int
) -> None:
    """Also where there are fewer documents than processes."""
    experiment(bench, limit)
    count = counted(monkeypatch)
    bench.must("run", "tiny.yaml", *SMALL, "-o", "name=one")
    alone = dict(count)
    ended = all_together(bench, world, count, "all")
    assert [one.code for one in ended] == [0] * world, "".join(one.err for one in ended)
    one, all_ = (fingerprints(bench.root / "results" / name) for name in ("one", "all"))
    assert one == all_ and any("predictions" in name for name in one)
    assert any(name.endswith("curve.jsonl") for name in one)
    parts = [json.loads((bench.root / f"{rank}.count").read_text()) for rank in range(world)]
    for kind in count:
        each = [part[kind] for part in parts]
        # What is asked of a model once (whether it may share prefixes) forks have from this test.
        assert sum(each) >= 0.9 * alone[kind], "something was computed elsewhere"
        assert sum(tokens > 0 for tokens in each) == min(world, limit), each
        if limit > world:
            # Texts are dealt one by one, so that a few of the first process's alone would show.
            assert max(each) < (0.56 if kind == "text" else 0.75) * alone[kind], (each, alone)


def test_a_process_that_dies_in_scoring_loses_nothing_complete(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment(bench, 6)
    count = counted(monkeypatch)
    bench.must("run", "tiny.yaml", *SMALL, "-o", "name=one")
    run = PackedModel.run

    def dies(self, layout, *rest):
        found = run(self, layout, *rest)
        if os.environ["RANK"] == "1" and Path("results/all/base/scores.json").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(PackedModel, "run", dies)
        ended = all_together(bench, 2, count, "all")
    assert ended[1].code == -signal.SIGKILL and ended[0].code != 0
    said = [line for line in ended[0].err.splitlines() if "cl-bench: failed" in line]
    assert len(said) <= 1, said
    base = (bench.root / "results" / "all" / "base" / "scores.json").read_bytes()
    ended = all_together(bench, 2, count, "all")
    assert [one.code for one in ended] == [0, 0], "".join(one.err for one in ended)
    assert (bench.root / "results" / "all" / "base" / "scores.json").read_bytes() == base
    one, all_ = (fingerprints(bench.root / "results" / name) for name in ("one", "all"))
    assert one == all_
