"""`cl-bench init`: the config that it writes runs as it is, and says what it costs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_bench.checks import first_steps
from tests.e2e.conftest import Bench
from tests.helpers.read import scores_of
from tests.helpers.templates import CHATML, chatting


def rows(file: Path, count: int, answer: str = "yes") -> None:
    lines = [{"prompt": f"Is {i} > 3?", "response": answer} for i in range(count)]
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_steps, "hub_silence", lambda: "ConnectionError")
    monkeypatch.setattr(first_steps, "product_rates", lambda device: (100.0, 1.0))


def written(bench: Bench, *arguments: str) -> dict[str, Any]:
    out = bench.must("init", *arguments, "--data-root", "data")
    file = re.search(r"^(\S+): written", out, re.MULTILINE)
    assert file is not None
    found: dict[str, Any] = yaml.safe_load((bench.root / file[1]).read_text())
    return found


def test_what_is_written_runs(bench: Bench) -> None:
    rows(bench.root / "own/jan.jsonl", 12)
    rows(bench.root / "own/jan_test.jsonl", 3)
    rows(bench.root / "own/piqa.jsonl", 100, "a long answer that is " * 9)
    (bench.root / "configs").mkdir()
    files = ["own/jan.jsonl", "own/jan_test.jsonl", "own/piqa.jsonl"]
    found = written(bench, *files, "--model", "model", "--out", "configs/mine.yaml")
    assert found["name"] == "jan-piqa" and found["model"] == {
        "path": "./../model",
        "dtype": "float32",
    }
    assert found["stages"] == [
        {"data": "../own/jan.jsonl", "test": "../own/jan_test.jsonl", "epochs": 3},
        {"data": "../own/piqa.jsonl", "holdout": 0.1, "epochs": 3, "task": "own_piqa"},
    ]
    assert found["eval"]["general"] == {"tasks": ["piqa"], "budget": "quick"}
    assert found["train"] == {
        "lr": 5e-5,
        "batch_size": 4,
        "max_prompt_tokens": 32,
        "max_answer_tokens": 224,
    }
    text = (bench.root / "configs/mine.yaml").read_text()
    assert "General is scored 5 times" in text and text.count("training some") == 4
    assert found["methods"] == ["sft", {"name": "fggm", "alpha": 0.7}]
    assert "# - {name: replay, ratio: 0.1}" in text
    bench.must("run", "configs/mine.yaml", "--method", "sft")
    run = bench.root / "results/jan-piqa/sft/seed-42"
    assert list(scores_of(run / "stage-2-own_piqa")["trace"]) == ["jan", "own_piqa"]
    (gate,) = re.findall(r"^#   cl-bench (gate .*?)    ", text, re.MULTILINE)
    assert "jan-piqa/sft/stage-2 --against jan-piqa/base --margin 3" in gate
    code, _, err = bench.run("init", *files, "--model", "model", "--out", "configs/mine.yaml")
    assert code == 2 and "is there already" in err


def test_times_come_from_the_machine_and_benchmarks_from_what_is_here(bench: Bench) -> None:
    rows(bench.root / "a.jsonl", 20)
    model = ("--model", "Qwen/Qwen2-1.5B")
    found = written(bench, "a.jsonl", *model)
    assert found["train"]["lr"] == 1e-5
    assert "# - {name: lora, lr: 1.0e-04, " in (bench.root / "a.yaml").read_text()
    assert found["stages"][0]["holdout"] == 0.2 and "max_prompt_tokens" not in found["train"]
    times = []
    for rate in ("1", "100"):
        name = f"at-{rate}"
        written(bench, "a.jsonl", *model, "--name", name, "--tflops", rate)
        text = (bench.root / f"{name}.yaml").read_text()
        times.append(re.findall(r"some ([\d.]+) (s|min|h)", text)[0])
    seconds = [float(t) * {"s": 1, "min": 60, "h": 3600}[unit] for t, unit in times]
    assert seconds[0] > 20 * seconds[1] > 0
    bench.must("init", "a.jsonl", *model, "--name", "nothing", "--data-root", "nowhere")
    text = (bench.root / "nothing.yaml").read_text()
    assert "nothing/sft/stage-1 --against nothing/base --margin 21" in text
    general = yaml.safe_load(text)["eval"]["general"]
    assert (
        general["tasks"][0] == "mini_mmlu" and general["limit"] == 24 and general["after"] == "last"
    )


def test_a_model_with_a_chat_template_is_asked_in_it(bench: Bench) -> None:
    rows(bench.root / "a.jsonl", 20)
    plain = written(bench, "a.jsonl", "--model", "model", "--name", "plain")
    chatting(CHATML).save_pretrained(bench.root / "model")
    found = written(bench, "a.jsonl", "--model", "model", "--name", "talks")
    assert found["model"]["chat_template"] == "auto" and "chat_template" not in plain["model"]
    more = found["train"]["max_prompt_tokens"] - plain["train"]["max_prompt_tokens"]
    assert more == 64, "room for what the template puts around a question"
