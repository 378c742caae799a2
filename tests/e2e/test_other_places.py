"""Models, adapters and engines that are not where, or what, they were."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench
from tests.helpers.tiny import byte_tokenizer, tiny_model


@pytest.fixture
def adapted(bench: Bench) -> Bench:
    """Two stages of LoRA on `models/tiny`, named without `./`, as a hub id would be."""
    (bench.root / "models").mkdir()
    (bench.root / "model").rename(bench.root / "models" / "tiny")
    bench.write_config(
        model={"path": "models/tiny", "dtype": "float32"},
        methods=["lora"],
        stages=[{"task": "FOMC", "limit": 4}, {"task": "trace_numglue_ds", "limit": 4}],
        eval={"trace": {"limit": 4}, "general": {"after": "never"}, "probes": {"kl_texts": 0}},
    )
    bench.must("run", "tiny.yaml")
    return bench


def put_model(folder: Path, seed: int) -> None:
    tiny_model(seed=seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def scores(file: str) -> object:
    return json.loads(Path(file.strip()).read_text())["probes"]


def test_a_model_beside_the_config_is_found_from_anywhere(
    adapted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another model has the same relative path, after a move, and refused when it differs."""
    again = ("eval", "--method", "lora", "--stage", "2")
    elsewhere = adapted.root / "elsewhere"
    put_model(elsewhere / "models" / "tiny", seed=9)
    own = scores(str(adapted.results / "lora/seed-1/stage-2-trace_numglue_ds/scores.json"))
    monkeypatch.chdir(elsewhere)
    assert scores(adapted.must(*again[:1], str(adapted.results), *again[1:])) == own
    out = adapted.must("run", str(adapted.config), "--results", str(adapted.root / "results"))
    assert "Model `tiny`, 2 stages" in out
    assert str(adapted.root) not in (adapted.results / "report.md").read_text()

    moved = adapted.root.with_name("moved")
    monkeypatch.chdir("/")
    adapted.root.rename(moved)
    shutil.rmtree(moved / "results/tiny/lora/seed-1/stage-2-trace_numglue_ds/evals")
    results = moved / "results" / "tiny"
    assert scores(adapted.must(again[0], str(results), *again[1:])) == own
    adapted.must("run", str(moved / "tiny.yaml"), "--results", str(moved / "results"))

    # The model alone is moved: the config says where, and the adapter finds it there too.
    (moved / "models").rename(moved / "kept")
    code, _, err = adapted.run(again[0], str(results), *again[1:], "--limit", "2")
    assert code == 2 and "that this adapter was trained on is not there" in err
    config = (moved / "tiny.yaml").read_text().replace("models/tiny", "kept/tiny")
    (moved / "tiny.yaml").write_text(config)
    adapted.must("run", str(moved / "tiny.yaml"), "--results", str(moved / "results"))
    adapted.must(again[0], str(results), *again[1:], "--limit", "2")

    put_model(moved / "kept" / "tiny", seed=9)
    before = sorted(results.rglob("*"))
    code, _, err = adapted.run(again[0], str(results), *again[1:], "--limit", "3")
    assert code == 2 and "kept/tiny has other weights (model.safetensors)" in err
    assert sorted(results.rglob("*")) == before
    os.chdir(moved)


def test_eval_is_bound_to_rows_and_definitions(bench: Bench) -> None:
    bench.write_config(
        methods=["sft"],
        stages=[{"task": "FOMC", "limit": 4}],
        eval={"trace": {"limit": 6}, "general": {"tasks": ["piqa"], "limit": 4}, "probes": False},
    )
    bench.must("run", "tiny.yaml")
    shutil.copytree(bench.root / "data", bench.root / "other")
    for root in ("data", "other"):
        file = bench.root / root / "trace/FOMC/test.json"
        file.write_text(file.read_text().replace("Text 0", "Text zero").replace("Text 1", "One"))
    folder = bench.results / "sft/seed-1/stage-1-trace_fomc"
    before = sorted(folder.rglob("*"))
    code, _, err = bench.run("eval", "--stage", "1", "--limit", "2")
    assert code == 2 and "data: other test documents of trace_fomc (since the run)" in err
    assert sorted(folder.rglob("*")) == before
    bench.must("eval", "--stage", "1", "--task", "piqa")  # what did not change is scored
    code, out, err = bench.run("eval", "--stage", "1", "--data-root", "other")
    assert code == 0 and "trace_fomc: scored and recorded as such" in err
    found = json.loads(Path(out.strip()).read_text())
    assert found["other_rows"] == ["data: other test documents of trace_fomc"]
    assert found["data"].keys() == {"trace_fomc", "general_piqa"}

    # D17: every engine is named where more than one answered.
    scored = folder / "scores.json"
    scored.unlink()
    for file in ("train", "test"):
        path = bench.root / f"data/trace/FOMC/{file}.json"
        path.write_text(path.read_text().replace("Text zero", "Text 0").replace("One", "Text 1"))
    out = bench.must("run", "tiny.yaml", "--engine", "hf")
    assert "engines: `cl-bench` (base model); `hf` (sft stage 1)." in out
