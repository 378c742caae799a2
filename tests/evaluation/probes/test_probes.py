"""Probes of single documents against a plain forward pass in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import Example
from cl_bench.data.tokens import encode_examples
from cl_bench.data.truncation import Truncation
from cl_bench.evaluation.harness import TaskResult, evaluate_tasks
from cl_bench.evaluation.probes.documents import probe_documents
from cl_bench.evaluation.probes.records import DocumentProbe
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.tiny import byte_tokenizer, tiny_model
from tests.mini.conftest import load

TASKS = load()
TOKENIZER = byte_tokenizer()
MODEL = tiny_model(seed=3)
IDS = [0, 3, 4, 9]


def scored(name: str, model: Any = MODEL, tokens: int = 4) -> tuple[SharedPrefixLM, TaskResult]:
    lm = SharedPrefixLM(model, TOKENIZER)
    return lm, evaluate_tasks(lm, {name: TASKS[name]}, {name: IDS}, tokens)[name]


def probes(name: str, train: TrainConfig | None = None) -> list[DocumentProbe]:
    lm, result = scored(name)
    return probe_documents(lm, TASKS[name], result, train)


def log_p(context: Sequence[int], continuation: Sequence[int], model: Any = MODEL) -> float:
    """Sum of log p of the continuation, the whole softmax in float64, one sequence alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*context, *continuation]])).logits[0].double()
    rows = torch.log_softmax(logits, dim=-1)[len(context) - 1 : -1]
    return sum(float(row[token]) for row, token in zip(rows, continuation, strict=True))


def ids(text: str) -> list[int]:
    encoded: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return encoded


@pytest.mark.parametrize("limit", [1000, 20])
def test_a_stage_task_is_asked_for_the_tokens_of_training(limit: int) -> None:
    """The prompt cut on its left, the answer whole and ended by EOS."""
    found = probes("mini_numglue_cm", TrainConfig(max_prompt_tokens=limit))
    for probe, i in zip(found, IDS, strict=True):
        doc = TASKS["mini_numglue_cm"].eval_docs[i]
        answer = [*ids(doc["answer"]), TOKENIZER.eos_token_id]
        assert (probe.doc_id, probe.tokens) == (i, len(answer))
        expected = -log_p(ids(doc["prompt"])[-limit:], answer) / len(answer)
        assert probe.nll == pytest.approx(expected, abs=1e-5)
        assert (probe.label, probe.constrained) == (None, None)


@pytest.mark.parametrize("truncation", ["left", "keep_instruction", "trace"])
def test_of_a_stage_task_it_is_the_loss_of_training(truncation: Truncation) -> None:
    train = TrainConfig(max_prompt_tokens=40, max_answer_tokens=12, truncation=truncation)
    for probe in probes("mini_scienceqa", train):
        doc = TASKS["mini_scienceqa"].eval_docs[probe.doc_id]
        example = Example(doc["prompt"], doc["answer"], 0, "mini_scienceqa", "generate")
        (encoded,) = encode_examples([example], TOKENIZER, 40, 12, truncation)
        tokens = torch.tensor([encoded.input_ids])
        labels = tokens.clone()
        labels[:, : encoded.prompt_length] = -100
        loss = MODEL(input_ids=tokens, labels=labels).loss.item()
        assert (probe.nll, probe.tokens) == (pytest.approx(loss, abs=1e-5), encoded.answer_tokens)


def test_a_long_answer_is_cut_as_in_training_and_has_no_eos() -> None:
    (probe, *_) = probes("mini_meetingbank", TrainConfig(max_answer_tokens=5))
    doc = TASKS["mini_meetingbank"].eval_docs[0]
    assert probe.tokens == 5
    expected = -log_p(ids(doc["prompt"])[-1024:], ids(doc["answer"])[:5]) / 5
    assert probe.nll == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "labels"), [("mini_fomc", "ABC"), ("mini_scienceqa", "ABC")])
def test_the_most_likely_label_stands_without_eos(name: str, labels: str) -> None:
    found = probes(name, TrainConfig(max_prompt_tokens=60))
    docs = [TASKS[name].eval_docs[i] for i in IDS]
    known = sorted({doc["answer"][0] for doc in docs}) if name == "mini_scienceqa" else labels
    for probe, doc in zip(found, docs, strict=True):
        scores = {label: log_p(ids(doc["prompt"])[-60:], ids(label)) for label in known}
        assert probe.label == max(scores, key=scores.__getitem__)
        assert probe.constrained == float(probe.label == doc["answer"][0])


def test_a_generated_benchmark_is_asked_after_its_own_prompt() -> None:
    found = probes("mini_gsm8k")
    _, result = scored("mini_gsm8k")
    for probe, sample in zip(found, result.samples, strict=True):
        prompt = sample["arguments"][0][0]
        answer = ids(" " + sample["doc"]["answer"])
        assert prompt.count("Question:") == 3
        assert probe.tokens == len(answer)
        assert probe.nll == pytest.approx(-log_p(ids(prompt), answer) / len(answer), abs=1e-5)


def test_a_choice_is_read_off_the_scores_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, result = scored("mini_mmlu")
    monkeypatch.setattr(lm, "score_pairs", None)
    found = probe_documents(lm, TASKS["mini_mmlu"], result, None)
    for probe, sample, record in zip(found, result.samples, result.records, strict=True):
        gold = sample["doc"]["answer"]
        context, text = sample["arguments"][gold]
        assert probe.tokens == len(ids(text))
        assert probe.nll == -record["loglikelihoods"][gold] / len(ids(text))
        expected = -log_p(ids(context), ids(text)) / len(ids(text))
        assert probe.nll == pytest.approx(expected, abs=1e-5)
        assert probe.valid_format is None


def test_neighbours_and_padding_change_nothing() -> None:
    """One document alone, all at once, and through a model that shares no prefixes."""
    lm, result = scored("mini_fomc")
    together = probe_documents(lm, TASKS["mini_fomc"], result, TrainConfig())
    other = SharedPrefixLM(MODEL, TOKENIZER)
    other._window, other.reason = 0, "as if prefixes could not be shared"
    plain = probe_documents(other, TASKS["mini_fomc"], result, TrainConfig())
    assert other.counters.unshared > 0
    for i, expected in enumerate(together):
        one = TaskResult(result.cell, {}, records=[result.records[i]], samples=[result.samples[i]])
        (alone,) = probe_documents(lm, TASKS["mini_fomc"], one, TrainConfig())
        assert alone.nll == pytest.approx(expected.nll, abs=1e-5)
        assert plain[i].nll == pytest.approx(expected.nll, abs=1e-5)
        assert alone.label == plain[i].label == expected.label


def test_a_document_without_a_gold_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, result = scored("mini_gsm8k")
    task = TASKS["mini_gsm8k"]
    hidden = result.samples[1]["doc"]["answer"]
    plain = task.doc_to_target
    monkeypatch.setattr(
        task, "doc_to_target", lambda doc: None if doc["answer"] == hidden else plain(doc)
    )
    found = probe_documents(lm, task, result, None)
    kept = [probe.nll is not None for probe in found]
    assert kept == [sample["doc"]["answer"] != hidden for sample in result.samples]


def test_an_answer_longer_than_the_window_is_not_measured() -> None:
    _, result = scored("mini_meetingbank")
    small = SharedPrefixLM(MODEL, TOKENIZER, max_length=16)
    found = probe_documents(small, TASKS["mini_meetingbank"], result, TrainConfig())
    assert [probe.nll for probe in found] == [None] * len(IDS)


def test_a_model_that_diverged_has_no_probe_rather_than_nan() -> None:
    _, result = scored("mini_fomc")
    broken = tiny_model(seed=3)
    broken.lm_head.weight.data.fill_(float("nan"))
    found = probe_documents(
        SharedPrefixLM(broken, TOKENIZER), TASKS["mini_fomc"], result, TrainConfig()
    )
    assert {(probe.nll, probe.label, probe.constrained) for probe in found} == {(None, None, None)}


def test_records_survive_the_file() -> None:
    whole = DocumentProbe(3, 1.5, 2, "A", 1.0, 0.0, (0.1, 0.0), (4, 7))
    assert DocumentProbe.from_json(whole.to_json()) == whole
    assert DocumentProbe(4, 0.5, 1).to_json() == {"doc_id": 4, "nll": 0.5, "tokens": 1}
