"""`run --parallel` on a cluster that is a script; `test_ray.py` has a real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cl_bench.errors import RunError, RunsFailedError, UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.parallel import driver
from cl_bench.parallel.asked import Command, Host, Share
from cl_bench.parallel.cluster import Outcome
from cl_bench.parallel.requests import Asking
from tests.e2e.conftest import Bench

HOSTS = [Host("1", "one", 4, 0), Host("2", "two", 4, 0)]
DEAD = Outcome("", None, ["The worker died"])
KEYS = {"sft/seed-1": "sft, seed 1", "fggm/seed-1": "fggm, seed 1"}


class ScriptedCluster:
    """Each request ends as the next outcome that is written down for it."""

    ours = False

    def __init__(self, **ends: list[Outcome | None]) -> None:
        self.ends = ends
        self.asked: list[tuple[str, Host | Share]] = []
        self.stopped: list[int] = []

    def hosts(self) -> list[Host]:
        return HOSTS

    def start(self, name: str, request: Mapping[str, Any], where: Host | Share) -> int:
        self.asked.append((request["run"], where))
        return len(self.asked) - 1

    def ended(self, tasks: Sequence[int], seconds: float) -> list[int]:
        if self.stopped:
            return [tasks[-1]]
        for task in tasks:
            run, where = self.asked[task]
            key = where.name if isinstance(where, Host) else run.partition("/")[0]
            if self.ends[key] and self.ends[key][0] is not None:
                return [task]
            if self.ends[key]:
                raise KeyboardInterrupt
        return []

    def outcome(self, task: int) -> Outcome:
        run, where = self.asked[task]
        key = where.name if isinstance(where, Host) else run.partition("/")[0]
        found = self.ends[key].pop(0)
        assert found is not None
        return found

    def stop(self, tasks: Sequence[int]) -> None:
        self.stopped = list(tasks)


def asking() -> Asking:
    command = Command("tiny.yaml", (), (), None, Path("results"), (None, None, None), False)
    return Asking(command, {}, {}, Path("token"), Share(2))


def made(bench: Bench, cluster: ScriptedCluster) -> list[str]:
    said: list[str] = []
    experiment = resolve_file("tiny.yaml")
    driver.make(cluster, asking(), experiment, bench.results, said.append)
    return said


def fine(host: str = "one") -> Outcome:
    return Outcome(host, 0)


def test_the_base_comes_first_then_all_at_once(bench: Bench) -> None:
    cluster = ScriptedCluster(base=[fine()], sft=[fine()], fggm=[fine()])
    assert made(bench, cluster) == []
    assert cluster.asked == [
        ("base", Share(2)),
        ("sft/seed-1", Share(2)),
        ("fggm/seed-1", Share(2)),
    ]


def test_what_is_lost_is_begun_again_and_said(bench: Bench) -> None:
    ends = [DEAD, Outcome("one", -9), Outcome("one", 130), fine()]
    cluster = ScriptedCluster(base=[DEAD, fine()], sft=[fine()], fggm=ends)
    said = made(bench, cluster)
    assert [run for run, _ in cluster.asked].count("fggm/seed-1") == 4
    assert len(said) == 4 and said[0].startswith("base model: The worker died; goes on")
    assert "signal 9" in said[2] and "retry 3 of 3" in said[3]


def test_what_is_missing_at_the_end_is_told_once(bench: Bench) -> None:
    diverged = Outcome("two", 1, ["fggm, seed 1, stage 1: loss is not finite"])
    cluster = ScriptedCluster(base=[fine()], sft=[DEAD] * 4, fggm=[diverged])
    with pytest.raises(RunsFailedError) as failed:
        made(bench, cluster)
    assert failed.value.failures == [
        "sft, seed 1: missing, begun 4 times: The worker died. Run the same command again to go on",
        "fggm, seed 1 (on two): stage 1: loss is not finite",
    ]
    assert "2 of 2 runs failed" in str(failed.value)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(Outcome("two", 2, ["bad"]), UserError), (Outcome("two", 1, ["disk full"]), RunError)],
)
def test_without_the_base_no_run_is_begun(
    bench: Bench, outcome: Outcome, error: type[Exception]
) -> None:
    cluster = ScriptedCluster(base=[outcome])
    with pytest.raises(error, match=r"base model.*(bad|disk full)"):
        made(bench, cluster)
    assert [run for run, _ in cluster.asked] == ["base"]


def test_told_to_stop_it_stops_its_tasks_and_waits(bench: Bench) -> None:
    cluster = ScriptedCluster(base=[fine()], sft=[fine()], fggm=[None])
    with pytest.raises(KeyboardInterrupt):
        made(bench, cluster)
    assert cluster.stopped == [2]


def test_runs_that_are_complete_are_not_asked_for(bench: Bench) -> None:
    bench.trained("--method", "sft")
    cluster = ScriptedCluster(base=[fine()], fggm=[fine()])
    made(bench, cluster)
    assert [run for run, _ in cluster.asked] == ["base", "fggm/seed-1"]


def test_every_host_is_compared_and_every_fault_told() -> None:
    cluster = ScriptedCluster(one=[Outcome("one", 2, ["torch is 1", "torch is 1"])], two=[DEAD])
    with pytest.raises(UserError) as error:
        driver.compare_hosts(cluster, asking(), HOSTS)
    assert error.value.faults[:2] == ["host one: torch is 1", "host two: The worker died"]
    assert "nothing was begun" in error.value.faults[2]
    assert [where for _, where in cluster.asked] == HOSTS


def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOKING", 0.05)
    cluster = ScriptedCluster(one=[fine()], two=[])
    with pytest.raises(UserError, match="host two: no answer within"):
        driver.compare_hosts(cluster, asking(), HOSTS)
