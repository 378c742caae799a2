"""What a row of any form is read as: turns of which the last is the answer, and its plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from cl_bench.data.learned_turns import answers_before

Role = Literal["system", "user", "assistant"]
NAMES: Mapping[str, str] = {"system": "System", "user": "User", "assistant": "Assistant"}
"""What stands before a turn in the plain text of a conversation."""
NEXT_TURN = f"\n\n{NAMES['user']}:"
"""Where a model goes on beyond its answer: it writes the next question itself."""


@dataclass(frozen=True)
class Turn:
    """Who speaks, and what is said."""

    role: Role
    content: str


Question = tuple[tuple[Role, str], ...]
"""Role and text of every turn of a prompt, blanks made alike."""


@dataclass(frozen=True)
class Conversation:
    """Turns in their order; the last is the assistant's, which is asked for.

    In a chat template the assistant's earlier turns are learned too (`data/learned_turns.py`).
    """

    turns: tuple[Turn, ...]

    @property
    def answer(self) -> str:
        """The last turn, as the row has it."""
        return self.turns[-1].content

    @property
    def question(self) -> Question:
        """The turns before it; equal for prompts that differ in their blanks alone."""
        return self.questions[-1]

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """The turns before each turn of the assistant that answers the user; the last is all."""
        said = tuple((turn.role, " ".join(turn.content.split())) for turn in self.turns)
        roles = [role for role, _ in said]
        return (*(said[:i] for i in answers_before(roles)), said[:-1])

    def document(self) -> dict[str, Any]:
        """A row of the task's data set: `turns`, as a chat template takes them."""
        return {"turns": [asdict(turn) for turn in self.turns]}


Document = Mapping[str, Any]
"""`{"turns": [{"role", "content"}, ...]}`."""


def answer_of(document: Document) -> str:
    """The gold answer of a task's document, without blanks around it."""
    return str(document["turns"][-1]["content"]).strip()


def pair_prompt(document: Document) -> str:
    """The plain prompt of a pair: as the row has it, and a new line unless it ends in a blank.

    A system text or an instruction in front of it is a paragraph of its own.
    """
    text = "\n\n".join(turn["content"] for turn in document["turns"][:-1])
    return text if text[-1:].isspace() else f"{text}\n"


def conversation_prompt(document: Document) -> str:
    """The plain prompt of a conversation: every turn under the name of its role.

    A tokenizer cuts at line ends, whatever its kind; so the answer begins on a line of its own.
    """
    said = [f"{NAMES[turn['role']]}:\n{turn['content']}\n\n" for turn in document["turns"][:-1]]
    return f"{''.join(said)}{NAMES['assistant']}:\n"


def without_blanks(turns: Iterable[Turn]) -> Sequence[Turn]:
    """The turns without system texts that say nothing."""
    return [turn for turn in turns if turn.role != "system" or turn.content.strip()]
