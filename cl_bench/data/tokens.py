"""From text to token ids, the same way for training and for scoring.

A prompt gets what lm-evaluation-harness's `HFLM.tok_encode` gives it: the tokenizer's own special
tokens, unless its text begins with the BOS (or, without one, the EOS) already. Those that a
tokenizer puts behind a text (an EOS, a SEP) are left out: an answer, or a choice, comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.data.cutting import Prompt, within
from cl_bench.data.encoding import encode, eos_token, own_prefix, prefix_token
from cl_bench.data.learned_turns import Span, token_spans
from cl_bench.data.truncation import Truncation, truncate_prompt

if TYPE_CHECKING:
    from cl_bench.data.chat import Frame
    from cl_bench.data.examples import Example


@dataclass(frozen=True)
class Encoded:
    """A training example as tokens: labels are `input_ids[prompt_length:]`, and `earlier`."""

    input_ids: list[int]
    prompt_length: int
    example: int
    """Index into the examples that were encoded."""
    truncated_prompt_tokens: int
    truncated_answer_tokens: int
    earlier: tuple[Span, ...] = ()
    """Tokens of the prompt that are labels too: what a model said earlier in a conversation."""
    lost_turns: int = 0
    """Such turns that were cut with the beginning of the prompt, wholly or in part."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def answer_tokens(self) -> int:
        """Labels that a shifted loss sees: the first token of a sequence has no prediction."""
        before = sum(stop - max(start, 1) for start, stop in self.earlier)
        return before + len(self.input_ids) - max(self.prompt_length, 1)


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
        whole = encode(tokenizer, prompts, special=False)
        cut = [truncate_prompt(ids, max_prompt_tokens, "trace") for ids in whole]
        with_bos = [_bos_if_room(tokenizer, ids, max_prompt_tokens) for ids in cut]
        return [
            Prompt(ids, len(full) - len(kept))
            for ids, full, kept in zip(with_bos, whole, cut, strict=True)
        ]
    texts = own_prefix(tokenizer, prompts)
    encoded = encode(tokenizer, texts, special=frame is None)
    return [
        within(tokenizer, text, ids, max_prompt_tokens, truncation, frame)
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
    given = own_prefix(tokenizer, [context for context, _ in pairs])
    moved = [_move_spaces(text, rest) for text, (_, rest) in zip(given, pairs, strict=True)]
    contexts = encode(tokenizer, [context for context, _ in moved])
    wholes = encode(tokenizer, [context + continuation for context, continuation in moved])
    alone = encode(tokenizer, [text for context, text in pairs if not context], special=False)
    without_context = iter(alone)
    mode: Truncation = "left" if truncation == "trace" else truncation
    encoded = []
    for (text, _), (context, _), ids, whole in zip(pairs, moved, contexts, wholes, strict=True):
        if text:
            prompt = within(tokenizer, context, ids, max_prompt_tokens, mode, frame)
            encoded.append((prompt, whole[len(ids) :]))
        else:
            continuation = next(without_context)
            prefix = prefix_token(tokenizer)
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
    apart = encode(tokenizer, answers, special=False)
    if prompts is None:
        return apart
    starts = encode(tokenizer, prompts, special=False)
    wholes = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return [
        whole[len(start) :] if whole[: len(start)] == start else alone
        for start, whole, alone in zip(
            starts, encode(tokenizer, wholes, special=False), apart, strict=True
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
    Earlier answers of a conversation (`Example.learned`) are learned unless they are cut.

    Raises UserError when the tokenizer has no EOS token.
    """
    if truncation == "trace":
        return _all_as_trace(examples, tokenizer, max_prompt_tokens, max_answer_tokens)
    encoded: dict[int, Encoded] = {}
    for frame in dict.fromkeys(example.frame for example in examples):
        own = {i: example for i, example in enumerate(examples) if example.frame == frame}
        parts = _parts(own, tokenizer, max_prompt_tokens, truncation, frame)
        end = _end_of(tokenizer, frame)
        for i, (prompt, answer) in parts.items():
            turns = _earlier(tokenizer, examples[i])
            encoded[i] = _joined(i, prompt, answer, max_answer_tokens, end, turns)
    return [encoded[i] for i in range(len(examples))]


def _earlier(tokenizer: Any, example: Example) -> list[Span]:
    """Tokens of the whole prompt that are learned."""
    if not example.learned:
        return []
    (text,) = own_prefix(tokenizer, [example.prompt])
    moved = len(text) - len(example.prompt)
    spans = [(start + moved, stop + moved) for start, stop in example.learned]
    return token_spans(tokenizer, text, spans)


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
    own = [] if frame is None else encode(tokenizer, [frame.end], special=False)[0]
    return own or [eos_token(tokenizer)]


def _all_as_trace(
    examples: Sequence[Example], tokenizer: Any, max_prompt: int, max_answer: int
) -> list[Encoded]:
    """Texts as TRACE's collator has them; choices, which TRACE does not have, as `left`."""
    texts = {i: each for i, each in enumerate(examples) if each.kind == "generate"}
    choices = {i: each for i, each in enumerate(examples) if each.kind == "choice"}
    answers = encode_answers(tokenizer, [each.answer for each in texts.values()])
    joint = encode(tokenizer, [each.prompt + each.answer for each in texts.values()], False)
    room = max_prompt + max_answer
    encoded = {
        i: _as_trace(i, ids, len(answer), room, tokenizer)
        for i, ids, answer in zip(texts, joint, answers, strict=True)
    }
    parts = _parts(choices, tokenizer, max_prompt, "trace", None)
    end = [eos_token(tokenizer)]
    encoded |= {i: _joined(i, *part, max_answer, end) for i, part in parts.items()}
    return [encoded[i] for i in range(len(examples))]


def _joined(
    index: int,
    prompt: Prompt,
    answer: list[int],
    limit: int,
    end: list[int],
    turns: Sequence[Span] = (),
) -> Encoded:
    cut = max(0, len(answer) - limit)
    kept = answer[:limit] if cut else [*answer, *end]
    earlier = prompt.places(turns)
    return Encoded(
        *(prompt.ids + kept, len(prompt.ids), index, prompt.truncated, cut),
        *(tuple(earlier), len(turns) - len(earlier)),
    )


def _as_trace(index: int, joint: list[int], answer: int, room: int, tokenizer: Any) -> Encoded:
    """One text, cut on the left, EOS and BOS where they fit, labels on the last answer + 1.

    The answer's length comes from tokenising it alone, so that a merged boundary moves the
    labels by a token, and a cut sequence without EOS is trained on one token of the prompt.
    """
    kept = truncate_prompt(joint, room, "trace")
    cut = len(joint) - len(kept)
    ids = [*kept, eos_token(tokenizer)] if len(kept) < room else kept
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


def _bos_if_room(tokenizer: Any, ids: list[int], limit: int) -> list[int]:
    """TRACE's collator: BOS (else EOS) in front of a sequence shorter than `limit`."""
    return [prefix_token(tokenizer), *ids] if len(ids) < limit else ids


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
