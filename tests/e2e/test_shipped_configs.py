"""`configs/glue.yaml` and `configs/code.yaml` with data: planned, trained, scored, reported."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.e2e.conftest import Bench
from tests.e2e.test_code_execution import problem, pytestmark  # noqa: F401

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"lr": 1e-3, "batch_size": 4, "max_prompt_tokens": 160, "max_answer_tokens": 40}


def small(bench: Bench, config: str, **changes: object) -> None:
    """`small.yaml`: a shipped config with the tiny model and few examples."""
    shipped = yaml.safe_load((CONFIGS / config).read_text())
    few = [{**stage, "epochs": 1, "limit": 4} for stage in shipped["stages"]]
    for stage in few:
        stage.pop("test_limit", None)
    model = {"path": "./model", "dtype": "float32"}
    ours = {"extends": str(CONFIGS / config), "name": "small", "model": model, "train": SMALL}
    ours |= {"data_root": "data", "stages": few, **changes}
    (bench.root / "small.yaml").write_text(yaml.safe_dump(ours))


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_glue(bench: Bench) -> None:
    texts = [f"number {i}" for i in range(4)]
    rows: dict[str, list[dict[str, object]]] = {
        "sst2": [{"sentence": text, "label": i % 2} for i, text in enumerate(texts)],
        "mrpc": [{"sentence1": t, "sentence2": t, "label": i % 2} for i, t in enumerate(texts)],
        "mnli": [
            {"sentence": f"sentence 1: {t}\nsentence 2: No", "label": "neutral"} for t in texts
        ],
    }
    for task, some in {**rows, "cola": rows["sst2"]}.items():
        for split in ("train", "test"):
            write(bench.root / f"data/glue/{task}/{split}.jsonl", some)
    small(
        bench,
        "glue.yaml",
        eval={"trace": {"after": "last", "limit": 4}, "general": {"after": "never"}},
    )
    assert "not checked" not in bench.must("plan", "small.yaml")
    bench.must("run", "small.yaml", "--method", "fggm")
    scores = json.loads((bench.root / "results/small/base/scores.json").read_text())
    assert scores["trace"].keys() == {f"glue_{task}" for task in ("sst2", "mrpc", "cola", "mnli")}
    assert scores["trace"]["glue_cola"]["aggregation"] == "matthews_corrcoef"
    report = bench.must("report", "small", "--full")
    assert "studies of forgetting on these four tasks of GLUE" in report


def test_code(bench: Bench) -> None:
    programs = [{"instruction": f"Add {i}.", "response": f"x + {i}"} for i in range(4)]
    write(bench.root / "data/code/magicoder_evol/train.jsonl", programs)
    write(bench.root / "data/code/humaneval/test.jsonl", [problem(1)])
    small(bench, "code.yaml", eval={"general": {"tasks": ["humaneval"], "after": "every"}})
    changes = ("-o", "eval.within_stage.tasks=[humaneval]")
    assert "not checked" not in bench.must("plan", "small.yaml", *changes)
    code, _, err = bench.run("run", "small.yaml", *changes)
    assert code == 2 and "--allow-code-execution" in err
    bench.must("run", "small.yaml", *changes, "--method", "sft", "--allow-code-execution")
    report = bench.must("report", "small", "--full")
    assert "humaneval (1 document)" in report and "Figure 2, Qwen2-0.5B" in report
