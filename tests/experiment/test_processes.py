"""Processes that train as one: connected or refused, waiting without a limit, one voice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cl_bench.cli import failures_reported
from cl_bench.errors import UserError
from cl_bench.experiment import processes
from cl_bench.experiment.processes import (
    accelerate_faults,
    join,
    one_voice,
    place,
    refuse_several,
    started,
)
from tests.helpers.launching import launched

CPU = {"ACCELERATE_USE_CPU": "true"}


def test_launchers_are_recognised() -> None:
    assert (started({}), place({})) == (1, 0)
    assert (started({"WORLD_SIZE": "1", "RANK": "0"}), place({"RANK": "3"})) == (1, 0)
    for world, rank in (
        ("WORLD_SIZE", "RANK"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("PMI_SIZE", "PMI_RANK"),
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ):
        environment = {world: "3", rank: "2"}
        assert (started(environment), place(environment)) == (3, 2)


def test_settings_of_accelerate_that_would_do_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert accelerate_faults({"ACCELERATE_USE_FSDP": "false"}) == []
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_FSDP"):
        join()


def test_eval_in_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_several("eval")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="eval works in one process, 4 were started"):
        refuse_several("eval")


def run(inside) -> int:
    """The exit code of something done by a process among others, reported as by the command."""

    def command() -> int:
        with one_voice():
            together, _ = join()
            inside(together)
        return 0

    return failures_reported(command)


def messages(ended) -> list[str]:
    return [line for one in ended for line in one.err.splitlines() if "cl-bench" in line]


def test_connected_processes_agree_and_wait_longer_than_torch_would(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        short = torch.distributed.constants.timedelta(seconds=1)
        for module in (dist.constants, dist.distributed_c10d):
            module.default_pg_timeout = short

        def inside(together) -> None:
            assert together.world == dist.get_world_size() == 2 and together.rank == rank
            backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
            assert backend.options._timeout == processes.WITHOUT_LIMIT
            assert together.agreed(7 if together.first else 5) == 7
            with together.first_goes_first():
                if together.first:
                    time.sleep(2.5)  # an evaluation
                    (tmp_path / "prepared").write_text("yes")
                assert (tmp_path / "prepared").is_file()
            total = torch.tensor([float(rank + 1)])
            together.all_reduce(total)
            print("sum", float(total))

        return run(inside)

    ended = launched(tmp_path, work, environment=CPU)
    assert [one.code for one in ended] == [0, 0], ended
    assert [one.out for one in ended] == ["sum 3.0\n"] * 2
    assert not messages(ended)


def first_has_wrong_input(together) -> None:
    if together.first:
        raise UserError(["one fault", "another fault"])
    together.wait()


def second_fails(together) -> None:
    if not together.first:
        raise ValueError("invented")
    together.all_reduce(torch.zeros(3))


def both_fail(together) -> None:
    together.wait()
    raise ValueError("invented")


def second_is_killed(together) -> None:
    together.wait()  # until the first has joined too, and can say what happens to it
    if not together.first:
        os.kill(os.getpid(), signal.SIGKILL)
    together.wait()


@pytest.mark.parametrize(
    ("inside", "codes", "said"),
    [
        (first_has_wrong_input, (2, 1), ["error: one fault", "error: another fault"]),
        (second_fails, (1, 1), ["failed: ValueError: invented"]),
        (both_fail, (1, 1), ["failed: ValueError: invented"]),
        (second_is_killed, (1, -signal.SIGKILL), ["failed: another process has ended"]),
    ],
)
@pytest.mark.parametrize("kills", [True, False])
def test_one_error_ends_all_with_one_message(
    inside, codes, said, kills: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 30.0 if kills else 0.2)
    began = time.monotonic()
    ended = launched(tmp_path, lambda rank: run(inside), environment=CPU, kills=kills)
    assert time.monotonic() - began < 20
    if kills:
        assert all(one.code != 0 for one in ended)
    else:
        assert tuple(one.code for one in ended) == codes
    found = messages(ended)
    if kills and inside is second_is_killed and not found:
        return  # the launcher ended the first before it could speak, and tells of the kill itself
    assert len(found) == len(said), found
    for line, expected in zip(found, said, strict=True):
        assert line.startswith(f"cl-bench: {expected}")


def test_unconnected_processes_are_refused_once(tmp_path: Path) -> None:
    """What torchrun starts on CPUs when nobody says that it should use them."""
    ended = launched(tmp_path, lambda rank: run(lambda together: print("alone")))
    assert 2 in [one.code for one in ended] and 0 not in [one.code for one in ended]
    assert not any(one.out for one in ended)
    said = "".join(one.err for one in ended)
    assert said.count("cl-bench: error: 2 processes were started, but they are not connected") == 1
    assert said.count("ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m cl_bench run") == 1


def test_processes_that_never_come_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "JOINING", 0.5)

    def work(rank: int) -> int:
        return run(lambda together: None) if rank == 0 else 0

    ended = launched(tmp_path, work, environment=CPU)
    assert [one.code for one in ended] == [1, 0]
    assert "process 0 of 2" in ended[0].err and "not all of the others have joined" in ended[0].err


def test_a_fault_of_the_second_alone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are connected: the config may be missing on one machine only."""
    monkeypatch.setattr(processes, "PATIENCE", 0.2)

    def command() -> int:
        with one_voice():
            if place() == 1:
                raise UserError("tiny.yaml: no such config")
            time.sleep(60)
        return 0

    ended = launched(tmp_path, lambda rank: failures_reported(command), environment=CPU)
    assert ended[1].code == 2 and messages(ended) == ["cl-bench: error: tiny.yaml: no such config"]
