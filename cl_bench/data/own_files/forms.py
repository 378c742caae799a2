"""The forms in which people keep their rows, told apart by their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model

from cl_bench.data.own_files.conversation import Conversation, Role, Turn, without_blanks
from cl_bench.data.rows import RowModel, Text, row_faults, validated


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("empty or blank")
    return text


Said = Annotated[Text, AfterValidator(_said)]


class Message(RowModel):
    """A turn as chat templates have it; a system text may be blank."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ShareGptTurn(RowModel):
    """A turn as ShareGPT's files have it."""

    from_: Annotated[
        Literal["system", "human", "user", "gpt", "assistant", "chatgpt"], Field(alias="from")
    ]
    value: Text


class MessagesRow(RowModel):
    """`messages`."""

    messages: list[Message]


class ConversationsRow(RowModel):
    """`conversations`, with a system text beside them or as their first turn."""

    conversations: list[ShareGptTurn]
    system: Text | None = None


class InstructionRow(RowModel):
    """Alpaca's columns."""

    instruction: Said
    output: Said
    input: Text | None = None
    system: Text | None = None


@dataclass(frozen=True)
class Form:
    """One form of rows."""

    name: str
    columns: tuple[str, ...]
    """Those that a row must have, and by which the form is known."""
    model: type[RowModel]
    turns: Callable[[Any], Iterable[Turn]]
    """Of a sound row."""
    chat: bool = False
    """Whether rows are conversations, whose plain text names the roles."""


_SPEAKERS: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "response"),
)


def _pair(question: str, answer: str) -> Form:
    texts: dict[str, Any] = {question: (Said, ...), answer: (Said, ...)}
    model = create_model("PairRow", __base__=RowModel, **texts)

    def turns(row: Any) -> Iterable[Turn]:
        yield Turn("user", getattr(row, question))
        yield Turn("assistant", getattr(row, answer))

    return Form(f"{question}/{answer}", (question, answer), model, turns)


def _of_instruction(row: InstructionRow) -> Iterable[Turn]:
    yield Turn("system", row.system or "")
    more = row.input if row.input and row.input.strip() else None
    yield Turn("user", row.instruction if more is None else f"{row.instruction}\n\n{more}")
    yield Turn("assistant", row.output)


def _of_messages(row: MessagesRow) -> Iterable[Turn]:
    return (Turn(one.role, one.content) for one in row.messages)


def _of_conversations(row: ConversationsRow) -> Iterable[Turn]:
    yield Turn("system", row.system or "")
    yield from (Turn(_SPEAKERS[one.from_], one.value) for one in row.conversations)


FORMS = (
    Form("messages", ("messages",), MessagesRow, _of_messages, chat=True),
    Form("conversations", ("conversations",), ConversationsRow, _of_conversations, chat=True),
    Form("instruction/input/output", ("instruction", "output"), InstructionRow, _of_instruction),
    *(_pair(question, answer) for question, answer in _PAIRS),
)
UNREAD = ("history", "tools", "images", "image", "audio", "audios", "videos")
"""Columns that would change what is asked, and that no form here reads."""


def forms_of(row: Mapping[str, Any]) -> list[Form]:
    """Every form whose columns a row has; a column that is null counts where no other does."""
    there = {key for key, value in row.items() if value is not None}
    found = [form for form in FORMS if there.issuperset(form.columns)]
    return found or [form for form in FORMS if row.keys() >= set(form.columns)]


def known_forms() -> str:
    """Their names, for a message."""
    return ", ".join(form.name for form in FORMS)


def read_row(row: Any, form: Form) -> Conversation | list[str]:
    """A row as a conversation, or what is wrong with it."""
    model, error = validated(row, form.model)
    if error is not None:
        return row_faults(row, form.model, error)
    if unread := [key for key in UNREAD if row.get(key)]:
        return [f"column '{unread[0]}': not read, and without it the row asks something else"]
    turns = without_blanks(form.turns(model))
    faults = _order(turns) if form.chat else []
    return faults or Conversation(tuple(turns))


def _order(turns: Sequence[Turn]) -> list[str]:
    """What keeps turns from being a question and its answer."""
    if blank := [number for number, turn in enumerate(turns, 1) if not turn.content.strip()]:
        return [f"turn {blank[0]} ({turns[blank[0] - 1].role}): empty or blank"]
    roles = [turn.role for turn in turns]
    if not roles or roles[-1] != "assistant":
        ends = f"ends with the {roles[-1]}" if roles else "has no turns"
        return [f"the conversation {ends}: its last turn must be the assistant's, which is learned"]
    if "system" in roles[1:]:
        return ["a system text after the first turn: put it first"]
    return [] if "user" in roles else ["the conversation has no turn of the user"]
