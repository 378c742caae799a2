"""One unit after the other through one `LM`: right, and nothing left behind."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Cache

import cl_bench.evaluation.units as units_module
from cl_bench.config.schema import TrainConfig
from cl_bench.data.loading import load_task_set
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.units import Unit, answering
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import UpdatePlan
from tests.helpers.tiny import byte_tokenizer, tiny_model

DOCUMENTS = {"choose": [0, 2, 5], "write": [1, 3, 4]}
TRAIN = TrainConfig(max_prompt_tokens=4, max_answer_tokens=3)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    """A stage task that writes and a benchmark that chooses, with two drawn shots."""
    folder = tmp_path_factory.mktemp("own")
    rows = [{"q": f"question {i}", "a": f"{i}", "label": i % 2} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        "dataset_path: json\ntraining_split: train\ntest_split: test\ndoc_to_text: q\n"
        f"dataset_kwargs: {{data_files: {{train: {folder}/rows.jsonl, "
        f"test: {folder}/rows.jsonl}}}}\n"
    )
    (folder / "write.yaml").write_text(
        f"task: write\noutput_type: generate_until\ndoc_to_target: a\n{common}"
        "metric_list: [{metric: exact_match}]\n"
    )
    (folder / "choose.yaml").write_text(
        f"task: choose\noutput_type: multiple_choice\ndoc_to_target: label\n{common}"
        "doc_to_choice: ['no', 'yes']\nnum_fewshot: 2\nmetric_list: [{metric: acc}]\n"
    )
    tasks = load_task_set(["write", "choose"], task_paths=[folder]).tasks
    return [
        Unit("trace", "write", {"write": tasks["write"]}, DOCUMENTS, TRAIN),
        Unit("general", "choose", {"choose": tasks["choose"]}, DOCUMENTS),
    ]


def records(model: Any, units: list[Unit], engine: str = "cl-bench") -> list[Any]:
    """What every unit's documents were answered."""
    with answering(Engine(engine), Subject(model, byte_tokenizer())) as answer:
        return [result.records for unit in units for result in answer(unit).results.values()]


@pytest.mark.parametrize("engine", ["cl-bench", "hf"])
def test_the_order_and_the_company_of_units_do_not_matter(units: list[Unit], engine: str) -> None:
    model = tiny_model()
    together = records(model, units, engine)
    assert records(model, units[::-1], engine) == together[::-1]
    assert [records(model, [unit], engine)[0] for unit in units] == together
    # Prompts of the stage task alone are cut to 4 tokens, so other answers come without.
    whole = Unit("trace", "write", units[0].tasks, DOCUMENTS, TrainConfig(max_answer_tokens=3))
    assert records(model, [whole], engine)[0] != together[0]
    assert {len(record["loglikelihoods"]) for record in together[1]} == {2}


def test_what_a_unit_depends_on(units: list[Unit], monkeypatch: pytest.MonkeyPatch) -> None:
    unit = units[0]
    before = unit.depends_on()
    assert before == unit.depends_on()
    fewer = Unit("trace", "write", unit.tasks, {"write": [1, 3]}, TRAIN).depends_on()
    longer = TrainConfig(max_prompt_tokens=4, max_answer_tokens=4)
    capped = Unit("trace", "write", unit.tasks, DOCUMENTS, longer).depends_on()
    differing = [{key for key in before if before[key] != other[key]} for other in (fewer, capped)]
    assert differing == [{"documents"}, {"prompt"}]
    task = units[1].tasks["choose"]
    general = units[1].depends_on()
    task.set_config("num_fewshot", 1)
    changed = units[1].depends_on()
    task.set_config("num_fewshot", 2)
    assert {key for key in general if general[key] != changed[key]} == {"tasks"}
    monkeypatch.setattr(task, "fewshot_docs", lambda: list(task.eval_docs)[:1])
    changed = units[1].depends_on()
    assert {key for key in general if general[key] != changed[key]} == {"shots"}


def test_random_states_modes_and_settings_stay(units: list[Unit]) -> None:
    model = tiny_model()
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    config = json.dumps(model.config.to_dict(), default=str)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    for engine in ("cl-bench", "hf"):
        records(model, units, engine)
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert after == states
    assert [module.training for module in model.modules()] == modes
    assert json.dumps(model.config.to_dict(), default=str) == config
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("engine", ["cl-bench", "hf"])
def test_memory_is_given_back(
    units: list[Unit], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cache of keys and values, no `LM` and no tensor outlives a scoring."""
    kept: list[weakref.ref[Any]] = []
    build = units_module.opened

    @contextmanager
    def watch(*arguments: Any, **named: Any) -> Iterator[Any]:
        with build(*arguments, **named) as lm:
            kept.append(weakref.ref(lm))
            yield lm

    monkeypatch.setattr(units_module, "opened", watch)
    gc.collect()
    gc.freeze()  # what was made before is not looked through again and again
    model = tiny_model()
    records(model, units, engine)  # what is made once for good (rotary tables, imports)
    gc.collect()
    tensors = living(torch.Tensor)
    records(model, units, engine)
    gc.collect()
    assert len(kept) == 2 and all(ref() is None for ref in kept)
    assert living(Cache) == living(SlotCache) == 0
    assert living(torch.Tensor) == tensors


def living(kind: type) -> int:
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [False, True])
def test_a_model_that_is_being_trained_scores_as_an_ordinary_one(
    units: list[Unit], dtype: torch.dtype, tie: bool
) -> None:
    """Inside the update engine, and the training that follows is as without."""
    ids = torch.arange(40)[None] % 50

    def train(scored: bool) -> tuple[list[Any], list[Any], list[torch.Tensor]]:
        model = tiny_model(tie=tie, dtype=dtype, kind="qwen2")
        model.train()
        inside, weights = [], {}
        with SelectiveUpdate(model, UpdatePlan()) as engine:
            for _ in range(3):
                model(ids, labels=ids).loss.backward()
                engine.step(1e-2)
                engine.zero_grad()
                if scored:
                    weights = {k: v.clone() for k, v in model.state_dict().items()}
                    with engine.paused():
                        inside = records(model, units) + records(model, units, "hf")
            assert model.training
        saved = tiny_model(tie=tie, dtype=dtype, kind="qwen2")
        outside = []
        if scored:
            saved.load_state_dict(weights)
            outside = records(saved, units) + records(saved, units, "hf")
        return inside, outside, [p.detach() for p in model.parameters()]

    inside, outside, with_scores = train(True)
    assert inside == outside
    for one, other in zip(with_scores, train(False)[2], strict=True):
        assert torch.equal(one, other)
