"""Answers of the shared-prefix engine, computed by several processes.

Log-likelihoods are dealt by forward passes: each is computed by one process exactly as one alone
would, and the first adds the answers up in the order of passes, so that they are the same to the
bit. Generations are dealt by prompts, those that share a prefix to the same process where that is
fair. A text does not depend on those beside it, unless two tokens are as likely as each other up
to rounding. Every distribution and divergence is of one text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cl_bench.evaluation.crew import Crew, Part, call, together
from cl_bench.evaluation.probes import kl
from cl_bench.evaluation.shared_prefix.dealing import deal, prompts_dealt
from cl_bench.evaluation.shared_prefix.fused.opened import generating, reading
from cl_bench.evaluation.shared_prefix.generation import generate_tokens
from cl_bench.evaluation.shared_prefix.loglikelihoods import Answers, score_continuations
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel, evaluating
from cl_bench.evaluation.shared_prefix.packing import Pack, PassLimits
from cl_bench.evaluation.shared_prefix.slot_memory import Room
from cl_bench.evaluation.shared_prefix.stopping import StopRule

if TYPE_CHECKING:
    from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class _Passes:
    """`Dealing` of a crew."""

    crew: Crew

    def own(self, packs: Sequence[Pack]) -> Sequence[int]:
        return deal(packs, self.crew.world)[self.crew.rank]

    def merged(self, run: Callable[[], dict[int, Answers]]) -> Mapping[int, Answers]:
        parts = together(self.crew, run)
        return {i: answers for part in parts for i, answers in part.items()}


def score(
    model: PackedModel,
    crew: Crew | None,
    pairs: Pairs,
    limits: PassLimits,
    progress: Progress | None = None,
) -> list[tuple[float, bool]]:
    """`score_continuations`; of a crew the first process has the answers."""
    if crew is None or not pairs:
        return score_continuations(model, pairs, limits, progress)
    call(crew, "score", pairs, limits)
    return score_continuations(model, pairs, limits, progress, _Passes(crew))


def generate(
    model: PackedModel,
    crew: Crew | None,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    rules: Sequence[StopRule],
    limits: PassLimits,
    room: Room,
    progress: Progress | None = None,
) -> tuple[list[list[int]], set[int]]:
    """`generate_tokens`; of a crew the first process has the answers."""
    if crew is None or not prompts:
        return generate_tokens(model, tokenizer, prompts, rules, limits, room, progress)
    call(crew, "generate", prompts, rules, limits, room)
    longest = max(rule.max_new_tokens for rule in rules)
    mine = prompts_dealt(prompts, longest, limits, crew.world)[crew.rank]

    def own() -> tuple[dict[int, list[int]], set[int]]:
        texts, bad = generate_tokens(
            model,
            tokenizer,
            [prompts[i] for i in mine],
            [rules[i] for i in mine],
            limits,
            room,
            _scaled(progress, len(mine), len(prompts)),
        )
        return dict(zip(mine, texts, strict=True)), {mine[i] for i in bad}

    answers: list[list[int]] = [[] for _ in prompts]
    unsound: set[int] = set()
    for found, bad in together(crew, own):
        unsound |= bad
        for i, tokens in found.items():
            answers[i] = tokens
    return answers, unsound


def _scaled(progress: Progress | None, own: int, of_all: int) -> Progress | None:
    """What the first process has of its part is taken to be what all have of theirs."""
    return None if progress is None else lambda done: progress(done * of_all // max(1, own))


def distributions(lm: SharedPrefixLM, texts: Sequence[kl.Text]) -> Iterable[Tensor]:
    """`kl.log_distributions` in float32; of a crew the first process has them."""
    crew = lm.crew
    if crew is None:
        return kl.log_distributions(lm.model, texts)
    call(crew, "distributions", texts)
    own = texts[crew.rank :: crew.world]
    parts = together(crew, lambda: [log_p.float() for log_p in kl.log_distributions(lm.model, own)])
    return [parts[i % crew.world][i // crew.world] for i in range(len(texts))] if parts else []


def divergences(lm: SharedPrefixLM, file: Path) -> dict[int, kl.Divergence]:
    """`kl.measure`; of a crew the first process has the answers, in the order of documents."""
    crew = lm.crew
    if crew is None:
        return kl.measure(lm.model, file)
    call(crew, "divergences", file)
    parts = together(crew, lambda: kl.measure(lm.model, file, (crew.rank, crew.world)))
    found = {i: one for part in parts for i, one in part.items()}
    return {i: found[i] for i in sorted(found)}


def _score(lm: SharedPrefixLM, crew: Crew, pairs: Pairs, limits: PassLimits) -> None:
    with evaluating(lm.model), reading(lm.packed):
        score(lm.packed, crew, pairs, limits)


def _generate(
    lm: SharedPrefixLM,
    crew: Crew,
    prompts: Sequence[Sequence[int]],
    rules: Sequence[StopRule],
    limits: PassLimits,
    room: Room,
) -> None:
    with evaluating(lm.model), generating(lm.packed):
        generate(lm.packed, crew, lm.tokenizer, prompts, rules, limits, room)


PARTS: Mapping[str, Part] = {
    "score": _score,
    "generate": _generate,
    "distributions": lambda lm, _, texts: distributions(lm, texts),
    "divergences": lambda lm, _, file: divergences(lm, file),
}
"""What the other processes do when the first one calls."""
