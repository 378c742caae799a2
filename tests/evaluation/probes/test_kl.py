"""KL to the base model: exact, 0 for equal models, on texts that are fixed once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import gold_answer
from cl_bench.evaluation.probes import kl
from tests.helpers.tiny import byte_tokenizer, tiny_model
from tests.mini.conftest import load

TASKS = load()


def kept(model, chosen, file):
    return kl.keep_reference(chosen, kl.log_distributions(model, chosen.values()), file)


def texts(task: str = "mini_boolq", positions: int = 4) -> dict[int, kl.Text]:
    return kl.read_texts(TASKS[task], [5, 0, 2], byte_tokenizer(), positions, seed=1)


def loop(base: list[float], current: list[float]) -> float:
    """KL from unnormalised logits, term by term."""

    def probabilities(logits: list[float]) -> list[float]:
        weights = [math.exp(value - max(logits)) for value in logits]
        return [weight / sum(weights) for weight in weights]

    pairs = zip(probabilities(base), probabilities(current), strict=True)
    return sum(p * math.log(p / q) for p, q in pairs)


@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8)), min_size=2, max_size=9))
def test_divergence_is_the_sum_over_the_vocabulary(logits: list[tuple[float, float]]) -> None:
    rows = [list(row) for row in zip(*logits, strict=True)]
    base, current = torch.log_softmax(torch.tensor(rows, dtype=torch.float64), -1).split(1)
    found = kl.divergence(base, current).item()
    assert found >= 0
    assert found == pytest.approx(loop(*rows), abs=1e-12)
    assert kl.divergence(base.float(), base).item() < 1e-12


def test_a_token_that_the_base_model_excludes_adds_nothing() -> None:
    base = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    current = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert kl.divergence(base, current).item() == pytest.approx(0.5 * math.log(2))
    assert kl.divergence(base, base).item() < 1e-15


def test_the_same_model_has_moved_nowhere_and_another_as_a_plain_forward_says(
    tmp_path: Path,
) -> None:
    chosen, file = texts(), tmp_path / "kl" / "mini_boolq.safetensors"
    base, other = tiny_model(seed=1), tiny_model(seed=2)
    of_base = kept(base, chosen, file)
    assert {i: d.positions for i, d in kl.measure(base, file).items()} == {
        i: text.positions for i, text in chosen.items()
    }
    assert max(max(d.kl) for d in kl.measure(base, file).values()) < 1e-12
    measured = kl.measure(other, file)
    for i, text in chosen.items():
        ids = torch.tensor([text.ids])
        rows = [model(input_ids=ids).logits[0].double() for model in (base, other)]
        expected = [loop(*(row[p].tolist() for row in rows)) for p in text.positions]
        assert measured[i].kl == pytest.approx(expected, rel=1e-6)
        back = [loop(*(row[p].tolist() for row in reversed(rows))) for p in text.positions]
        assert measured[i].reverse == pytest.approx(back, rel=1e-6)
        assert of_base[i] == kl.Divergence(text.positions, (0.0,) * 4, (0.0,) * 4)


def test_measuring_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = tiny_model()
    model.train()
    kept(model, texts(), tmp_path / "kl.safetensors")
    kl.measure(model, tmp_path / "kl.safetensors")
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_benchmark_without_reference_is_not_measured(tmp_path: Path) -> None:
    assert kl.measure(tiny_model(), tmp_path / "none.safetensors") == {}


def test_a_model_without_numbers_has_no_divergence_of_the_texts_it_has_none_for(
    tmp_path: Path,
) -> None:
    chosen, file = texts(), tmp_path / "kl.safetensors"
    kept(tiny_model(), chosen, file)
    broken = tiny_model()
    broken.lm_head.weight.data.fill_(float("nan"))
    nothing = {i: kl.Divergence(text.positions, None, None) for i, text in chosen.items()}
    assert kl.measure(broken, file) == nothing
    # One token of one text: the others are measured.
    token = next(i for i in chosen[5].ids if i not in (*chosen[0].ids, *chosen[2].ids))
    blind = tiny_model()
    blind.get_input_embeddings().weight.data[token] = float("nan")
    assert [i for i, text in kl.measure(blind, file).items() if text.kl is None] == [5]
    own = kept(blind, chosen, tmp_path / "own.safetensors")
    assert [i for i, text in own.items() if text.kl is None] == [5], "not 0 for the base model"


def answers(task: str, positions: int = 99, most: int = 999, **cut: Any) -> dict[int, kl.Text]:
    train = TrainConfig(**{"max_prompt_tokens": 40, "max_answer_tokens": 6, **cut})
    return kl.read_answers(
        TASKS[task], [4, 1, 7], byte_tokenizer(), train, positions, seed=1, most=most
    )


@pytest.mark.parametrize("task", ["mini_fomc", "mini_py150", "mini_boolq"])
def test_on_a_stage_task_every_token_of_the_answer_is_compared(task: str, tmp_path: Path) -> None:
    """Against a loop in float64 over prompt, answer and EOS, token by token, in both directions."""
    base, other = tiny_model(seed=1), tiny_model(seed=2)
    chosen, file = answers(task), tmp_path / "kl.safetensors"
    kept(base, chosen, file)
    measured, tokenizer = kl.measure(other, file), byte_tokenizer()
    assert list(chosen) == [4, 1, 7]
    for doc_id in chosen:
        doc = TASKS[task].eval_docs[doc_id]
        prompt = tokenizer(TASKS[task].doc_to_text(doc))["input_ids"][-40:]
        whole = tokenizer(gold_answer(TASKS[task], doc))["input_ids"]
        answer = [*whole, tokenizer.eos_token_id] if len(whole) <= 6 else whole[:6]
        forward, back = [], []
        for i in range(len(answer)):
            ids = torch.tensor([prompt + answer[:i]])
            ours, theirs = (
                model(input_ids=ids).logits[0, -1].double().tolist() for model in (base, other)
            )
            forward.append(loop(ours, theirs))
            back.append(loop(theirs, ours))
        assert measured[doc_id].kl == pytest.approx(forward, rel=1e-5)
        assert measured[doc_id].reverse == pytest.approx(back, rel=1e-5)


def test_of_a_long_answer_some_tokens_are_compared_and_a_longer_text_is_left_out() -> None:
    every, some = (
        answers("mini_py150", max_answer_tokens=30),
        answers("mini_py150", 3, max_answer_tokens=30),
    )
    for doc_id, text in some.items():
        assert text.ids == every[doc_id].ids
        assert len(text.positions) == 3 and set(text.positions) <= set(every[doc_id].positions)
    longest = max(every.values(), key=lambda text: len(text.ids))
    fewer = answers("mini_py150", most=len(longest.ids) - 1, max_answer_tokens=30)
    assert longest not in fewer.values() and fewer


def test_a_token_that_only_one_model_excludes_makes_one_direction_infinite(tmp_path: Path) -> None:
    chosen, file = answers("mini_fomc"), tmp_path / "kl.safetensors"
    base, other = excluding(tiny_model(seed=1)), tiny_model(seed=2)
    kept(base, chosen, file)
    for found in kl.measure(other, file).values():
        assert found.kl is not None and found.reverse is None
    for found in kl.measure(base, file).values():
        assert found.kl is not None and found.reverse is not None


def excluding(model: Any) -> Any:
    """The model with a token that never comes next."""
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = plain(*args, **kwargs)
        outputs.logits[..., 7] = float("-inf")
        return outputs

    model.forward = forward
    return model


def test_texts_are_the_ends_of_prompts_with_seeded_positions() -> None:
    found = texts(positions=6)
    tokenizer = byte_tokenizer()
    for i, text in found.items():
        prompt = TASKS["mini_boolq"].doc_to_text(TASKS["mini_boolq"].eval_docs[i])
        assert tokenizer.decode(text.ids) == prompt[-kl.MAX_TOKENS :]
        assert list(text.positions) == sorted(set(text.positions))
        assert len(text.positions) == 6
        assert 0 <= text.positions[0] <= text.positions[-1] < len(text.ids) <= kl.MAX_TOKENS
    assert found == texts(positions=6)
    assert found != kl.read_texts(TASKS["mini_boolq"], [5, 0, 2], tokenizer, 6, seed=2)


SIZES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4)


@given(SIZES, st.integers(0, 30))
def test_every_benchmark_gives_as_many_texts_as_it_can(sizes: list[list[int]], texts: int) -> None:
    benchmarks = {
        f"b{i}": {f"b{i}_{j}": list(range(size)) for j, size in enumerate(leaves)}
        for i, leaves in enumerate(sizes)
    }
    chosen = kl.sample_texts(benchmarks, texts, seed=1)
    counts = []
    for leaves in benchmarks.values():
        ids = [(leaf, i) for leaf in leaves for i in chosen.get(leaf, [])]
        assert len(set(ids)) == len(ids)
        assert all(i in leaves[leaf] for leaf, i in ids)
        counts.append(len(ids))
    for i, (count, leaves) in enumerate(zip(counts, sizes, strict=True)):
        share = texts // len(sizes) + (i < texts % len(sizes))
        assert count == min(share, sum(leaves))
    assert chosen == kl.sample_texts(benchmarks, texts, seed=1)
