"""Runs whose prompts are in a chat template: the same form in training and in scoring."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.own_files.task import StageData
from cl_bench.experiment.workload import Workloads
from tests.e2e.conftest import Bench
from tests.helpers.read import scores_of
from tests.helpers.templates import CHATML, LLAMA2, chatting
from tests.helpers.tiny import tiny_model

STAGE = "sft/seed-1/stage-1-trace_fomc"


@pytest.fixture
def talking(bench: Bench) -> Bench:
    """The bench with a model that has a chat template, in which it is asked."""
    folder = bench.root / "model"
    shutil.rmtree(folder)
    tiny_model(262).save_pretrained(folder)
    chatting(CHATML).save_pretrained(folder)
    bench.write_config(
        model={"path": "./model", "dtype": "float32", "chat_template": "auto"},
        methods=["sft"],
        stages=[{"task": "FOMC", "limit": 8}],
        train={"lr": 1e-3, "batch_size": 4, "max_prompt_tokens": 96, "max_answer_tokens": 4},
        eval={"trace": {"limit": 3}, "general": {"tasks": ["piqa"], "limit": 2}},
    )
    return bench


def test_a_model_is_asked_as_it_was_trained(talking: Bench) -> None:
    """Likelihoods of the gold answers are those of conversations that transformers renders."""
    bench = talking
    out = bench.must("plan", "tiny.yaml")
    assert "prompts are in the chat template, in training and in scoring" in out
    bench.must("run", "tiny.yaml")
    tokenizer = AutoTokenizer.from_pretrained(bench.root / "model")
    model = AutoModelForCausalLM.from_pretrained(bench.root / "model", dtype=torch.float32)
    losses = []
    rows = json.loads((bench.root / "data/trace/FOMC/test.json").read_text())
    scored = scores_of(bench.results / "base")
    records = [
        json.loads(line)
        for line in (bench.results / "base/predictions/trace_fomc.jsonl").read_text().splitlines()
    ]
    for record in records:
        row = rows[record["doc_id"]]
        turns = [{"role": "user", "content": row["prompt"]}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        turns.append({"role": "assistant", "content": row["answer"]})
        whole = tokenizer.apply_chat_template(turns, return_dict=False)[:-1]  # a line end
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        own = [float(logits[i - 1, whole[i]]) for i in range(len(asked), len(whole))]
        losses.append(-sum(own) / len(own))
    probes = scored["probes"]["trace"]["trace_fomc"]
    assert probes["nll"]["mean"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert "Model `model`, asked in its chat template, 1 stage" in bench.report()
    assert "<|im_end|>" in Path(bench.results / STAGE / "checkpoint/tokenizer.json").read_text()


def test_the_form_binds_a_run(talking: Bench) -> None:
    bench = talking
    bench.must("run", "tiny.yaml", "-o", "train.lr=1e-4")
    shutil.rmtree(bench.results)
    bench.must("run", "tiny.yaml")
    for change in ("off", "template.jinja"):
        (bench.root / "template.jinja").write_text(CHATML.replace("user", "human"))
        code, _, err = bench.run("run", "tiny.yaml", "-o", f"model.chat_template={change}")
        assert code == 2 and "model.chat_template" in err
    code, _, err = bench.run("run", "tiny.yaml", "-o", "model.system=Be brief.")
    assert code == 2 and "model.system" in err


def test_a_template_of_a_file(talking: Bench) -> None:
    bench = talking
    (bench.root / "own.jinja").write_text(LLAMA2)
    bench.write_config(model={"path": "./model", "dtype": "float32", "chat_template": "own.jinja"})
    bench.must("run", "tiny.yaml")
    first = (bench.results / "base/scores.json").read_bytes()
    (bench.root / "own.jinja").rename(bench.root / "moved.jinja")
    model = {"path": "./model", "dtype": "float32", "chat_template": "moved.jinja"}
    bench.write_config(model=model)
    bench.must("run", "tiny.yaml")
    assert (bench.results / "base/scores.json").read_bytes() == first
    exported = AutoTokenizer.from_pretrained(bench.results / STAGE / "checkpoint")
    assert exported.chat_template == LLAMA2
    bench.must("eval", "tiny", "--stage", "1", "--task", "trace_fomc")
    (again,) = (bench.results / STAGE).glob("evals/*/scores.json")
    files = (again, bench.results / STAGE / "scores.json")
    cells = [json.loads(file.read_text())["trace"]["trace_fomc"]["score"] for file in files]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_has_no_chat_form_is_refused(talking: Bench, command: str) -> None:
    bench = talking
    bench.write_config(
        methods=["sft", {"name": "ori", "shots": 2, "label": "shots"}],
        train={"truncation": "trace", "batch_size": 4},
        model={"path": "./model", "chat_template": "auto", "dtype": "float32"},
    )
    code, _, err = bench.run(command, "tiny.yaml")
    assert code == 2
    assert "train.truncation: trace" in err and "methods: shots: shots" in err
    assert not bench.results.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.jinja", "nowhere.jinja: cannot be read (No such file or directory)"),
        ("empty.jinja", "give auto, off or a file with a Jinja template"),
        ("{{ nothing", "model.chat_template: the template cannot be rendered"),
    ],
)
def test_a_template_that_is_none(talking: Bench, given: str, said: str) -> None:
    (talking.root / "empty.jinja").touch()
    talking.write_config(model={"path": "./model", "chat_template": given})
    code, _, err = talking.run("plan", "tiny.yaml")
    assert code == 2 and said in err and "Traceback" not in err


def test_conversations_that_a_template_refuses_are_named(talking: Bench) -> None:
    """Not asked without their system text, nor found out in the middle of the run."""
    bench = talking

    def row(*turns: tuple[str, str]) -> str:
        return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n"

    good = row(("user", "a"), ("assistant", "b"))
    odd = row(("system", "Be brief."), ("user", "c"), ("assistant", "d"))
    (bench.root / "train.jsonl").write_text(good * 3 + odd)
    (bench.root / "test.jsonl").write_text(good + odd)
    (bench.root / "own.jinja").write_text(LLAMA2)
    model = {"path": "./model", "dtype": "float32", "chat_template": "own.jinja"}
    bench.write_config(model=model, stages=[{"data": "train.jsonl", "test": "test.jsonl"}])
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "training document 3" in err and "does not take its turns" in err, err
    (bench.root / "train.jsonl").write_text(good * 4)
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "test document 1" in err and "(system, user): no system" in err, err


def test_a_template_that_is_not_used_is_said(talking: Bench) -> None:
    talking.write_config(model={"path": "./model", "dtype": "float32"})
    assert "has a chat template, which is not used" in talking.must("plan", "tiny.yaml")


def test_all_answers_of_conversations_are_learned(talking: Bench) -> None:
    """`plan` says how many, what is cut of them and what another template drops; a run counts."""
    bench = talking
    texts = ("a", "one", "b", "two", "c", "three")
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    rows = [{"messages": turns[:2] + turns[2 * i :]} for i in (1, 2)] * 2
    for name in ("train", "test"):
        (bench.root / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    bench.write_config(
        model={"path": "./model", "dtype": "float32", "chat_template": "auto"},
        methods=["sft"],
        stages=[{"data": "train.jsonl", "test": "test.jsonl"}],
        train={"lr": 1e-3, "batch_size": 4, "max_prompt_tokens": 128, "max_answer_tokens": 8},
        eval={"general": {"tasks": ["piqa"], "limit": 2}},
    )
    out = bench.must("plan", "tiny.yaml")
    assert "train: 6 earlier answers of its conversations are learned too" in out
    assert "4 of 4 scored prompts are trained on too" in out
    cut = bench.must("plan", "tiny.yaml", "-o", "train.max_prompt_tokens=64")
    assert "lose their oldest turns: in a sample 2 of 6 earlier answers are cut" in cut
    bench.must("run", "tiny.yaml")
    stage = bench.results / "sft/seed-1/stage-1-train"
    (step,) = [json.loads(line) for line in (stage / "train.jsonl").read_text().splitlines()]
    learned = [text for row in rows for text in (t["content"] for t in row["messages"][1::2])]
    assert step["answer_tokens"] == sum(len(text) + 1 for text in learned)
    assert "earlier_answers_cut" not in (stage / "notes.json").read_text()
    shutil.rmtree(bench.results)
    bench.must("run", "tiny.yaml", "-o", "train.max_prompt_tokens=64")
    notes = json.loads((stage / "notes.json").read_text())
    assert notes["earlier_answers_cut"] == {
        "answers": 2,
        "of": 6,
        "max_prompt_tokens": 64,
    }


def test_plan_counts_earlier_answers_as_learned(talking: Bench) -> None:
    """In outputs that a method stores of them; the tokens of the whole are those of its text."""
    roles = ("user", "assistant") * 2
    turns = [
        {"role": r, "content": c} for r, c in zip(roles, ("a", "one", "b", "two"), strict=True)
    ]
    file = talking.root / "train.jsonl"
    file.write_text(json.dumps({"messages": turns}) + "\n")
    found = {}
    for template in ("off", "auto"):
        config = ExperimentConfig.model_validate(
            {
                "name": "x",
                "model": {"path": str(talking.root / "model"), "chat_template": template},
                "methods": ["sft"],
                "stages": [{"data": str(file), "score": False}],
            }
        )
        workloads = Workloads(config, {"train": StageData(str(file))})
        found[template] = workloads.of([("train", None)], config.train)
    plain, chat = found["off"], found["auto"]
    assert plain is not None and chat is not None and plain.tokens == chat.tokens
    assert (plain.answers, chat.answers) == (len("two") + 1, len("two") + 1 + len("one") + 1)
