"""Documents that a model gives no numbers: found by every engine, and their task has no score."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from torch import nn

from cl_bench.config.schema import TrainConfig
from cl_bench.evaluation.engines.hflm import TruncatingHFLM
from cl_bench.evaluation.finite import IN_A_ROW, NotFinite, Watch, ask_again, watched
from cl_bench.evaluation.harness import TaskResult, evaluate_tasks, group_json, summarise_task
from cl_bench.evaluation.probes.documents import probe_documents
from cl_bench.evaluation.probes.records import probes_json, unmeasured_probes
from cl_bench.evaluation.shared_prefix import sharing_trial as support
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.experiment.finite import excluded_weights, fault_of_weights
from cl_bench.results.paired import paired_values
from cl_bench.results.summary import cells
from cl_bench.scores.matrix import general_mean, operation_score, summarise
from tests.helpers.tiny import byte_tokenizer, tiny_model
from tests.mini.conftest import load

TASKS = load()
TOKENIZER = byte_tokenizer()
IDS = [0, 3, 4, 9]
BLIND = {"mini_fomc": "b", "mini_piqa": "k"}
"""Signs that some of the documents have, and neither the others nor the trial of sharing."""
ENGINES: dict[str, Callable[..., Any]] = {
    "cl-bench": SharedPrefixLM,
    "hf": lambda model, tokenizer: TruncatingHFLM(model, tokenizer=tokenizer, batch_size=4),
    "hf in a subprocess": lambda model, tokenizer: watched(HFLM)(
        pretrained=model, tokenizer=tokenizer, batch_size=4
    ),
}


def sharing(model: Any) -> tuple[str | None, int]:
    with torch.no_grad():
        return support.why_not_shared(model)


def blind(sign: str) -> Any:
    model = tiny_model(seed=3)
    (token,) = TOKENIZER.encode(sign, add_special_tokens=False)
    model.get_input_embeddings().weight.data[token] = nan
    return model


def scored(name: str, model: Any, engine: str = "cl-bench") -> TaskResult:
    lm = ENGINES[engine](model, TOKENIZER)
    return evaluate_tasks(lm, {name: TASKS[name]}, {name: IDS}, 3)[name]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BLIND)
def test_a_document_without_numbers_is_named_and_the_others_are_as_they_were(
    name: str, engine: str
) -> None:
    sign, sound = BLIND[name], scored(name, tiny_model(seed=3), engine)
    found = scored(name, blind(sign), engine)
    texts = [
        "".join(part for asked in sample["arguments"] for part in asked if isinstance(part, str))
        for sample in found.samples
    ]
    bad = [i for i, text in zip(IDS, texts, strict=True) if sign in text]
    assert 0 < len(bad) < len(IDS) and sound.not_measured is None
    data = found.to_json()
    assert (data["score"], data["stderr"], data["n"], found.cell) == (None, None, 4, None)
    assert (
        set(data["metrics"].values()) == {None} and data["metrics"].keys() == sound.metrics.keys()
    )
    assert data["not_measured"].startswith(f"{name}, document {bad[0]}")
    for record, as_before in zip(found.records, sound.records, strict=True):
        if record["doc_id"] in bad:
            assert record["score"] is None and record["not_measured"]
            assert set(record.get("loglikelihoods", [None])) == {None}
        else:
            likely = as_before.pop("loglikelihoods", [])
            assert record.pop("loglikelihoods", []) == pytest.approx(likely, abs=1e-4)
            assert record == as_before
    assert paired_values(data, {name: found.records}) == []


def test_a_model_without_any_number_is_not_asked_everything_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(support, "_FOUND", {})
    model = tiny_model(seed=3)
    model.lm_head.weight.data.fill_(nan)
    assert sharing(model) == (None, 2**31), "whichever way, there is no answer"
    assert not support._FOUND, "it says nothing of others of its kind"
    some = blind(TOKENIZER.decode(13))  # the first token of the trial
    assert sharing(some) == ("some of the model's log-probabilities are no numbers", 0)
    assert sharing(tiny_model(seed=3)) == (None, 2**31) and support._FOUND
    for name in BLIND:
        assert "document 0 (and 3 more)" in str(scored(name, model).not_measured)
    asked: list[int] = []
    assert ask_again(range(99), asked.append) == {} and len(asked) == IN_A_ROW
    assert list(ask_again(range(30), lambda i: None if i % 3 else i)) == [*range(0, 30, 3)]


def test_a_token_that_the_model_excludes_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """-inf for a letter of one choice: it is the less likely one, also in the trial of sharing."""
    model = tiny_model(seed=3)
    bias = torch.zeros(model.config.vocab_size)
    result = scored("mini_piqa", model)
    chosen = result.samples[0]["arguments"]
    letters = [set(text) for _, text in chosen]
    only = min(letters[0] - letters[1])
    bias[TOKENIZER.encode(only, add_special_tokens=False)] = -inf
    bias[0] = -inf  # in the trial of sharing too
    model.lm_head.bias = nn.Parameter(bias)
    monkeypatch.setattr(support, "_FOUND", {})
    assert sharing(model)[0] is None
    record = evaluate_tasks(
        SharedPrefixLM(model, TOKENIZER), {"mini_piqa": TASKS["mini_piqa"]}, {"mini_piqa": [0]}
    )["mini_piqa"]
    assert record.cell is not None and record.records[0]["loglikelihoods"][0] is None
    assert record.records[0]["choice"] == 1
    gold = probe_documents(SharedPrefixLM(model, TOKENIZER), TASKS["mini_piqa"], record, None)
    finite = record.records[0]["target"] == 1
    assert (gold[0].nll is not None) == finite == (gold[0].not_finite is None)


def test_training_leaves_an_excluded_token_excluded() -> None:
    model = tiny_model()
    model.lm_head.bias = nn.Parameter(torch.zeros(model.config.vocab_size))
    bias = model.lm_head.bias.data
    bias[5] = -inf
    stage: Any = SimpleNamespace(model=model)
    batcher: Any = SimpleNamespace(encode=list)
    before = excluded_weights(model)
    assert fault_of_weights(stage, [], batcher, before) is None
    for value in (inf, nan, -inf):
        bias[6] = value
        assert "lm_head.bias is" in str(fault_of_weights(stage, [], batcher, before))


def choosing(likelihoods: list[float], **metrics: float) -> TaskResult:
    """A document of two choices with these log-likelihoods; acc is its score."""
    task = SimpleNamespace(
        task_name="x",
        config=SimpleNamespace(metadata={"headline": next(iter(metrics))}),
        OUTPUT_TYPE="multiple_choice",
        doc_to_choice=lambda doc: ["a", "b"],
    )
    sample = {
        "doc_id": 7,
        "doc": {},
        "prompt_hash": "hash",
        "target": 0,
        "filter": "none",
        "filtered_resps": [(value, False) for value in likelihoods],
        "metrics": list(metrics),
        **metrics,
    }
    return summarise_task(task, [sample])


@pytest.mark.parametrize(
    ("likelihoods", "metrics", "reason"),
    [
        ([-inf, -1.0], {"acc": 0.0}, None),
        ([-inf, -inf], {"acc": 1.0}, "a log-likelihood of every choice of -inf"),
        ([-1.0, nan], {"acc": 0.0}, "a log-likelihood of nan"),
        ([-1.0, inf], {"acc": 0.0}, "a log-likelihood of inf"),
        ([-1.0, -2.0], {"acc": nan}, "its acc is nan"),
        ([-inf, -2.0, -inf, -9.0], {"acc_mutual_info": 1.0}, "no choice is the likeliest (nan)"),
    ],
)
def test_what_is_no_score(
    likelihoods: list[float], metrics: dict[str, float], reason: str | None
) -> None:
    found = choosing(likelihoods, **metrics)
    assert found.not_measured == (reason and f"x, document 7: {reason}")


def test_a_mean_with_a_task_that_is_not_measured_is_not_measured() -> None:
    sound, lost = choosing([-1.0, -2.0], acc=1.0), choosing([nan, nan], acc=1.0)
    group = group_json({"a": sound, "b": lost}, {"a": 3, "b": 5})
    assert (group["score"], group["weighted"], group["stderr"], group["n"]) == (None, None, None, 2)
    assert group["metrics"] == {"acc": None} and group["not_measured"] == lost.not_measured
    assert group["members"]["a"]["score"] == 1.0
    entries = {"a": sound.to_json(), "b": lost.to_json()}
    assert general_mean(entries) is None and general_mean({"a": entries["a"]}) == 1.0
    assert operation_score(entries, ["a", "b"]) is None and operation_score(entries, ["a"]) == 1.0
    rows = [cells(entries), cells({"a": entries["a"], "b": entries["a"]})]
    summary = summarise(rows, ["a", "b"], learned={"a": 1, "b": 1}, stages=2).to_json()
    assert summary["op"][0]["not_measured"] == "b after stage 1" and summary["op"][1]["value"] == 1
    for key in ("bwt", "forgetting", "learning_accuracy", "op_mean"):
        assert summary[key]["value"] is None and "b after stage 1" in summary[key]["not_measured"]


def test_a_probe_with_such_a_document_is_not_measured() -> None:
    model = blind("b")
    result = scored("mini_fomc", model)
    lm = SharedPrefixLM(model, TOKENIZER)
    probes = probe_documents(lm, TASKS["mini_fomc"], result, TrainConfig())
    bad = [probe for probe in probes if probe.not_finite]
    assert [probe.doc_id for probe in bad] == [3]
    assert bad[0].not_finite is not None
    assert set(bad[0].not_finite) == {"nll", "constrained", "valid_format"}
    data = probes_json({"mini_fomc": probes}, {})
    assert {cell["mean"] for cell in data["trace"]["mini_fomc"].values()} == {None}
    assert data["trace"]["mini_fomc"]["nll"]["n"] == 4
    assert data["trace_nll"]["mean"] is None and "document 3" in data["trace_nll"]["not_measured"]
    lost = [(key, task) for key, task, _ in unmeasured_probes(data)]
    assert lost == [(key, "mini_fomc") for key in ("nll", "constrained", "valid_format")]


def test_what_comes_after_the_end_of_a_text_does_not_count() -> None:
    """A batch goes on until its last sequence has ended."""
    lm = watched(HFLM)(pretrained=tiny_model(), tokenizer=TOKENIZER, batch_size=2)
    ids = TOKENIZER.encode("one\ntwo", add_special_tokens=False)
    assert lm._ended(ids, ["\n"]) and not lm._ended(ids[:3], ["\n"])
    assert lm._ended([*ids[:3], TOKENIZER.eos_token_id], ["\n"])
    watch = Watch(2)
    scores = torch.tensor([[0.0, -inf], [nan, 0.0]])
    assert watch(torch.zeros(2, 5, dtype=torch.long), scores)[1].tolist() == [0.0, 0.0]
    watch(torch.zeros(2, 6, dtype=torch.long), scores.roll(1, 0))
    assert watch.first == [6, 5]
    assert isinstance(NotFinite("x"), str) and NotFinite("x") == "x"
