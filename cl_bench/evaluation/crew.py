"""Several processes that answer the requests of one scoring together.

The first one scores as if it were alone. What the engine has to compute for it, the first tells to
all; each computes its part (`shared_prefix/among.py`), and the first puts the parts together. The
others do nothing else: they read no data, count nothing and write no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from cl_bench.device_memory import first_line, out_of_memory

Found = TypeVar("Found")
Part = Callable[..., Any]
"""Of a call that the first process makes: gets the `LM`, the crew, and what was told."""


class Crew(Protocol):
    """This process among those that answer together; `experiment/processes.py` has it."""

    @property
    def rank(self) -> int:
        """0 for the first."""

    @property
    def world(self) -> int:
        """How many they are."""

    def said(self, value: Any) -> Any:
        """The first process's value, in all: each calls this at the same point."""

    def gathered(self, value: Any) -> list[Any]:
        """The values of all in the order of ranks, in the first; in the others nothing."""


_BEGIN, _END, _LEAVE = "begin", "end", "leave"


@contextmanager
def helped(crew: Crew) -> Iterator[None]:
    """In the first process: the others help (`help_first`) with every scoring inside."""
    yield
    if crew.world > 1:
        crew.said(_LEAVE)


def help_first(crew: Crew, answer: Callable[[], None]) -> None:
    """In the others: `answer` (`answer_calls`) for every scoring that the first one begins."""
    while crew.said(None) == _BEGIN:
        answer()


@contextmanager
def leading(crew: Crew) -> Iterator[None]:
    """In the first process, for one scoring, whose `LM`s tell the others what to do."""
    crew.said(_BEGIN)
    yield
    crew.said(_END)


def answer_calls(crew: Crew, lm: Any, parts: Mapping[str, Part]) -> None:
    """In the others: do their part of every call of one scoring."""
    while (told := crew.said(None)) != _END:
        name, arguments = told
        parts[name](lm, crew, *arguments)


def call(crew: Crew, name: str, *arguments: Any) -> None:
    """In the first process: have the others do their part."""
    if crew.rank == 0:
        crew.said((name, arguments))


def together(crew: Crew, work: Callable[[], Found]) -> list[Found]:
    """What `work` gave in each process, in the first one; in the others nothing.

    Where memory did not suffice in one of them, the first raises a RuntimeError that says so; the
    others wait for the next call.
    """
    reason, found = "", None
    try:
        found = work()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = f"out of memory in process {crew.rank}: {first_line(error)}"
    parts = crew.gathered((reason, found))
    if reasons := [reason for reason, _ in parts if reason]:
        raise RuntimeError(reasons[0])
    return [part for _, part in parts]
