"""`cl-bench run --parallel`: compare the hosts, score the base model, then make the runs at once.

A task is what a `cl-bench run --share` with one run left to do would be (`child.py`): locks, what
is resumed and what is written are the same (`experiment/sharing.py`).
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cl_bench.checks.made_of import check_folder, made_of
from cl_bench.checks.preflight import preflight
from cl_bench.errors import RunError, RunsFailedError, UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.experiment.midway.stops import Stops
from cl_bench.experiment.run import check_disk
from cl_bench.experiment.sharing import opening, place_of
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.parallel import on_host
from cl_bench.parallel.agreement import described, key_of
from cl_bench.parallel.asked import Command, Host, Parallel, capacity, share_of
from cl_bench.parallel.cluster import Cluster, Outcome
from cl_bench.parallel.ray_cluster import connected
from cl_bench.parallel.requests import BASE, LOOK, Asking
from cl_bench.store.file_errors import check_results_folder

RETRIES = 3
"""How often a run whose process or host is gone is begun again; it goes on where it was."""
LOOKING = 600.0
"""Seconds in which all hosts must have compared themselves: they read tasks, data and weights."""
STOPPING = 600.0
"""Seconds in which tasks that are told to stop must have saved what they are at."""
WAITING = 1.0
"""Seconds between two looks at anything but an end."""
TOKEN = ".driver-"

Say = Callable[[str], None]


def run_in_parallel(
    experiment: Experiment, command: Command, engine: Engine, parallel: Parallel, say: Say
) -> Path:
    """Make what is not done yet of the chosen runs; returns the experiment's folder.

    Raises UserError before anything is scored where the input, a host or the cluster is wrong, and
    RunsFailedError at the end where runs failed or are missing.
    """
    folder = command.results / experiment.config.name
    check_results_folder(folder)
    checked = preflight(experiment, engine, command.allow_code, say)
    check_disk(experiment, checked.suite, folder)
    inputs = (experiment, checked.suite, checked.examples)
    contents = made_of(*inputs, checked.model_path, say)
    check_folder(*inputs, folder, contents)
    with connected(parallel.address) as cluster, Stops().listening():
        hosts = cluster.hosts()
        share = share_of(parallel, hosts, len(experiment.runs))
        hosts = [host for host in hosts if share.fits(host)]
        say(capacity(share, hosts, len(experiment.chosen)))
        with opening(folder, True, say):
            pass  # refused where somebody works alone
        with token_in(folder) as token:
            expected = described(experiment, contents, folder)
            asking = Asking(command, expected, on_host.facts(), token, share)
            if not cluster.ours:
                compare_hosts(cluster, asking, hosts)
            make(cluster, asking, experiment, folder, say)
    return folder


@contextmanager
def token_in(folder: Path) -> Iterator[Path]:
    """A file in the experiment's folder that this process holds a lock on."""
    for old in folder.glob(f"{TOKEN}*"):  # of drivers that were killed
        with suppress(Timeout, OSError), FileLock(old, timeout=0):
            old.unlink()
    file = folder / f"{TOKEN}{secrets.token_hex(8)}"
    try:
        with FileLock(file, timeout=0):
            yield file
    finally:
        file.unlink(missing_ok=True)


def compare_hosts(cluster: Cluster, asking: Asking, hosts: Sequence[Host]) -> None:
    """Raise UserError, with the faults of all, where a host would not make the same runs."""
    tasks = {cluster.start("look", asking.to(LOOK), host): host for host in hosts}
    faults: list[str] = []
    end = time.monotonic() + LOOKING
    while tasks and time.monotonic() < end:
        for task in cluster.ended(list(tasks), WAITING):
            host, outcome = tasks.pop(task), cluster.outcome(task)
            if outcome.code != 0:
                faults += [f"host {host.name}: {line}" for line in outcome.said or [outcome.reason]]
    faults += [f"host {host.name}: no answer within {LOOKING:.0f} s" for host in tasks.values()]
    if faults:
        advice = "nothing was begun: mend these hosts, or take them out of the cluster"
        raise UserError([*dict.fromkeys(faults), advice])


def make(cluster: Cluster, asking: Asking, experiment: Experiment, folder: Path, say: Say) -> None:
    """The base model's scores, then every run that is not complete."""
    base = with_retries(cluster, asking, {BASE: "base model"}, say)[BASE]
    if base.code == 2:
        raise UserError([f"base model (on {base.host}): {line}" for line in base.said])
    if base.code != 0:
        raise RunError(f"base model: {base.reason}; run the same command again to go on")
    runs = {key_of(run): run for run in experiment.chosen if not _complete(experiment, run, folder)}
    names = {key: f"{run.label}, seed {run.seed}" for key, run in runs.items()}
    ends = with_retries(cluster, asking, names, say)
    failures = [_failure(names[key], ends[key]) for key in names if ends[key].code != 0]
    if failures:
        raise RunsFailedError(folder, failures, len(experiment.chosen))


def with_retries(
    cluster: Cluster, asking: Asking, names: Mapping[str, str], say: Say
) -> dict[str, Outcome]:
    """How these requests ended, all at once; `names` as a person calls them."""

    def start(key: str) -> Any:
        return cluster.start(names[key], asking.to(key), asking.share)

    tasks = {start(key): key for key in names}
    tries: Counter[str] = Counter()
    ends: dict[str, Outcome] = {}
    with _stopped_with_this(cluster, tasks, say):
        while tasks:
            for task in cluster.ended(list(tasks), WAITING):
                key, outcome = tasks.pop(task), cluster.outcome(task)
                if not outcome.lost or tries[key] == RETRIES:
                    ends[key] = outcome
                    continue
                tries[key] += 1
                again = f"goes on from what it saved last (retry {tries[key]} of {RETRIES})"
                say(f"{names[key]}: {outcome.reason}; {again}")
                tasks[start(key)] = key
    return ends


@contextmanager
def _stopped_with_this(cluster: Cluster, tasks: dict[Any, str], say: Say) -> Iterator[None]:
    """Told to stop, this process has its tasks save what they are at, and waits for them."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopping: the runs save what they are at; once more ends at once")
        cluster.stop(list(tasks))
        end = time.monotonic() + STOPPING
        while tasks and time.monotonic() < end:
            for task in cluster.ended(list(tasks), WAITING):
                del tasks[task]
        raise


def _complete(experiment: Experiment, run: RunSpec, folder: Path) -> bool:
    place = place_of(folder, run)
    return all(place.stage(stage.folder).scored for stage in experiment.now(run))


def _failure(name: str, outcome: Outcome) -> str:
    if outcome.lost:
        return (
            f"{name}: missing, begun {RETRIES + 1} times: {outcome.reason}. "
            "Run the same command again to go on"
        )
    own = [line.removeprefix(f"{name}, ") for line in outcome.said] or [outcome.reason]
    return f"{name} (on {outcome.host}): {'; '.join(own)}"
