"""A status as lines of text, in any width: the live screen, `cl-bench status` and its `--watch`."""

from __future__ import annotations

from textwrap import wrap

from cl_bench.live.status import Row, Status, general_of

NAME = 16
"""Characters of a row's name at most."""
CELL = 8
"""Characters of a cell, with the space before it."""
BAR = 20


def lines(status: Status, width: int) -> list[str]:
    """No line is longer than `width`."""
    found = [_what(status), *_doing(status), *_left(status)]
    wrapped = [part for line in found for part in _wrapped(line, width)]
    return [*wrapped, *matrix(status, width)]


def _what(status: Status) -> str:
    which = f" (run {status.run} of {status.runs})" if status.run else ""
    return f"{status.experiment}: {status.what}{which}" if status.what else status.experiment


def _doing(status: Status) -> list[str]:
    parts = [status.doing]
    if status.doing == "training":
        parts += _training(status)
    elif status.of_documents:
        parts += [status.task, f"{status.documents}/{status.of_documents} documents"]
        parts.append(_bar(status.documents, status.of_documents))
    if status.memory_mb is not None:
        parts.append(f"memory {status.memory_mb:,} MB")
    return ["  ".join(part for part in parts if part)]


def _training(status: Status) -> list[str]:
    parts = []
    if status.epochs:
        parts.append(f"epoch {max(status.epoch, 1)}/{max(status.epochs, status.epoch)}")
    if status.updates:
        parts.append(f"update {status.update}/{status.updates}")
        parts.append(_bar(status.update, status.updates))
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    if status.tokens_per_second is not None:
        parts.append(f"{status.tokens_per_second:,.0f} tokens/s")
    if status.task and status.of_documents:
        parts.append(f"scoring {status.task} {status.documents}/{status.of_documents}")
    return parts


def _left(status: Status) -> list[str]:
    if not status.stages:
        return []
    done = f"{status.stages_done} of {status.stages} stages done"
    if status.all_left is None:
        return [f"time left: not known yet  {done}"]
    more = "more than " if status.at_least else ""
    stage = (
        "" if status.stage_left is None else f"{more}{clock(status.stage_left)} for this stage, "
    )
    return [f"time left: {stage}{more}{clock(status.all_left)} for all  {done}"]


def matrix(status: Status, width: int) -> list[str]:
    """A line for each row, as many columns as there is room for: General and the last ones."""
    if not status.rows:
        return []
    names = max(4, min(NAME, max(len(row.name) for row in status.rows)))
    room = max(1, (width - names) // CELL)
    general = ["General"] if status.benchmarks else []
    columns = [*status.tasks, *general, *status.benchmarks]
    if len(columns) > room:
        columns = [*status.tasks, *general]
    left_out = max(0, len(columns) - room)
    shown = columns[left_out:]
    head = " " * names + "".join(f" {_short(name):>{CELL - 1}}" for name in shown)
    found = [head, *(_cells(row, shown, status, names) for row in status.rows)]
    if left_out:
        found.append(f"(+{left_out} columns)")
    return [line[:width].rstrip() for line in found]


def _cells(row: Row, columns: list[str], status: Status, names: int) -> str:
    cells = []
    for name in columns:
        mean = name == "General" and name not in status.tasks
        score = general_of(row, status.benchmarks) if mean else row.scores.get(name)
        cells.append(f" {'.' if score is None else format(score, '.1f'):>{CELL - 1}}")
    return f"{row.name[:names]:<{names}}{''.join(cells)}"


def _short(name: str) -> str:
    plain = name.removeprefix("trace_").removeprefix("mini_")
    return plain[: CELL - 1]


def _bar(done: int, total: int) -> str:
    full = BAR * min(done, total) // max(total, 1)
    return f"[{'#' * full}{'-' * (BAR - full)}]"


def _wrapped(line: str, width: int) -> list[str]:
    """Parts between two spaces stay together as far as they fit."""
    found = [""]
    for part in line.split("  "):
        joined = f"{found[-1]}  {part}" if found[-1] else part
        if len(joined) <= width or not found[-1]:
            found[-1] = joined
        else:
            found.append(f"  {part}")
    return [part for piece in found for part in (wrap(piece, width) or [""])]


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
