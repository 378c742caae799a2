"""Rehearsal with generated text; texts that depend on their prompt alone."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from cl_bench.data.examples import Example
from cl_bench.errors import RunError
from cl_bench.evaluation.shared_prefix.drawing import tokens_at
from cl_bench.methods.base import Method, Stage, Step
from cl_bench.methods.sft import SFT
from cl_bench.seeds import derive_seed
from tests.helpers.reference import (
    assert_close,
    make_stage,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.tiny import byte_tokenizer, tiny_model
from tests.methods.contract.helpers import NEW, OLD, TRAIN, model64, two_stages

PROMPTS = ["a", "some words", "some other words", "x" * 30, "some words and more"]


def test_ssr_trains_on_what_the_model_says_to_kept_prompts() -> None:
    first, second = two_stages("ssr", model64(), prompts=3, tokens=3)
    kept = first.state.records["ssr/prompts"]
    assert len(kept) == 3 and all([t, p] in [[e.task, e.prompt] for e in OLD] for t, p in kept)
    texts = make_stage(first.model, NEW, TRAIN, 2)[0].generate(
        [prompt for _, prompt in kept], 3, 1.0, "rehearsal"
    )
    assert second.notes["rehearsed"] == texts and len(set(texts)) > 1
    made = [
        Example(prompt, text, -1, "old", "generate")
        for (_, prompt), text in zip(kept, texts, strict=True)
    ]
    expected = model64()
    reference_training(expected, OLD, TRAIN, 1)
    assert_close(weights(first.model), weights(expected))
    reference_training(expected, [*NEW, *made], TRAIN, 1, index=2)
    assert_close(weights(second.model), weights(expected), 1e-8)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_text_depends_on_its_prompt_alone(temperature: float) -> None:
    stage, _ = make_stage(tiny_model(), NEW, TRAIN, 2)
    state = torch.get_rng_state()
    together = stage.generate(PROMPTS, 6, temperature)
    assert stage.generate(PROMPTS[::-1], 6, temperature) == together[::-1]
    assert [stage.generate([p], 6, temperature)[0] for p in PROMPTS] == together
    other = stage.generate(PROMPTS, 6, temperature, "another purpose")
    assert (other == together) == (temperature == 0.0)
    assert torch.equal(torch.get_rng_state(), state)
    stage.seed += 1
    assert (stage.generate(PROMPTS, 6, temperature) == together) == (temperature == 0.0)


@pytest.mark.parametrize("temperature", [0.0025, 1.0])
def test_a_text_is_drawn_token_by_token(temperature: float) -> None:
    """Almost greedy, the model repeats itself: the engine guesses tokens, and some wrongly."""
    model, tokenizer = tiny_model(), byte_tokenizer()
    stage, _ = make_stage(model, NEW, TRAIN, 2)
    expected = []
    for prompt in PROMPTS:
        draws = random.Random(derive_seed(stage.seed, 2, "p", prompt))
        ids = tokenizer(prompt).input_ids[-TRAIN.max_prompt_tokens :]
        new: list[int] = []
        while len(new) < 30 and tokenizer.eos_token_id not in new:
            logits = model(input_ids=torch.tensor([ids + new])).logits[0, -1].detach().double()
            sums = (logits / temperature).softmax(-1).cumsum(-1).tolist()
            point = draws.random() * sums[-1]
            new.append(next(i for i, total in enumerate(sums) if total > point))
        expected.append(tokenizer.decode(new, skip_special_tokens=True))
    assert stage.generate(PROMPTS, 30, temperature, "p") == expected


class Talks(Method):
    """Generates before its second update."""

    name = "talks"

    def prepare(self, stage: Stage) -> None:
        self.stage = stage

    def before_step(self, step: Step) -> None:
        if step.number == 2:
            self.weights = self.stage.snapshot()
            self.texts = self.stage.generate(PROMPTS, 5)


def plainly(model: Any, prompt: str, tokens: int) -> str:
    tokenizer = byte_tokenizer()
    ids = tokenizer(prompt).input_ids[-TRAIN.max_prompt_tokens :]
    new: list[int] = []
    while len(new) < tokens and tokenizer.eos_token_id not in new:
        new.append(int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
    return str(tokenizer.decode(new, skip_special_tokens=True))


def test_generation_is_greedy_at_temperature_0_in_the_middle_of_a_phase_too() -> None:
    model = tiny_model()
    stage, batcher = make_stage(model, NEW, TRAIN)
    assert stage.generate(PROMPTS, 5) == [plainly(model, prompt, 5) for prompt in PROMPTS]
    silent = make_stage(copy.deepcopy(model), NEW, TRAIN)
    run_method(SFT(), *silent, epochs=3)
    talks = Talks()
    run_method(talks, stage, batcher, epochs=3)
    assert_close(weights(model), weights(silent[0].model), 0.0)
    halfway = tiny_model()
    halfway.load_state_dict(talks.weights)
    assert talks.texts == [plainly(halfway, prompt, 5) for prompt in PROMPTS]
    assert talks.texts != stage.generate(PROMPTS, 5)
    assert stage.generate([], 5) == []
    with pytest.raises(RunError, match="temperature -1"):
        stage.generate(PROMPTS, 5, -1.0)


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0]).expand(999, 3)
    points = (torch.arange(999, dtype=torch.float64) + 0.5) / 999
    counts = tokens_at(logits, points, 2.0).bincount(minlength=3) / 999
    torch.testing.assert_close(counts, (logits[0] / 2).softmax(-1), rtol=0, atol=2e-3)
    assert tokens_at(logits[:1], torch.tensor([1.0]), 1.0).tolist() == [2]
