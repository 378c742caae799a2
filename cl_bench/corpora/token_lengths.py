"""Lengths in tokens and what a budget cuts, by the very functions training and scoring use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.data.rows import Row
from cl_bench.errors import UserError, missing_dependency, nearest
from cl_bench.models.quickstart import quickstart_model
from cl_bench.resources import expanded

if TYPE_CHECKING:
    from cl_bench.data.examples import Example
    from cl_bench.data.tokens import Encoded
    from cl_bench.data.truncation import Truncation

MODES = ("left", "keep_instruction", "trace")
_UNLIMITED = 10**9
_HEAD = 8  # tokens compared to see whether a prompt kept its beginning


@dataclass(frozen=True)
class TextLengths:
    """Lengths of each row's prompt and answer, before any cut; without an EOS token."""

    prompts: list[int]
    answers: list[int]


@dataclass(frozen=True)
class Cut:
    """Tokens taken from one row; `keeps_head` if the prompt's beginning was spared."""

    prompt_tokens: int
    answer_tokens: int
    keeps_head: bool


@dataclass(frozen=True)
class TokenBudget:
    """A tokenizer with the limits of a run (`train.max_prompt_tokens` and its neighbours)."""

    tokenizer: Any
    max_prompt_tokens: int
    max_answer_tokens: int
    truncation: Truncation

    def measure(self, rows: Sequence[Row], *, training: bool) -> tuple[TextLengths, list[Cut]]:
        """Lengths and cuts of every row.

        In training the answer shares the sequence (which matters to `trace`, whose limit is
        joint); otherwise the prompt stands alone and the answer is what generation must reach.
        """
        from cl_bench.data.tokens import encode_examples, encode_prompts

        examples = _examples(rows)
        limits = (self.max_prompt_tokens, self.max_answer_tokens)
        if self.truncation != "trace":
            encoded = encode_examples(examples, self.tokenizer, *limits, self.truncation)
            lengths = _lengths(encoded)
            lost = [(one.truncated_prompt_tokens, one.truncated_answer_tokens) for one in encoded]
            return lengths, self._cuts(rows, encoded, lost)
        lengths = _lengths(
            encode_examples(examples, self.tokenizer, _UNLIMITED, _UNLIMITED, "left")
        )
        if training:
            encoded = encode_examples(examples, self.tokenizer, *limits, "trace")
            lost = [(one.truncated_prompt_tokens, one.truncated_answer_tokens) for one in encoded]
        else:
            texts = [row.prompt for row in rows]
            prompts = encode_prompts(self.tokenizer, texts, limits[0], "trace")
            beyond = [max(0, length - limits[1]) for length in lengths.answers]
            lost = [(one.truncated, over) for one, over in zip(prompts, beyond, strict=True)]
        return lengths, [Cut(prompt, answer, False) for prompt, answer in lost]

    def _cuts(
        self, rows: Sequence[Row], encoded: Sequence[Encoded], lost: Sequence[tuple[int, int]]
    ) -> list[Cut]:
        """Only `keep_instruction` spares the beginning, and where it cannot tell the instruction
        from the body it falls back to `left`: the first tokens of a cut prompt show which.
        """
        from cl_bench.data.tokens import encode_prompts

        shown = [i for i, (prompt, _) in enumerate(lost) if prompt]
        spared: set[int] = set()
        if self.truncation == "keep_instruction" and shown:
            texts = [rows[i].prompt for i in shown]
            whole = encode_prompts(self.tokenizer, texts, _UNLIMITED, "left")
            for i, full in zip(shown, whole, strict=True):
                head = encoded[i].input_ids[: min(_HEAD, encoded[i].prompt_length)]
                if head == full.ids[: len(head)]:
                    spared.add(i)
        return [Cut(prompt, answer, i in spared) for i, (prompt, answer) in enumerate(lost)]


def _examples(rows: Sequence[Row]) -> list[Example]:
    from cl_bench.data.examples import Example

    return [Example(row.prompt, row.answer, i, "", "generate") for i, row in enumerate(rows)]


def _lengths(encoded: Sequence[Encoded]) -> TextLengths:
    """Lengths before the cut; an answer that was not cut ends in an EOS, which is not counted."""
    return TextLengths(
        [one.prompt_length + one.truncated_prompt_tokens for one in encoded],
        [
            len(one.input_ids) - one.prompt_length + one.truncated_answer_tokens
            if one.truncated_answer_tokens
            else len(one.input_ids) - one.prompt_length - 1
            for one in encoded
        ],
    )


def token_budget(
    tokenizer: str, max_prompt_tokens: int, max_answer_tokens: int, truncation: str
) -> TokenBudget:
    """Loads the tokenizer: a folder, a Hub id, or `smollm2-135m` (the quickstart model).

    Raises UserError listing every argument that is wrong.
    """
    faults = []
    if truncation not in MODES:
        faults.append(f"--truncation: unknown mode {truncation!r}{nearest(truncation, MODES)}")
    limits = {"--max-prompt-tokens": max_prompt_tokens, "--max-answer-tokens": max_answer_tokens}
    faults += [f"{name}: {value} is less than 1" for name, value in limits.items() if value < 1]
    if faults:
        raise UserError(faults)
    mode: Truncation = truncation  # type: ignore[assignment]  # checked above
    return TokenBudget(audit_tokenizer(tokenizer), max_prompt_tokens, max_answer_tokens, mode)


def audit_tokenizer(name: str) -> Any:
    """The tokenizer of a folder, a Hub id or the quickstart model. Raises UserError."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    folder = expanded(name)
    if name == QUICKSTART_MODEL:
        folder = quickstart_model(progress=lambda line: None)
    elif not folder.is_dir() and "/" not in name:
        known = f"{nearest(name, [QUICKSTART_MODEL])}; one of the hub is written owner/name"
        raise UserError(f"--tokenizer: there is no folder {name!r}{known}")
    logging.set_verbosity_error()  # its warnings about length are what the audit measures
    try:
        return AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else name)
    except ImportError as error:
        raise missing_dependency(f"--tokenizer {name}", error.name or str(error)) from error
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        hint = "" if folder.is_dir() else " (neither a folder nor had from the hub)"
        raise UserError(f"--tokenizer: cannot load {name!r}{hint}: {reason}") from error
