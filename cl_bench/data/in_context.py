"""The text of a prompt with worked examples in front: which examples, and in what layout.

`trace` is the layout of TRACE's in-context row (Wang et al., arXiv 2310.06762, Table 1, ICL): the
task's instruction once, a sentence that announces examples, then prompt and answer of each without
the instruction, and the question. `plain` is lm-evaluation-harness's few-shot context: the
description once, whole prompts with their answers, the question.

TRACE's script draws six examples from the test set and cuts each to a twelfth of the room. Ours
come from the training rows, none of them is a question that is scored, and none is cut: those that
are longer than that share are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cl_bench.data.examples import Example
from cl_bench.seeds import derive_seed, shuffled

LayoutName = Literal["trace", "plain"]
LEAD = (
    "We will give you several examples and you should follow them to accomplish the task.\n"
    " Examples:\n"
)
BETWEEN = "\n\n"


@dataclass(frozen=True)
class Habit:
    """What TRACE's script does for one task alone."""

    until: tuple[str, ...] = ()
    """Where answers end, since a model that has seen examples goes on with another one."""
    first_token: bool = False
    """The first generated token is the whole answer."""
    examples: bool = True
    head: str = ""
    """An instruction that the rows do not have."""
    label: str = ""
    """What each prompt then begins with."""


HABITS = {
    "trace_cstance": Habit(first_token=True),
    "trace_fomc": Habit(first_token=True),
    "trace_meetingbank": Habit(until=("Meeting transcripts",), examples=False),
    "trace_py150": Habit(until=("<EOL>",), head="Continue writing the code.\n", label="Code:\n"),
    "trace_scienceqa": Habit(until=("Question:",)),
    "trace_numglue_cm": Habit(until=("\n",)),
    "trace_numglue_ds": Habit(until=("\n",)),
    "trace_20minuten": Habit(until=("Paragraph",)),
}


@dataclass(frozen=True)
class Layout:
    """How examples and question are put together."""

    head: str
    """Stands once, in front of all; prompts that begin with it lose it."""
    lead: str
    label: str
    between: str

    def prompt(self, shots: Sequence[Example], question: str) -> str:
        """The question with these examples in front; without any the question as it is."""
        if not shots:
            return question
        return self.head + self.lead + "".join(map(self.worked, shots)) + self._body(question)

    def worked(self, one: Example) -> str:
        """One example as it stands in a prompt."""
        return self._body(one.prompt) + one.answer + self.between

    def _body(self, prompt: str) -> str:
        return self.label + prompt.removeprefix(self.head)


def layout_of(name: LayoutName, task: Any, examples: Sequence[Example]) -> Layout:
    """The layout for a task. Its instruction is the first line, with the blank ones behind it,
    where all training prompts begin with the same; else it has none.
    """
    prompts = [one.prompt for one in examples]
    if name == "plain":
        described = task.config.description
        shared = isinstance(described, str) and all(p.startswith(described) for p in prompts)
        return Layout(described if shared else "", "", "", str(task.config.fewshot_delimiter))
    habit = HABITS.get(task.task_name, Habit())
    return Layout(habit.head or _instruction(prompts), LEAD, habit.label, BETWEEN)


def goes_without(name: LayoutName, task: str) -> bool:
    """Whether TRACE asks the task without examples (MeetingBank, whose transcripts are long)."""
    return name == "trace" and task in HABITS and not HABITS[task].examples


def _instruction(prompts: Sequence[str]) -> str:
    found = re.match(r"[^\n]*\n+", prompts[0]) if len(prompts) > 1 else None
    line = found.group() if found else ""
    return line if all(prompt.startswith(line) for prompt in prompts) else ""


def ends_of(name: LayoutName, task: Any, layout: Layout, examples: Sequence[Example]) -> list[str]:
    """Strings that end an answer: TRACE's for its tasks, else what stands between examples.

    None where a training answer holds it, which would be cut.
    """
    habit = HABITS.get(task.task_name)
    ends = [layout.between] if name == "plain" or habit is None else list(habit.until)
    return [end for end in ends if end and not any(end in one.answer for one in examples)]


def choose(
    examples: Sequence[Example],
    shots: int,
    seed: int,
    scored: Container[str],
    labels: Sequence[str] = (),
    short: Callable[[Example], bool] = lambda _: True,
) -> list[Example]:
    """So many examples in a seeded order, fewer where there are not as many.

    None whose prompt is among those of the `scored` documents. With `labels` every label comes at
    most ceil(shots / labels) times, as long as the others suffice: two of each for TRACE's six.
    What is not `short` is passed over as long as other examples suffice.
    """
    pool = [one for one in examples if one.prompt not in scored]
    name = pool[0].task if pool else ""
    order = shuffled(len(pool), len(pool), derive_seed(seed, "in context", name))
    most = -(-shots // len(labels)) if labels else shots
    seen: dict[str, int] = {}
    even: list[Example] = []
    uneven, long = [], []
    for one in (pool[i] for i in order):
        if len(even) == shots:
            return even
        label = one.answer.strip() if labels else ""
        if (labels and label not in labels) or seen.get(label, 0) == most:
            uneven.append(one)
        elif short(one):
            seen[label] = seen.get(label, 0) + 1
            even.append(one)
        else:
            long.append(one)
    rest = [one for one in uneven if len(even) < shots and short(one)]
    return [*even, *rest, *long, *(one for one in uneven if one not in rest)][:shots]
