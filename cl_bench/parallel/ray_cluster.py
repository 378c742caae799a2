"""Ray as the engine of `--parallel`. The only file that imports it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cl_bench.errors import UserError
from cl_bench.parallel import on_host
from cl_bench.parallel.asked import Host, Parallel, Share, capacity, share_of
from cl_bench.parallel.cluster import Outcome

CONNECTING = 30.0
"""Seconds that a cluster may take to answer."""
STORE_BYTES = 100_000_000
"""Of shared memory for Ray's objects on a cluster of our own, which are small."""
_TRIAL = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); ray.nodes()"


@contextmanager
def connected(address: str | None) -> Iterator[RayCluster]:
    """The cluster at `address`, or one of this machine alone, which ends with the block.

    Raises UserError where none answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network unless asked for
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address not in (None, "local"):
        _try(address)
    ray = import_module("ray")
    ray.cloudpickle.register_pickle_by_value(on_host)  # hosts may have another version, or none
    quiet = {"logging_level": logging.ERROR, "log_to_driver": True}
    if address in (None, "local"):
        own = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        ray.init(address="local", **own, **quiet)
    else:
        ray.init(address=address, **quiet)
    try:
        yield RayCluster(ray, ours=address in (None, "local"))
    finally:
        ray.shutdown()


def planned(parallel: Parallel, runs: int, chosen: int) -> str:
    """What `plan` says of a cluster and of an experiment of so many runs."""
    with connected(parallel.address) as cluster:
        hosts = cluster.hosts()
    share = share_of(parallel, hosts, runs)
    return capacity(share, [host for host in hosts if share.fits(host)], chosen)


def _try(address: str) -> None:
    """Connect in another process: where nothing answers, Ray ends the process after minutes."""
    trial = [sys.executable, "-c", _TRIAL, address]
    where = f"--parallel ray:{address}"
    try:
        done = subprocess.run(trial, capture_output=True, timeout=CONNECTING)
    except subprocess.TimeoutExpired as error:
        remedy = _remedy(error.stderr or b"")
        raise UserError(f"{where}: no answer within {CONNECTING:.0f} s: {remedy}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing was said"]
        remedy = _remedy(done.stderr)
        raise UserError(f"{where}: no connection ({said[-1].strip()}): {remedy}")


def _remedy(said: bytes) -> str:
    if b"AuthToken" in said or b"Authentication" in said or b"authentication token" in said:
        return (
            "the cluster wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the "
            "file with the token that the cluster was started with (docs/clusters.md)"
        )
    return "is `ray start` at work there, and this a host of its cluster?"


class RayCluster:
    """A `Cluster` (cluster.py)."""

    def __init__(self, ray: Any, ours: bool) -> None:
        self._ray, self.ours = ray, ours
        self._work = ray.remote(max_retries=0)(on_host.work)

    def hosts(self) -> list[Host]:
        """Those that are up."""
        found = []
        for node in self._ray.nodes():
            has = node["Resources"]
            if node["Alive"]:
                name = node["NodeManagerHostname"]
                found.append(Host(node["NodeID"], name, has.get("CPU", 0.0), has.get("GPU", 0.0)))
        return found

    def start(self, name: str, request: Mapping[str, Any], where: Host | Share) -> Any:
        """A Ray task."""
        options: dict[str, Any] = {"name": name}
        if isinstance(where, Host):
            strategies = import_module("ray.util.scheduling_strategies")
            there = strategies.NodeAffinitySchedulingStrategy(where.id, soft=False)
            options |= {"num_cpus": 0, "scheduling_strategy": there}
        else:
            options |= {"num_cpus": where.cpus, "num_gpus": where.gpus}
        return self._work.options(**options).remote(dict(request))

    def ended(self, tasks: Sequence[Any], seconds: float) -> list[Any]:
        """Those that have ended, waiting at most so long for one."""
        done, _ = self._ray.wait(list(tasks), num_returns=1, timeout=seconds)
        return list(done)

    def outcome(self, task: Any) -> Outcome:
        """Of one that has ended."""
        errors = self._ray.exceptions
        try:
            return Outcome(**self._ray.get(task))
        except errors.RayTaskError as error:  # `on_host.work` itself failed there
            return Outcome("", 1, [f"a task failed on its host: {error.cause!r}"])
        except errors.RayError as error:
            return Outcome("", None, [str(error).strip().splitlines()[0].rstrip(".")])

    def stop(self, tasks: Sequence[Any]) -> None:
        """Each is interrupted, as by Ctrl-C; those that have not begun do not."""
        for task in tasks:
            self._ray.cancel(task, force=False)
