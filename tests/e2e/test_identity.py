"""What a folder is bound to: refused before a byte is written, or harmless and accepted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

import cl_bench.experiment.run as experiment
from cl_bench.store.folders import sha256_of
from tests.e2e.conftest import Bench
from tests.helpers.tiny import tiny_model

TASK = {
    "task": "capitals",
    "dataset_path": "json",
    "training_split": "train",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "question",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "process_results": "!function marks.marks",
    "metric_list": [{"metric": "hit", "aggregation": "mean", "higher_is_better": True}],
    "generation_kwargs": {"until": [], "max_gen_toks": 4},
}
MARKS = "def marks(doc, results):\n    return {'hit': float(results[0] == doc['answer'])}\n"


def everything(folder: Path) -> dict[str, tuple[str, int]]:
    """Bytes and time of every file, the lock too."""
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def write_task(bench: Bench, **changes: Any) -> None:
    """A task of the user's own: a YAML that includes another, with a function in a file."""
    folder = bench.root / "tasks"
    folder.mkdir(exist_ok=True)
    rows = "".join(json.dumps({"question": f"q{i}?", "answer": f"{i}"}) + "\n" for i in range(6))
    (bench.root / "capitals.jsonl").write_text(rows)
    files = dict.fromkeys(("train", "test"), str(bench.root / "capitals.jsonl"))
    shared = {**TASK, "dataset_kwargs": {"data_files": files}, **changes}
    name = shared.pop("task")
    text = yaml.safe_dump(shared).replace("'!function marks.marks'", "!function marks.marks")
    (folder / "shared.inc").write_text(text)
    (folder / "capitals.yaml").write_text(f"include: shared.inc\ntask: {name}\n")
    (folder / "marks.py").write_text(MARKS)


@pytest.fixture
def begun(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An experiment that was stopped in the second stage of its only run."""
    write_task(bench)
    bench.write_config(
        methods=["sft"],
        task_paths=["tasks"],
        stages=[{"task": "FOMC", "limit": 8}, {"task": "capitals"}],
    )
    real = experiment.run_stage

    def stopped(work: Any, run: Any, place: Any, position: int) -> None:
        if position == 1:
            raise KeyboardInterrupt
        real(work, run, place, position)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_stage", stopped)
        assert bench.run("run", "tiny.yaml")[0] == 130
    return bench


def edit(file: Path, **changes: str) -> None:
    rows = json.loads(file.read_text())
    rows[0] |= changes
    file.write_text(json.dumps(rows))


def other_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(folder)


def other_weights(folder: Path) -> None:
    tiny_model(seed=9).save_pretrained(folder)


def edit_piqa(bench: Bench) -> None:
    file = bench.root / "data/general/piqa/test.jsonl"
    file.write_text(file.read_text().replace('"label": 0', '"label": 1'))


CHANGES: list[tuple[str, Callable[[Bench], object], list[str]]] = [
    (
        "a training row",
        lambda b: edit(b.root / "data/trace/FOMC/train.json", answer="Z"),
        ["data: other training rows (seed 1) of trace_fomc (sft/seed-1)"],
    ),
    (
        "test rows",
        lambda b: [edit(b.root / f"data/trace/FOMC/{s}.json", prompt="New?") for s in ("test",)],
        ["data: other test documents of trace_fomc (base, sft/seed-1)"],
    ),
    (
        "rows of General",
        edit_piqa,
        ["data: other test documents of general_piqa (base, sft/seed-1)"],
    ),
    (
        "a prompt template",
        lambda b: write_task(b, doc_to_text="Say: {{question}}", description="Now. "),
        ["task capitals: its definition differs in", "description, doc_to_text"],
    ),
    (
        "a function of a task",
        lambda b: (b.root / "tasks/marks.py").write_text(MARKS.replace("==", ".strip() ==")),
        ["task capitals: its definition differs in process_results (base, sft/seed-1)"],
    ),
    (
        "weights",
        lambda b: other_weights(b.root / "model"),
        ["model.path: not the same weights: model.safetensors (base, sft/seed-1)"],
    ),
    (
        "tokenizer",
        lambda b: other_tokenizer(b.root / "model"),
        ["model.path: not the same tokenizer: tokenizer"],
    ),
]


def test_what_was_changed_is_named_and_nothing_is_written(begun: Bench, tmp_path: Path) -> None:
    """One experiment, each change on a copy; also when only a method or a seed is added."""
    more_of_it = cycle(
        ([], ["-o", "methods=[sft,migu]", "--method", "migu"], ["-o", "seeds=[1,2]"])
    )
    pristine = tmp_path.with_name(f"{tmp_path.name}-pristine")
    shutil.copytree(begun.root, pristine)
    for what, change, said in CHANGES:
        shutil.rmtree(begun.root / "data")
        for part in ("data", "tasks", "model"):
            shutil.rmtree(begun.root / part, ignore_errors=True)
            shutil.copytree(pristine / part, begun.root / part)
        change(begun)
        before = everything(begun.results)
        for more in islice(more_of_it, 3 if change is CHANGES[0][1] else 1):
            code, out, err = begun.run("run", "tiny.yaml", *more)
            assert (code, out) == (2, ""), (what, more, err)
            for text in said:
                assert text in err, (what, more, err)
            assert "delete" not in err
            assert everything(begun.results) == before, what


def test_other_settings_are_named_and_nothing_is_written(begun: Bench) -> None:
    before = everything(begun.results)
    fomc, capitals = {"task": "FOMC", "limit": 8}, {"task": "capitals"}
    for changes, said in (
        ([("train.lr", 0.5)], "train.lr: was 0.001, is 0.5 (sft/seed-1)"),
        ([("model.dtype", "bfloat16")], 'model.dtype: was "float32", is "bfloat16" (base, sft/se'),
        ([("eval.trace.limit", 5)], "eval.trace.limit: was 6, is 5 (base, sft/seed-1)"),
        (
            [("train.max_answer_tokens", 3)],
            "train.max_answer_tokens: was 4, is 3 (base, sft/s",
        ),
        ([("eval.general.limit", 3)], "eval.general.limit.piqa: was 4, is 3 (base, sft/seed-1)"),
        ([("stages.1.epochs", 3)], "epochs: was 1, is 3, stage 2 (sft/seed-1)"),
        (
            [("stages", [fomc, {"task": "mini_fomc"}, capitals]), ("train.lr", 1)],
            "stages: were trace_fomc, capitals; are trace_fomc, mini_fomc, capitals (base, sft/",
        ),
        (
            [("stages", [capitals, fomc])],
            "stages: were trace_fomc, capitals; are capitals, trace_fomc (base, sft/seed-1)",
        ),
        ([("methods", ["ewc"]), ("eval.general.limit", 3)], "eval.general.limit.piqa: was 4"),
    ):
        words = [word for k, v in changes for word in ("-o", f"{k}={json.dumps(v)}")]
        code, out, err = begun.run("run", "tiny.yaml", *words)
        assert (code, out) == (2, ""), err
        code, _, told = begun.run("plan", "tiny.yaml", *words)
        assert code == 2 and told.splitlines()[-1] == err.splitlines()[-1] and said in told
        assert said in err and "another name:" in err and "delete" not in err, err
        assert everything(begun.results) == before


def test_what_is_harmless_is_accepted(begun: Bench) -> None:
    """Moved data, model, tasks; comments; where a value is written; more of everything."""
    for part in ("data", "model", "tasks"):
        shutil.move(begun.root / part, begun.root / f"moved-{part}")
    marks = begun.root / "moved-tasks/marks.py"
    marks.write_text(f'"""Marks."""\n# by hand\n{MARKS}')
    run = begun.results / "sft/seed-1/run.json"
    record = json.loads(run.read_text())
    scored = (begun.results / "base/scores.json").read_bytes()
    begun.write_config(
        model={"path": "moved-model", "dtype": "float32"},
        data_root="moved-data",
        task_paths=["moved-tasks"],
        seeds=[2, 1],
        methods=["ewc", {"name": "sft", "lr": 1e-3}],
    )
    begun.must("run", "tiny.yaml", "--method", "sft")
    assert (begun.results / "base/scores.json").read_bytes() == scored
    assert json.loads(run.read_text()) == record
    assert record["inputs"]["model"]["files"].keys() >= {"model.safetensors", "config.json"}
    new = json.loads((begun.results / "sft/seed-2/run.json").read_text())
    assert new["inputs"] == record["inputs"]
    assert new["data"]["capitals"].keys() == {"test", "train (seed 1)", "train (seed 2)"}


def test_a_run_that_finished_no_stage_is_bound_to_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    bench.write_config(methods=["sft"])
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_stage", stopped)
        assert bench.run("run", "tiny.yaml")[0] == 130
    edit(bench.root / "data/trace/FOMC/train.json", answer="Z")
    bench.must("run", "tiny.yaml", "-o", "train.lr=0.01")
    record = json.loads((bench.results / "sft/seed-1/run.json").read_text())
    assert record["config"]["stages"][0]["train"]["lr"] == 0.01


def test_a_folder_of_an_older_version(begun: Bench) -> None:
    """It records no weights, tokenizer, definitions; of rows those of its runs; no newer keys."""
    run, base = begun.results / "sft/seed-1/run.json", begun.results / "base/scores.json"
    for file in (run, base):
        data = json.loads(file.read_text())
        del data["inputs"]
        if file == base:
            for key in ("data", "files", "sha256"):
                del data[key]
        else:
            del data["config"]["stages"][0]["train"]["warmup_steps"]
            del data["config"]["stages"][1]["origins"]
            data["sha256"] = sha256_of(data["config"])
            del data["seal"]
        file.write_text(json.dumps(data))
    old = run.read_bytes()
    moved = json.loads((begun.root / "data/trace/FOMC/train.json").read_text())
    edit(begun.root / "data/trace/FOMC/train.json", answer="Z")
    code, _, err = begun.run("run", "tiny.yaml")
    assert code == 2 and "other training rows (seed 1) of trace_fomc" in err
    (begun.root / "data/trace/FOMC/train.json").write_text(json.dumps(moved))
    code, _, err = begun.run("run", "tiny.yaml")
    assert code == 0, err
    assert "base, sft/seed-1: of an older version that did not record weights" in err
    assert run.read_bytes() == old
