"""The one list of TRACE's eight tasks, in TRACE's order, and the one resolver of their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from cl_bench.errors import UserError, nearest

Kind = Literal["label", "number", "choice_with_reasoning", "summary", "code", "simplification"]


@dataclass(frozen=True)
class TraceTask:
    """One TRACE task: its names, and how its answers are scored."""

    name: str  # of our lm-eval YAML
    trace_name: str  # of TRACE's folder
    kind: Kind
    headline: str  # TRACE's key of the metric that enters OP
    headline_maximum: float = 1.0  # 100 where TRACE's scale is 0-100
    needs_input: bool = False  # whether the metric reads the prompt
    labels: tuple[str, ...] | None = None  # the closed set of answers, if there is one


_ABC = ("A", "B", "C")
_LIST = (
    TraceTask("trace_cstance", "C-STANCE", "label", "accuracy", labels=_ABC),
    TraceTask("trace_fomc", "FOMC", "label", "accuracy", labels=_ABC),
    TraceTask("trace_meetingbank", "MeetingBank", "summary", "rouge-L"),
    TraceTask("trace_py150", "Py150", "code", "similarity", 100.0),
    TraceTask("trace_scienceqa", "ScienceQA", "choice_with_reasoning", "accuracy"),
    TraceTask("trace_numglue_cm", "NumGLUE-cm", "number", "accuracy"),
    TraceTask("trace_numglue_ds", "NumGLUE-ds", "number", "accuracy"),
    TraceTask("trace_20minuten", "20Minuten", "simplification", "sari", 100.0, needs_input=True),
)
TASKS: Mapping[str, TraceTask] = MappingProxyType({task.name: task for task in _LIST})
_ALIASES = {alias: task for task in _LIST for alias in (task.name, task.trace_name)}
_BY_CASE = {alias.lower(): task for alias, task in _ALIASES.items()}


def trace_task_or_none(name: str) -> TraceTask | None:
    """The task of a name given as ours (`trace_fomc`) or TRACE's (`FOMC`), in any case."""
    return _BY_CASE.get(name.lower())


def trace_task(name: str) -> TraceTask:
    """The same. Raises UserError with the nearest known name."""
    found = trace_task_or_none(name)
    if found is None:
        raise UserError(f"unknown TRACE task '{name}'{nearest(name, _ALIASES)}")
    return found


def trace_names() -> list[str]:
    """All names that the tasks have, ours and TRACE's."""
    return list(_ALIASES)
