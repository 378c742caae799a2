"""What `cl-bench run` is asked for with `--parallel`. Nothing here imports Ray or torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cl_bench.errors import UserError, nearest

ENGINES = ("ray",)
RESOURCES = ("cpus", "gpus")


@dataclass(frozen=True)
class Host:
    """A host of a cluster that is up."""

    id: str
    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Share:
    """What one run takes, all of it on one host."""

    cpus: int
    gpus: float = 0.0
    """A part of one for several runs on a card; several for a run of as many processes."""

    @property
    def processes(self) -> int:
        """That work on the run together."""
        return max(1, int(self.gpus))

    def fits(self, host: Host) -> bool:
        """Whether the host has so much, in use or not."""
        return host.cpus >= self.cpus and host.gpus >= self.gpus

    def on(self, host: Host) -> int:
        """How many runs the host has room for."""
        rooms = [host.cpus // self.cpus, *([host.gpus // self.gpus] if self.gpus else [])]
        return int(min(rooms))

    def __str__(self) -> str:
        cores = f"{self.cpus} core{'s' if self.cpus > 1 else ''}"
        cards = f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''} and "
        return (cards if self.gpus else "") + cores


@dataclass(frozen=True)
class Command:
    """What the driver was started with, as `cl-bench run` takes it."""

    config: str
    override: Sequence[str]
    method: Sequence[str]
    until: str | None
    results: Path
    engine: tuple[str | None, str | None, str | None]
    allow_code: bool


@dataclass(frozen=True)
class Parallel:
    """The cluster, and what a run is to take of it (None: as `share_of` says)."""

    address: str | None
    """Of Ray's head as HOST:PORT, or `auto`; None: `RAY_ADDRESS`, or one of this machine alone."""
    cpus: int | None = None
    gpus: float | None = None


def parallel_asked(parallel: str | None, per_run: str | None) -> Parallel | None:
    """From the command line; None without `--parallel`. Raises UserError with every fault."""
    if parallel is None:
        if per_run is not None:
            raise UserError(f"--per-run {per_run}: only with --parallel ray[:ADDRESS]")
        return None
    engine, _, address = parallel.partition(":")
    faults = []
    if engine not in ENGINES:
        faults.append(f"--parallel {parallel}: unknown engine {engine!r}{nearest(engine, ENGINES)}")
    elif find_spec(engine) is None:
        faults.append("--parallel ray needs the package 'ray': pip install 'cl-bench[ray]'")
    if fault := _address_fault(address):
        faults.append(f"--parallel {parallel}: {fault}")
    found, more = _per_run(per_run)
    if faults := [*faults, *more]:
        raise UserError(faults)
    cpus, gpus = found.get("cpus"), found.get("gpus")
    return Parallel(address or None, None if cpus is None else int(cpus), gpus)


def _address_fault(address: str) -> str | None:
    if "://" in address:
        return (
            "Ray's client (ray://) is not supported: start cl-bench on a host of the cluster, with "
            "the address that `ray start --head` prints"
        )
    host, _, port = address.rpartition(":")
    if address in ("", "auto") or (host and port.isdigit() and 0 < int(port) < 65536):
        return None
    return "the address must be HOST:PORT, as `ray start --head` prints it, or auto"


def _per_run(text: str | None) -> tuple[dict[str, float], list[str]]:
    found: dict[str, float] = {}
    faults = []
    for item in (text or "").split(",") if text is not None else ():
        key, _, value = item.strip().partition("=")
        if key not in RESOURCES:
            faults.append(f"--per-run {item}: unknown key {key!r}{nearest(key, RESOURCES)}")
            continue
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        whole = number.is_integer() and number < 1e6
        if key == "cpus" and not (whole and number >= 1):
            faults.append(f"--per-run {item}: a whole number of cores is needed, at least 1")
        elif key == "gpus" and not ((whole and number >= 0) or 0 < number < 1):
            faults.append(f"--per-run {item}: a whole number of GPUs, or a part of one, is needed")
        found[key] = number
    return found, faults


def share_of(asked: Parallel, hosts: Sequence[Host], runs: int) -> Share:
    """What each of `runs` runs takes of these hosts. Raises UserError where none has so much.

    By default a GPU with its part of the host's cores; without GPUs a part of all cores.
    It depends on the cluster and on the config alone, not on what is done already: the number of
    threads decides in which order sums are made.
    """
    gpus = asked.gpus
    if gpus is None:
        gpus = 1.0 if any(host.gpus for host in hosts) else 0.0
    able = [host for host in hosts if host.gpus >= max(gpus, 1e-9)] if gpus else list(hosts)
    if asked.cpus is not None:
        cpus = asked.cpus
    elif gpus:
        cpus = min((int(host.cpus * gpus / host.gpus) for host in able), default=1)
    else:
        cpus = int(min(sum(h.cpus for h in hosts) / max(runs, 1), max(h.cpus for h in hosts)))
    share = Share(max(cpus, 1), gpus)
    if not any(share.fits(host) for host in hosts):
        most = ", ".join(f"{host.name} {host.gpus:g} GPUs, {host.cpus:g} cores" for host in hosts)
        raise UserError(
            f"--per-run: {share} for a run: no host of the cluster has as much, and a run works on "
            f"one host ({most}); give --per-run cpus=N,gpus=N that fits one"
        )
    return share


def capacity(share: Share, hosts: Sequence[Host], runs: int) -> str:
    """What a person wants to know before it starts."""
    at_once = sum(share.on(host) for host in hosts)
    several = "s" if len(hosts) > 1 else ""
    return (
        f"ray: {len(hosts)} host{several}, {share} a run: {min(at_once, runs)} of {runs} "
        f"run{'s' if runs > 1 else ''} at once"
    )
