"""What `--parallel` and `--per-run` ask of a cluster."""

from __future__ import annotations

import importlib.util

import pytest

from cl_bench.errors import UserError
from cl_bench.parallel import asked
from cl_bench.parallel.asked import Host, Parallel, Share, capacity, parallel_asked, share_of

CPUS = [Host("a", "a", 64, 0), Host("b", "b", 32, 0)]
CARDS = [Host("a", "a", 96, 8), Host("b", "b", 64, 4), Host("head", "head", 16, 0)]


@pytest.mark.parametrize(
    ("parallel", "hosts", "runs", "expected", "at_once"),
    [
        (Parallel(None), CPUS, 30, Share(3), 21 + 10),
        (Parallel(None), CPUS, 2, Share(48), 1),
        (Parallel(None), CPUS, 500, Share(1), 96),
        (Parallel(None, cpus=16), CPUS, 30, Share(16), 6),
        (Parallel(None), CARDS, 30, Share(12, 1.0), 8 + 4),
        (Parallel(None, gpus=0.5), CARDS, 30, Share(6, 0.5), 16 + 8),
        (Parallel(None, gpus=8), CARDS, 30, Share(96, 8), 1),
        (Parallel(None, cpus=4, gpus=2), CARDS, 30, Share(4, 2), 4 + 2),
        (Parallel(None, gpus=0), CARDS, 11, Share(16), 6 + 4 + 1),
    ],
)
def test_a_share_of_a_cluster(
    parallel: Parallel, hosts: list[Host], runs: int, expected: Share, at_once: int
) -> None:
    share = share_of(parallel, hosts, runs)
    assert share == expected
    assert sum(share.on(host) for host in hosts) == at_once
    assert f"{min(at_once, runs)} of {runs} runs at once" in capacity(share, hosts, runs)


@pytest.mark.parametrize(
    "parallel", [Parallel(None, gpus=16), Parallel(None, cpus=97), Parallel(None, cpus=65, gpus=8)]
)
def test_more_than_any_host_has_is_refused(parallel: Parallel) -> None:
    hosts = CARDS[1:] if parallel.cpus == 65 else CARDS
    with pytest.raises(UserError, match=r"no host of the cluster has as much.*b 4 GPUs, 64 cores"):
        share_of(parallel, hosts, 4)


def test_processes_of_a_run() -> None:
    assert [Share(8, gpus).processes for gpus in (0, 0.5, 1, 2, 8)] == [1, 1, 1, 2, 8]


def test_without_ray_its_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(asked, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(UserError, match=r"pip install 'cl-bench\[ray\]'"):
        parallel_asked("ray", None)


@pytest.mark.parametrize(
    ("given", "address"),
    [("ray", None), ("ray:auto", "auto"), ("ray:10.0.0.1:6379", "10.0.0.1:6379")],
)
def test_addresses(given: str, address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "find_spec", lambda name: object())
    assert parallel_asked(given, "cpus=4,gpus=0.5") == Parallel(address, 4, 0.5)
