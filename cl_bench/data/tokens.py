"""From text to token ids, the same way for training and for scoring.

A prompt gets what lm-evaluation-harness's `HFLM.tok_encode` gives it: the tokenizer's own special
tokens, unless its text begins with the BOS (or, without one, the EOS) already. Those that a
tokenizer puts behind a text (an EOS, a SEP) are left out: an answer, or a choice, comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.data.special_tokens import added_tokens
from cl_bench.data.truncation import Truncation, instruction_and_cue, truncate_prompt
from cl_bench.errors import UserError

if TYPE_CHECKING:
    from cl_bench.data.chat import Frame
    from cl_bench.data.examples import Example


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt within its budget, and how many tokens were cut."""

    ids: list[int]
    truncated: int


@dataclass(frozen=True)
class Encoded:
    """A training example as tokens: labels are `input_ids[prompt_length:]`."""

    input_ids: list[int]
    prompt_length: int
    example: int
    """Index into the examples that were encoded."""
    truncated_prompt_tokens: int
    truncated_answer_tokens: int

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def answer_tokens(self) -> int:
        """Labels that a shifted loss sees: the first token of a sequence has no prediction."""
        return len(self.input_ids) - max(self.prompt_length, 1)


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    max_prompt_tokens: int,
    truncation: Truncation,
    frame: Frame | None = None,
) -> list[Prompt]:
    """Prompts that an answer is generated for. An empty one becomes the BOS (or EOS) token.

    `frame`: what a chat template put around them. Long ones keep it, and lose of the question; they
    get no special tokens beside the template's.

    In `trace` mode, as TRACE's inference collator does it: no special tokens, the last
    `max_prompt_tokens`, then BOS in front if there is room; EOS stands in for a missing BOS.
    """
    if truncation == "trace":
        whole = _encode(tokenizer, prompts, special=False)
        cut = [truncate_prompt(ids, max_prompt_tokens, "trace") for ids in whole]
        with_bos = [_bos_if_room(tokenizer, ids, max_prompt_tokens) for ids in cut]
        return [
            Prompt(ids, len(full) - len(kept))
            for ids, full, kept in zip(with_bos, whole, cut, strict=True)
        ]
    texts = _own_prefix(tokenizer, prompts)
    encoded = _encode(tokenizer, texts, special=frame is None)
    return [
        _within(tokenizer, text, ids, max_prompt_tokens, truncation, frame)
        for text, ids in zip(texts, encoded, strict=True)
    ]


def encode_pairs(
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    max_prompt_tokens: int,
    truncation: Truncation,
    frame: Frame | None = None,
) -> list[tuple[Prompt, list[int]]]:
    """(context, continuation) pairs whose continuation's likelihood is scored.

    As lm-evaluation-harness's `_encode_pair`: spaces that end the context move to the
    continuation, both are encoded as one text, and the continuation is what comes after as many
    tokens as the context alone has. `trace` is `left` here: TRACE scores no choices.
    """
    given = _own_prefix(tokenizer, [context for context, _ in pairs])
    moved = [_move_spaces(text, rest) for text, (_, rest) in zip(given, pairs, strict=True)]
    contexts = _encode(tokenizer, [context for context, _ in moved])
    wholes = _encode(tokenizer, [context + continuation for context, continuation in moved])
    alone = _encode(tokenizer, [text for context, text in pairs if not context], special=False)
    without_context = iter(alone)
    mode: Truncation = "left" if truncation == "trace" else truncation
    encoded = []
    for (text, _), (context, _), ids, whole in zip(pairs, moved, contexts, wholes, strict=True):
        if text:
            prompt = _within(tokenizer, context, ids, max_prompt_tokens, mode, frame)
            encoded.append((prompt, whole[len(ids) :]))
        else:
            continuation = next(without_context)
            prefix = _prefix_token(tokenizer)
            repeated = continuation[:1] == [prefix]
            encoded.append((Prompt([prefix], 0), continuation[1:] if repeated else continuation))
    return encoded


def encode_answers(
    tokenizer: Any, answers: Sequence[str], prompts: Sequence[str] | None = None
) -> list[list[int]]:
    """Generated answers as tokens, apart from their prompts: no special tokens, not even EOS.

    With `prompts` (of a chat template) as they come in the whole conversation, which for some
    tokenizers begins a word otherwise, unless a token would hold the end of a prompt too.
    """
    apart = _encode(tokenizer, answers, special=False)
    if prompts is None:
        return apart
    starts = _encode(tokenizer, prompts, special=False)
    wholes = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return [
        whole[len(start) :] if whole[: len(start)] == start else alone
        for start, whole, alone in zip(
            starts, _encode(tokenizer, wholes, special=False), apart, strict=True
        )
    ]


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Any,
    max_prompt_tokens: int,
    max_answer_tokens: int,
    truncation: Truncation,
) -> list[Encoded]:
    """Examples as tokens, in order: prompt, answer, EOS.

    The prompt is what scoring sees (`encode_prompts`, or `encode_pairs` for choices); the answer
    is tokenised apart and never cut by the prompt. An answer longer than `max_answer_tokens` is
    cut to that many and gets no EOS, so that nobody learns to stop in mid-sentence; any other is
    followed by EOS, which the budget does not count. Thus a sequence has at most
    `max_prompt_tokens + max_answer_tokens + 1` tokens (TRACE's collator, `trace`: without the 1).
    Where a chat template ends an answer's turn in its own way, that stands in place of the EOS.

    Raises UserError when the tokenizer has no EOS token.
    """
    if truncation == "trace":
        return _all_as_trace(examples, tokenizer, max_prompt_tokens, max_answer_tokens)
    encoded: dict[int, Encoded] = {}
    for frame in dict.fromkeys(example.frame for example in examples):
        own = {i: example for i, example in enumerate(examples) if example.frame == frame}
        parts = _parts(own, tokenizer, max_prompt_tokens, truncation, frame)
        end = _end_of(tokenizer, frame)
        encoded |= {i: _joined(i, *part, max_answer_tokens, end) for i, part in parts.items()}
    return [encoded[i] for i in range(len(examples))]


def _parts(
    examples: Mapping[int, Example],
    tokenizer: Any,
    limit: int,
    truncation: Truncation,
    frame: Frame | None,
) -> dict[int, tuple[Prompt, list[int]]]:
    """Prompt and answer of each as tokens; choices as lm-eval splits them."""
    choices = {i: each for i, each in examples.items() if each.kind == "choice"}
    texts = {i: each for i, each in examples.items() if each.kind == "generate"}
    pairs = [(each.prompt, each.answer) for each in choices.values()]
    found = encode_pairs(tokenizer, pairs, limit, truncation, frame)
    parts = dict(zip(choices, found, strict=True))
    prompts = [each.prompt for each in texts.values()]
    together = None if frame is None else prompts
    answers = encode_answers(tokenizer, [each.answer for each in texts.values()], together)
    cut = encode_prompts(tokenizer, prompts, limit, truncation, frame)
    return parts | dict(zip(texts, zip(cut, answers, strict=True), strict=True))


def _end_of(tokenizer: Any, frame: Frame | None) -> list[int]:
    """What ends an answer: the template's own end of a turn, else EOS."""
    own = [] if frame is None else _encode(tokenizer, [frame.end], special=False)[0]
    return own or [_eos_token(tokenizer)]


def _all_as_trace(
    examples: Sequence[Example], tokenizer: Any, max_prompt: int, max_answer: int
) -> list[Encoded]:
    """Texts as TRACE's collator has them; choices, which TRACE does not have, as `left`."""
    texts = {i: each for i, each in enumerate(examples) if each.kind == "generate"}
    choices = {i: each for i, each in enumerate(examples) if each.kind == "choice"}
    answers = encode_answers(tokenizer, [each.answer for each in texts.values()])
    joint = _encode(tokenizer, [each.prompt + each.answer for each in texts.values()], False)
    room = max_prompt + max_answer
    encoded = {
        i: _as_trace(i, ids, len(answer), room, tokenizer)
        for i, ids, answer in zip(texts, joint, answers, strict=True)
    }
    parts = _parts(choices, tokenizer, max_prompt, "trace", None)
    end = [_eos_token(tokenizer)]
    encoded |= {i: _joined(i, *part, max_answer, end) for i, part in parts.items()}
    return [encoded[i] for i in range(len(examples))]


def _joined(index: int, prompt: Prompt, answer: list[int], limit: int, end: list[int]) -> Encoded:
    cut = max(0, len(answer) - limit)
    kept = answer[:limit] if cut else [*answer, *end]
    return Encoded(prompt.ids + kept, len(prompt.ids), index, prompt.truncated, cut)


def _as_trace(index: int, joint: list[int], answer: int, room: int, tokenizer: Any) -> Encoded:
    """One text, cut on the left, EOS and BOS where they fit, labels on the last answer + 1.

    The answer's length comes from tokenising it alone, so that a merged boundary moves the
    labels by a token, and a cut sequence without EOS is trained on one token of the prompt.
    """
    kept = truncate_prompt(joint, room, "trace")
    cut = len(joint) - len(kept)
    ids = [*kept, _eos_token(tokenizer)] if len(kept) < room else kept
    ids = _bos_if_room(tokenizer, ids, room)
    labels = min(answer + 1, room, len(ids))
    from_prompt = min(cut, max(0, len(joint) - answer))
    return Encoded(ids, len(ids) - labels, index, from_prompt, cut - from_prompt)


def padding(truncation: Truncation) -> dict[str, Any]:
    """Keyword arguments for `collate`: TRACE pads on the left, to a multiple of 8."""
    return {"side": "left", "multiple_of": 8} if truncation == "trace" else {}


def pad_id(tokenizer: Any) -> int:
    """The id that fills short sequences, never attended to: pad, else EOS, else 0."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def _eos_token(tokenizer: Any) -> int:
    """The id that ends an answer. Raises UserError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise UserError("the model's tokenizer has no EOS token: an answer could not be ended")
    return int(tokenizer.eos_token_id)


def _prefix_token(tokenizer: Any) -> int:
    """What a text is conditioned on when nothing precedes it: BOS, else EOS."""
    return int(_eos_token(tokenizer) if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def _bos_if_room(tokenizer: Any, ids: list[int], limit: int) -> list[int]:
    """TRACE's collator: BOS (else EOS) in front of a sequence shorter than `limit`."""
    return [_prefix_token(tokenizer), *ids] if len(ids) < limit else ids


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _encode(tokenizer: Any, texts: Sequence[str], special: bool = True) -> list[list[int]]:
    """Ids of each text, with special tokens as `HFLM.tok_encode` adds them, or without any."""
    if not texts:
        return []
    groups: dict[bool, list[str]] = {}
    for text in dict.fromkeys(texts):
        groups.setdefault(special and _gets_special_tokens(tokenizer, text), []).append(text)
    encoded: dict[str, list[int]] = {}
    for add, group in groups.items():
        ids = tokenizer(group, add_special_tokens=add, return_attention_mask=False, verbose=False)
        rows = ids["input_ids"]
        if add and (added := added_tokens(tokenizer)).after:
            rows = [added.without_end(row) for row in rows]
        encoded.update(zip(group, rows, strict=True))
    return [encoded[text] for text in texts]


def _own_prefix(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Texts whose own BOS stands behind spaces begin with it: one BOS is enough."""
    added, prefix = added_tokens(tokenizer), tokenizer.decode([_prefix_token(tokenizer)])
    return [added.own_prefix(text, prefix) for text in texts]


def _gets_special_tokens(tokenizer: Any, text: str) -> bool:
    prefix: str = tokenizer.decode([_prefix_token(tokenizer)])
    return not text.startswith(prefix)


def _within(
    tokenizer: Any,
    text: str,
    ids: list[int],
    limit: int,
    truncation: Truncation,
    frame: Frame | None = None,
) -> Prompt:
    if not ids:
        return Prompt([_prefix_token(tokenizer)], 0)
    if len(ids) <= limit:
        return Prompt(ids, 0)
    if frame is not None:
        return Prompt(
            _cut_question(tokenizer, text, ids, limit, truncation, frame), len(ids) - limit
        )
    special = _gets_special_tokens(tokenizer, text)
    head, cue = 0, 0
    if truncation != "left":
        head, cue = _tokens_outside(tokenizer, text, ids, instruction_and_cue(text), special)
    return Prompt(truncate_prompt(ids, limit, truncation, head=head, cue=cue), len(ids) - limit)


def _cut_question(
    tokenizer: Any, text: str, ids: list[int], limit: int, truncation: Truncation, frame: Frame
) -> list[int]:
    """What a template puts around a question stays where it fits; the question is cut."""
    begin = len(frame.head) if text.startswith(frame.head) else 0
    end = len(text) - (len(frame.tail) if text.endswith(frame.tail) else 0)
    head, tail = _tokens_outside(tokenizer, text, ids, (begin, end), special=False)
    if head + tail >= limit:
        return truncate_prompt(ids, limit, "left")
    instruction, cue = (0, 0)
    if truncation == "keep_instruction":
        first, last = (begin + at for at in instruction_and_cue(text[begin:end]))
        outside = _tokens_outside(tokenizer, text, ids, (first, last), special=False)
        instruction, cue = max(0, outside[0] - head), max(0, outside[1] - tail)
    question = ids[head : len(ids) - tail]
    kept = truncate_prompt(question, limit - head - tail, truncation, head=instruction, cue=cue)
    return [*ids[:head], *kept, *ids[len(ids) - tail :]]


def _tokens_outside(
    tokenizer: Any, text: str, ids: list[int], between: tuple[int, int], special: bool
) -> tuple[int, int]:
    """How many tokens hold what stands before and after a part of a text, given in characters.

    Those across its borders are counted; a tokenizer without offsets is asked for the two texts
    apart, which may be off by a token.
    """
    end, begin = between
    if not tokenizer.is_fast:
        return (
            len(_encode(tokenizer, [text[:end]], special)[0]) if end else 0,
            len(_encode(tokenizer, [text[begin:]], special=False)[0]) if text[begin:] else 0,
        )
    offsets = tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    real = [(i, start, stop) for i, (start, stop) in enumerate(offsets) if stop > start]
    head: int = next((i for i, start, _ in real if start >= end), len(ids)) if end else 0
    first: int = next((i for i, _, stop in real if stop > begin), len(ids))
    return head, len(ids) - first
