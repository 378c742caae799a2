"""Several processes that train as one: which they are, waiting for each other, one voice.

A launcher (`torchrun`, `accelerate launch`, `mpirun`, `srun`) starts them; accelerate connects them
where it can. The first one scores and writes files, the others wait for it without a limit, since
an evaluation may take hours. Whatever ends one ends all, and one of them says why.

torch is imported inside: what comes before the first batch need not wait for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Timer
from typing import TYPE_CHECKING, Any

from cl_bench.errors import RunError, UserError
from cl_bench.terminal import say

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WITHOUT_LIMIT = timedelta(days=365)
"""How long processes wait for each other. torch's own limits, 10 and 30 minutes, end a run whose
first process is still scoring."""
JOINING = 1800.0
"""Seconds until all processes must have been started: one that never comes is not waited for."""
PATIENCE = 30.0
"""Seconds that a process leaves the launcher to end it, when another one says what went wrong."""

_WORLD = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
"""What launchers put into the environment."""
_FAILED = "cl-bench: the process that failed first"


class SilentExitError(Exception):
    """This process ends because of an error that another one reports."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exit code {code}")


@dataclass(frozen=True)
class Processes:
    """This process among all; with one process nothing is communicated."""

    rank: int
    world: int
    all_reduce: Callable[[Tensor], None]
    """Sums over processes, in place."""

    @property
    def first(self) -> bool:
        """Only this one writes files and scores."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here: the first has written what the others read."""
        if self.world > 1:
            from accelerate import PartialState

            with _broken_connections():
                PartialState().wait_for_everyone()

    def agreed(self, value: int) -> int:
        """The first process's `value`: what a look at a folder gave may differ between machines."""
        if self.world == 1:
            return value
        import torch
        from accelerate import PartialState

        # A type of its own: a truth value would be a byte on one side and eight on the other.
        said = torch.tensor(
            int(value) if self.first else 0, dtype=torch.int64, device=PartialState().device
        )
        self.all_reduce(said)
        return int(said)

    def any(self, value: bool) -> bool:
        """Whether it is true in one of them; all wait for the answer."""
        if self.world == 1:
            return value
        import torch
        from accelerate import PartialState

        said = torch.tensor(int(value), dtype=torch.int64, device=PartialState().device)
        self.all_reduce(said)
        return bool(said)

    def told(self, work: Callable[[], Any]) -> Any:
        """What `work` returns in the first process, a JSON value, in all; only that one works."""
        if self.world == 1:
            return work()
        import json

        import torch
        from accelerate import PartialState

        text = json.dumps(work()).encode() if self.first else b""
        said = torch.zeros(self.agreed(len(text)), dtype=torch.uint8)
        if self.first:
            said = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        said = said.to(PartialState().device)
        self.all_reduce(said)
        return json.loads(bytes(said.tolist()))

    def said(self, value: Any) -> Any:
        """The first process's `value`, which can be pickled, in all."""
        if self.world == 1:
            return value
        import torch
        from accelerate import PartialState

        box = [value]
        with _broken_connections():
            torch.distributed.broadcast_object_list(box, src=0, device=PartialState().device)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all, which can be pickled, by rank; in others than the first nothing."""
        if self.world == 1:
            return [value]
        import torch

        found = [None] * self.world if self.first else None
        with _broken_connections():
            torch.distributed.gather_object(value, found, dst=0)
        return found or []

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process downloads and prepares; the others then find it there."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def join() -> tuple[Processes, torch.device]:
    """This process among those that a launcher started, alone otherwise, and its device.

    Raises UserError where a launcher started several that would not know of each other: each would
    train and write as if it were alone.
    """
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    if faults := accelerate_faults():
        raise UserError(faults)
    world = started()
    with _all_come(world):
        state = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=WITHOUT_LIMIT)])
    if world > 1 and state.num_processes == 1:
        raise UserError(unconnected(world))

    def all_reduce(tensor: Tensor) -> None:
        if state.num_processes > 1:
            with _broken_connections():
                torch.distributed.all_reduce(tensor)

    return Processes(state.process_index, state.num_processes, all_reduce), state.device


@contextmanager
def _all_come(world: int) -> Iterator[None]:
    """End this process if the others do not join; it hangs in torch and has written nothing yet."""

    def give_up() -> None:
        if place() > 0:
            time.sleep(PATIENCE)
        say(
            f"cl-bench: failed: process {place()} of {world}: after {JOINING / 60:.0f} minutes not "
            "all of the others have joined; see what the launcher says of them"
        )
        os._exit(1)

    timer = Timer(JOINING, give_up)
    timer.daemon = True
    if world > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


ACCELERATE = {
    "ACCELERATE_USE_FSDP": "give train.shard: true, which is FSDP2, and leave them out",
    "ACCELERATE_USE_DEEPSPEED": "use train.shard: true (FSDP2) in its place",
    "ACCELERATE_USE_MEGATRON_LM": "use train.shard: true (FSDP2) in its place",
}
"""Settings of accelerate's that would be read and do nothing, and what to do instead."""


def accelerate_faults(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What `accelerate launch` was told that the training loop here does not do that way."""
    return [
        f"{name}: accelerate's settings ask for what they would not get here: {remedy}"
        for name, remedy in ACCELERATE.items()
        if environment.get(name, "").strip().lower() in ("1", "true", "yes")
    ]


def unconnected(world: int) -> str:
    """What to say when `world` processes were started that are not connected."""
    return (
        f"{world} processes were started, but they are not connected: each would train and write "
        "on its own. On CPUs start them with\n"
        f"  ACCELERATE_USE_CPU=true torchrun --nproc_per_node {world} -m cl_bench run CONFIG\n"
        f"on GPUs with\n  torchrun --nproc_per_node {world} -m cl_bench run CONFIG\n"
        "and one process with\n  cl-bench run CONFIG"
    )


def started(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher says it started; 1 without one."""
    return max([1, *_numbers(environment, _WORLD)])


def place(environment: Mapping[str, str] = os.environ) -> int:
    """Which of them this one is, before they are connected."""
    return next(iter(_numbers(environment, _RANK)), 0) if started(environment) > 1 else 0


def refuse_several(command: str) -> None:
    """Raise UserError for a command that works in one process when several were started."""
    if (world := started()) > 1:
        raise UserError(
            f"{command} works in one process, {world} were started: run 'cl-bench {command} ...' "
            "without a launcher"
        )


@contextmanager
def one_voice() -> Iterator[None]:
    """Of an error inside, which may be met by every process or break its connections, one speaks.

    The others raise `SilentExitError`. A process that dies without a word is reported by one that
    waited for it.
    """
    try:
        yield
    except BaseException as error:
        if started() > 1 and not _speaks(error):
            raise SilentExitError(_exit_code(error)) from error
        raise


def _speaks(error: BaseException) -> bool:
    if isinstance(error, KeyboardInterrupt):  # the terminal interrupts all of them
        return place() == 0
    distributed = _connection()
    if distributed is None:
        # Not connected yet: all read the same config and meet the same faults. The launcher ends
        # the others when the first has ended; where it does not, the fault is theirs alone.
        if place() > 0:
            time.sleep(PATIENCE)
        return True
    rank = str(distributed.get_rank())
    try:
        store = distributed.distributed_c10d._get_default_store()
        if store.compare_set(_FAILED, "", rank).decode() == rank:
            return True
    except RuntimeError:  # the first process keeps the store, and has ended
        pass
    time.sleep(PATIENCE)  # the other is still speaking; the launcher ends this one
    return False


def _connection() -> Any:
    """torch.distributed where processes are connected."""
    distributed = sys.modules.get("torch.distributed")
    connected = distributed is not None and distributed.is_initialized()
    return distributed if connected else None


@contextmanager
def _broken_connections() -> Iterator[None]:
    """A connection that breaks means that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process has ended, perhaps killed for want of memory "
            f"({str(error).splitlines()[0]}); what is complete is kept: "
            "run the same command to go on"
        ) from error


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UserError) else 1


def _numbers(environment: Mapping[str, str], names: tuple[str, ...]) -> Iterator[int]:
    for name in names:
        if environment.get(name, "").strip().isdigit():
            yield int(environment[name])
