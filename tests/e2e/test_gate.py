"""`cl-bench gate` on invented stages and on tiny model folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import cl_bench
from cl_bench.gate import sides
from cl_bench.gate.sides import Side
from tests.e2e.conftest import Bench
from tests.helpers.invented_runs import Invented
from tests.helpers.rendered import must_render
from tests.helpers.templates import CHATML, LLAMA2, chatting
from tests.helpers.tiny import byte_tokenizer, tiny_model

METHODS = {"lost": (0.2, 0.5), "same": (0.0, 0.3)}


@pytest.fixture
def stages(bench: Bench) -> Bench:
    Invented(methods=METHODS, benchmarks={"mmlu": 400, "piqa": 600}).write(bench.root / "results")
    return bench


def test_stages_pass_fail_or_are_too_few(stages: Bench) -> None:
    command = ("gate", "same/stage-3", "--against", "base", "--margin")
    files = {name: stages.root / name for name in ("gate.xml", "gate.md")}
    written = ("--junit", str(files["gate.xml"]), "--markdown", str(files["gate.md"]))
    code, out, _ = stages.run(*command, "5", *written)
    assert code == 0 and out.startswith("# Gate: pass\n")
    assert files["gate.md"].read_text() == out
    (rows,) = must_render(out)
    assert [row[:2] for row in rows[1:]] == [[n, "pass"] for n in ("mmlu", "piqa", "pooled")]
    suite = ElementTree.parse(files["gate.xml"]).getroot()
    assert [case.get("name") for case in suite] == ["mmlu", "piqa", "pooled"]
    assert suite.get("failures") == "0" and not list(suite.iter("skipped"))
    code, out, _ = stages.run(*command, "2", *written)
    assert code == 3 and "| not enough documents |" in out
    assert "piqa: 600 documents; if nothing dropped, all of them pass margins from 2." in out
    assert len(list(ElementTree.parse(files["gate.xml"]).getroot().iter("skipped"))) == 1
    code, out, _ = stages.run(
        "gate", "lost/stage-3", "--against", "base", "--margin", "3", *written
    )
    assert code == 1 and out.startswith("# Gate: FAIL\n") and "Lost of mmlu: general_mmlu " in out
    assert ElementTree.parse(files["gate.xml"]).getroot().get("failures") == "3"


def test_json_has_the_documents_that_were_lost(stages: Bench) -> None:
    code, out, _ = stages.run(
        "gate", "lost/stage-3", "--against", "base", "--margin", "3", "--task", "piqa", "--json"
    )
    found = json.loads(out)
    assert code == 1 and found["verdict"] == "fail"
    (only,) = found["findings"]
    diff = json.loads(stages.must("diff", "base", "lost/stage-3", "--task", "piqa", "--json"))
    (task,) = diff["tasks"].values() if isinstance(diff["tasks"], dict) else diff["tasks"]
    assert only["drop"] == pytest.approx(-task["difference"]["difference"])
    assert [one["key"] for one in found["lost"]["piqa"]] == task["forgotten"]
    assert found["gained"] == {"piqa": task["n_learned"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--margin", "0.1"), "piqa: 600 documents can show no margin below 0.45 points"),
        (("--margin", "-1"), "--margin -1: points, from 0 to below 100"),
        (("--margin", "3", "--budget", "1m"), "--budget: for model folders"),
        (("--margin", "3", "--limit", "9"), "--limit: for model folders"),
        (("--margin", "3", "--task", "boolk"), "--task boolk: not in"),
        (("--margin", "3", "--junit", "nowhere/x.xml"), "--junit nowhere/x.xml: nowhere is not"),
    ],
)
def test_what_is_refused(stages: Bench, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = stages.run("gate", "same/stage-3", "--against", "base", *arguments)
    assert code == 2 and said in err and not out


def test_stages_that_are_not_alike_are_refused(stages: Bench) -> None:
    results = stages.root / "results"
    Invented(name="other", marks="x", benchmarks={"mmlu": 400, "piqa": 600}).write(results)
    newer = Invented(name="newer", how={"harness_version": "0.5"}, benchmarks={"mmlu": 400})
    newer.write(results)
    next((results / "invented/lost").glob("seed-*/stage-3-*/scores.json")).unlink()
    for new, said in (
        ("other/base", "mmlu: not the same documents"),
        ("newer/base", "mmlu: not measured alike: harness_version 0.4.13 in OLD, 0.5 in NEW"),
        ("invented/same/stage-9", "no 'stage-9'"),
        ("invented/lost/stage-3", "not scored to the end"),
    ):
        code, _, err = stages.run("gate", new, "--against", "invented/base", "--margin", "3")
        assert code == 2 and said in err, err


@pytest.fixture
def models(bench: Bench) -> Bench:
    """`old/`, `same/` with small noise, `other/` with other weights and one token more."""
    for name, seed in (("old", 0), ("same", 0), ("other", 1)):
        tokenizer = byte_tokenizer()
        model = tiny_model(vocab_size=260, seed=seed)
        if name == "other":
            tokenizer.add_tokens(["<x>"])
        if name == "same":
            with torch.no_grad():
                next(model.parameters()).add_(1e-6)
        model.save_pretrained(bench.root / name)
        tokenizer.save_pretrained(bench.root / name)
    rows = [{"goal": f"g{i}", "sol1": "yes", "sol2": "no", "label": i % 2} for i in range(200)]
    file = bench.root / "data/general/piqa/test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return bench


def test_model_folders_are_scored_until_it_is_decided(models: Bench) -> None:
    tasks = ("--task", "piqa", "--task", "mini_boolq", "--data-root", "data", "--dtype", "float32")
    command = ("gate", "same", "--against", "old", *tasks, "--json")
    code, out, err = models.run(*command, "--margin", "15")
    found = json.loads(out)
    assert code == 0 and found["verdict"] == "pass", (found, err)
    assert [each["name"] for each in found["findings"]] == ["piqa", "mini_boolq", "pooled"]
    first, *_ = found["findings"]
    assert first["n"] == 50 < first["of"] == 200 and first["drop"] == 0
    assert found["notes"] == [] and found["lost"]["piqa"] == []
    code, out, _ = models.run(
        "gate", "other", "--against", "old", *tasks, "--margin", "6", "--json"
    )
    found = json.loads(out)
    assert code == {"pass": 0, "fail": 1, "undecided": 3}[found["verdict"]]
    assert "different tokenizers" in found["notes"][0]
    for name in ("piqa", "mini_boolq"):
        (each,) = [one for one in found["findings"] if one["name"] == name]
        lost = len(found["lost"][name])
        assert each["drop"] == pytest.approx((lost - found["gained"][name]) / each["n"])


def test_an_interrupted_gate_goes_on(models: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same looks; and where memory has room for one model, they are loaded by turns."""
    tasks = ("--task", "piqa", "--task", "mini_boolq", "--data-root", "data", "--dtype", "float32")
    command = ("gate", "other", "--against", "old", *tasks, "--margin", "6", "--json")
    loaded, answered = [], []
    load, answer = sides.load_model, Side.scores

    def loading(path: str, *given: Any) -> Any:
        loaded.append(Path(path).name)
        return load(path, *given)

    def answering(side: Side, unit: Any, look: int) -> Any:
        if len(answered) == 5:
            raise KeyboardInterrupt
        answered.append((side.path, unit.name, look))
        return answer(side, unit, look)

    monkeypatch.setattr(sides, "load_model", loading)
    code, whole, _ = models.run(*command)
    assert code in (0, 1, 3) and loaded == ["old", "other"]
    assert models.run(*command)[:2] == (code, whole) and loaded == ["old", "other"]
    shutil.rmtree(models.root / "results/gates")
    monkeypatch.setattr(Side, "scores", answering)
    assert models.run(*command)[0] == 130
    first = list(answered)
    answered.clear()
    monkeypatch.setattr(Side, "scores", answer)
    monkeypatch.setattr(sides, "free_bytes", lambda device: 0)
    loaded.clear()
    assert models.run(*command)[:2] == (code, whole)
    looks = len(list((models.root / "results/gates").glob("old-*/look-*")))
    assert first[:4] == [(m, t, 0) for m in ("old", "other") for t in ("piqa", "mini_boolq")]
    assert loaded == ["other", "old"] * ((looks - 1) // 2), "each look begins with what is there"


def test_what_a_model_answered_is_bound_to_it(models: Bench) -> None:
    tasks = ("--task", "piqa", "--data-root", "data", "--dtype", "float32", "--margin", "15")
    command = ("gate", "same", "--against", "old", *tasks)
    models.must(*command)
    (kept,) = (models.root / "results/gates").glob("same-*/look-1/predictions/general_piqa.jsonl")
    before = kept.read_text()
    kept.write_text(before.replace("1.0", "0.0"))
    models.must(*command)
    assert kept.read_text() == before, "a file that was changed is scored again"
    with torch.no_grad():
        model = tiny_model(vocab_size=260, seed=3)
    model.save_pretrained(models.root / "same")
    models.run(*command)
    assert len(list((models.root / "results/gates").glob("same-*"))) == 2


def test_model_folders_are_asked_in_one_chat_template(bench: Bench) -> None:
    for name, template in (("old", CHATML), ("new", CHATML), ("other", LLAMA2)):
        tiny_model(262).save_pretrained(bench.root / name)
        chatting(template).save_pretrained(bench.root / name)
    command = ("gate", "--against", "old", "--task", "mini_boolq", "--margin", "30")
    rest = ("--dtype", "float32", "--json")
    code, _, err = bench.run(*command, "new", *rest, "--chat-template", "auto")
    assert code == 0 and "not used" not in err, err
    code, _, err = bench.run(*command, "new", *rest)
    assert code == 0 and err.count("has a chat template, which is not used") == 2, err
    code, _, err = bench.run(*command, "other", *rest, "--chat-template", "auto")
    assert code == 2 and "old and other have other templates" in err, err
    (bench.root / "both.jinja").write_text(CHATML)
    assert bench.run(*command, "other", *rest, "--chat-template", "both.jinja")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("old", "--margin", "3"), "mini_piqa: 48 documents can show no margin below 5.34"),
        (("old", "--margin", "9", "--budget", "soon"), "--budget soon: a time such as 90s"),
        (("results", "--margin", "9"), "old is a model folder and results is none"),
    ],
)
def test_models_that_are_refused(models: Bench, arguments: tuple[str, ...], said: str) -> None:
    new, *rest = arguments
    code, _, err = models.run("gate", new, "--against", "old", "--task", "mini_piqa", *rest)
    assert code == 2 and said in err, err


def test_stages_are_gated_without_torch(stages: Bench) -> None:
    code = (
        "import sys; from cl_bench.cli import run_command; code = run_command(['gate', "
        "'same/stage-3', '--against', 'base', '--margin', '5']); assert code == 0, code; "
        "assert not {'torch', 'transformers', 'lm_eval'} & set(sys.modules)"
    )
    path = {**os.environ, "PYTHONPATH": str(Path(cl_bench.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=stages.root, capture_output=True, env=path)
    assert done.returncode == 0, done.stderr.decode()
