"""Chat templates: tasks that are asked as a user's turn, and what stands around that turn.

A task in chat form gives rendered conversations wherever it would give a plain prompt, to training,
scoring, probes and reports alike, since all of them ask the task. What is rendered is what
lm-evaluation-harness's `--apply_chat_template` renders: the description and `model.system` as the
system's turn, worked examples as turns of their own or in one, `gen_prefix` as the beginning of the
answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from typing import Any

from cl_bench.errors import UserError

TURNS = "turns"
"""Of a document: its turns, the answer the last of them."""
QUESTION, ANSWER, MORE = "QUESTION", "ANSWER", "MORE"
"""Words of a conversation whose rendering is looked at."""


@dataclass(frozen=True)
class Frame:
    """What a template puts around the last question and its answer."""

    head: str
    """Before the question: never cut away with the beginning of a long one."""
    tail: str
    """Between question and answer."""
    end: str
    """After the answer, up to the token that ends the turn: learned, and where generation stops."""
    again: str = ""
    """Between an answer and the user's next turn; "" where the template has no more turns."""

    @property
    def opening(self) -> str:
        """What stands before the user's text whatever the turn."""
        ends = zip(reversed(self.head), reversed(self.again), strict=False)
        return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], ends))[::-1]


@dataclass(frozen=True)
class Chat:
    """A template with the system's text, as the tasks of one experiment are asked."""

    tokenizer: Any
    system: str | None = None
    multiturn: bool = True
    """Worked examples are turns of their own."""

    def render(
        self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, up to where an answer begins; else up to where it goes on.

        A template that allows no system's turn gets none, as in lm-evaluation-harness.
        """
        text: str = self._rendered(
            history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def render_all(
        self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A row's own turns, of which none is left out, up to where an answer begins; else whole.

        Raises ValueError where the template does not take them.
        """
        import jinja2

        turns = [dict(turn) for turn in history]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except jinja2.exceptions.TemplateError as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise ValueError(
                f"the chat template does not take its turns ({roles}): {error}"
            ) from error

    def _rendered(self, history: Sequence[Mapping[str, str]], **options: Any) -> Any:
        import jinja2

        turns = [dict(turn) for turn in history]
        try:
            return self.tokenizer.apply_chat_template(turns, **options)
        except jinja2.exceptions.TemplateError:
            turns = [turn for turn in turns if turn["role"] != "system"]
            return self.tokenizer.apply_chat_template(turns, **options)

    def whole(self, question: str, answer: str) -> str:
        """The finished conversation as the template renders it."""
        turns = [*self._turns(question), {"role": "assistant", "content": answer}]
        return str(self._rendered(turns, tokenize=False))

    @cached_property
    def frame(self) -> Frame:
        """What stands around a question without worked examples.

        Raises UserError where the template does not hold a question or an answer as it is.
        """
        asked = self.ask(QUESTION)
        head, found, tail = asked.partition(QUESTION)
        if not found or QUESTION in tail:
            raise UserError(f"{WHERE}: the template does not show the user's text once")
        return Frame(head, tail, self._end(), self._again())

    def ask(self, question: str) -> str:
        """A question without worked examples, up to where its answer begins."""
        return self.render(self._turns(question))

    @property
    def first(self) -> list[dict[str, str]]:
        """The turns that every conversation begins with."""
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def asked(self, turns: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
        """Turns of a row up to its answer, which is the last; its own system's turn goes first."""
        own = list(turns[:-1])
        return own if own[0]["role"] == "system" else [*self.first, *own]

    def _turns(self, question: str) -> list[dict[str, str]]:
        return [*self.first, {"role": "user", "content": question}]

    def _again(self) -> str:
        """What stands between an answer and another question; "" where that cannot be seen."""
        import jinja2

        turns = [*self._turns(QUESTION), {"role": "assistant", "content": ANSWER}]
        turns.append({"role": "user", "content": MORE})
        try:
            text = self.render_all(turns)
        except (ValueError, jinja2.exceptions.TemplateError):
            return ""
        return text.partition(ANSWER)[2].partition(MORE)[0] if ANSWER in text else ""

    def _end(self) -> str:
        """What ends an answer: of the template's generation marks, else up to a special token."""
        turns = [*self._turns(QUESTION), {"role": "assistant", "content": ANSWER}]
        _, found, after = self.whole(QUESTION, ANSWER).rpartition(ANSWER)
        if not found:
            raise UserError(f"{WHERE}: the template does not show the assistant's text")
        return self._marked(turns) or self._to_special(after)

    @cached_property
    def marks(self) -> bool:
        """Whether the template says itself what the assistant's part is (`generation`)."""
        template = str(self.tokenizer.get_chat_template())
        return "generation %}" in template.replace("-%}", " %}") and bool(self.tokenizer.is_fast)

    def _marked(self, turns: list[dict[str, str]]) -> str | None:
        """What the template's own marks count to the answer behind its text."""
        if not self.marks:
            return None
        encoded = self._rendered(
            turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        marked = self.tokenizer.decode([one for one, inside in pairs if inside])
        return str(marked).rpartition(ANSWER)[2] if ANSWER in marked else None

    def _to_special(self, after: str) -> str:
        """The first special token in a text with what stands before it; "" where there is none."""
        special = {str(token) for token in self.tokenizer.all_special_tokens}
        special |= {str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        found = [(after.find(token), token) for token in special if token and token in after]
        if not found:
            return ""
        start, token = min(found, key=lambda one: (one[0], -len(one[1])))
        return after[: start + len(token)]

    def depends_on(self) -> list[Any]:
        """All that decides what is rendered (JSON)."""
        return [str(self.tokenizer.get_chat_template()), self.system, self.multiturn]


WHERE = "model.chat_template"


def chat_of(task: Any) -> Chat | None:
    """How a task is asked; None: in plain text."""
    found: Chat | None = getattr(task, "chat", None)
    return found


def frame_of(task: Any) -> Frame | None:
    """What stands around its questions; None: nothing."""
    chat = chat_of(task)
    return None if chat is None else chat.frame


def opened_chat(
    template: str, system: str | None, multiturn: bool, tokenizer: Any
) -> tuple[Chat | None, list[str]]:
    """The form that a config asks for, and why it cannot be had.

    `template`: `off`, `auto` (the tokenizer's own, if it has one) or the text of one, which
    `tokenizer` then has. None is plain text.
    """
    if template == "off":
        return None, [] if system is None else ["model.system: needs model.chat_template: auto"]
    if template != "auto":
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        if system is not None:
            return None, ["model.system: the tokenizer has no chat template that could hold it"]
        return None, []
    return _checked(Chat(tokenizer, system, multiturn))


def _checked(chat: Chat) -> tuple[Chat | None, list[str]]:
    try:
        _ = chat.frame
        if chat.system is not None and chat.system not in chat.ask(QUESTION):
            return None, ["model.system: the template allows no system's turn; leave it out"]
    except UserError as error:
        return None, list(error.faults)
    except Exception as error:  # whatever a template of somebody else does
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return None, [f"{WHERE}: the template cannot be rendered: {what}"]
    return chat, []


def ask_in(chat: Chat, tasks: Mapping[str, Any]) -> None:
    """Have tasks give rendered conversations from here on, and stop where an answer's turn ends."""
    for task in tasks.values():
        task.chat = chat
        task.fewshot_context = partial(_context, task.fewshot_context, chat)
        task.construct_requests = partial(_requests, task.construct_requests, chat)
        if task.OUTPUT_TYPE == "generate_until" and chat.frame.end.strip():
            own = task.config.generation_kwargs or {}
            until = own.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            ends = list(dict.fromkeys([*stops, chat.frame.end.strip()]))
            task.set_config("generation_kwargs", {**own, "until": ends})


def _context(plain: Any, chat: Chat, doc: Any, *given: Any, **named: Any) -> Any:
    """lm-eval's `fewshot_context`, whatever its caller says of chat templates.

    A document that is a conversation (a stage from files) has its turns rendered as they are.
    """
    if isinstance(doc, Mapping) and TURNS in doc:
        return chat.render_all(chat.asked(doc[TURNS]))
    asked: Mapping[str, Any] = {
        "apply_chat_template": True,
        "chat_template": chat.render,
        "system_instruction": chat.system,
        "fewshot_as_multiturn": chat.multiturn,
    }
    return plain(doc, *given, **{**named, **asked})


def _requests(plain: Any, chat: Chat, doc: Any, ctx: Any, **named: Any) -> Any:
    return plain(doc, ctx, **{**named, "apply_chat_template": True, "chat_template": chat.render})
