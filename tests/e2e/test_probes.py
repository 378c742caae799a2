"""Probes as a user meets them: in scores.json, beside the predictions and in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks import probes as probes_benchmark
from cl_bench.scores.uncertainty import mean, standard_error
from cl_bench.store.experiments import write_run
from cl_bench.store.folders import sha256_of
from cl_bench.store.seals import write_sealed
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.read import lines_of, scores_of
from tests.helpers.tiny import byte_tokenizer

SFT = ("--method", "sft")
LAST = "sft/seed-1/stage-2-trace_numglue_ds"


def records_of(folder: Path, task: str) -> list[dict[str, Any]]:
    return lines_of(folder / "predictions" / f"{task}.probes.jsonl")


def test_every_scoring_is_probed_and_reported(bench: Bench) -> None:
    bench.trained()
    out = bench.report()
    base, last = bench.results / "base", bench.results / LAST
    for folder in (base, last):
        probes = scores_of(folder)["probes"]
        fomc, numbers = probes["trace"]["trace_fomc"], probes["trace"]["trace_numglue_ds"]
        assert set(fomc) == {"nll", "constrained", "valid_format", "kl", "reverse_kl"}
        assert set(numbers) == {"nll", "valid_format", "kl", "reverse_kl"}
        assert set(probes["general"]["piqa"]) == {"nll"}
        values = [record["nll"] for record in records_of(folder, "trace_fomc")]
        assert fomc["nll"] == {"mean": mean(values), "stderr": standard_error(values), "n": 6}
        assert probes["trace_nll"]["mean"] == mean([fomc["nll"]["mean"], numbers["nll"]["mean"]])
        assert probes["general_nll"]["n"] == 4
        assert (probes["kl"]["n"], probes["kl"]["positions"]) == (4, 32)
    assert scores_of(base)["probes"]["kl"]["mean"] == 0
    moved = scores_of(last)["probes"]["kl"]
    texts = [mean(record["kl"]) for record in records_of(last, "general_piqa")]
    assert moved["mean"] == pytest.approx(mean(texts)) and moved["mean"] > 1e-6
    learned = [scores_of(folder)["probes"]["trace_nll"]["mean"] for folder in (base, last)]
    assert learned[1] < learned[0]
    section = out.split("## Probes")[1].split("\n## ")[0]
    rows, compared = section.split("After the last stage")
    assert rows.count("\n| sft ") == rows.count("\n| fggm ") == 2
    assert "| base " in rows and f"{moved['mean']:.4f} ± {moved['stderr']:.4f}" in rows
    for probe in ("KL to base", "General NLL", "stage NLL"):
        assert f"| {probe} " in compared


def test_the_new_tasks_own_text_stands_beside_the_loss_of_general(bench: Bench) -> None:
    bench.trained()
    out = bench.report()
    base, last = bench.results / "base", bench.results / LAST
    numbers = scores_of(last)["probes"]["trace"]["trace_numglue_ds"]
    records = records_of(last, "trace_numglue_ds")
    assert all(len(record["kl"]) == len(record["positions"]) <= 8 for record in records)
    for key in ("kl", "reverse_kl"):
        assert numbers[key]["mean"] == pytest.approx(mean([mean(r[key]) for r in records]))
        assert numbers[key]["mean"] > 1e-6 and numbers[key]["n"] == 6
        assert scores_of(base)["probes"]["trace"]["trace_numglue_ds"][key]["mean"] == 0
    kept = load_file(base / "kl" / "trace_numglue_ds.safetensors")
    decode = byte_tokenizer().decode
    texts = {i: decode(kept[f"{i}.ids"].tolist()) for i in range(12) if f"{i}.ids" in kept}
    assert texts == {i: f"{i} + 1\nAnswer:{i + 1}" for i in texts} and len(texts) == 6
    section = out.split("## KL on the new task against the loss of General")[1].split("\n## ")[0]
    assert "over 4 points" in section
    assert f"| {numbers['kl']['mean']:.4f} ± {numbers['kl']['stderr']:.4f} |" in section
    points = json.loads((bench.results / "kl-general.json").read_text())["points"]
    assert [(p["method"], p["stage"]) for p in points] == [
        *(("sft", 1), ("sft", 2), ("fggm", 1), ("fggm", 2))
    ]
    assert "no record names it" not in bench.must("verify")


def test_its_text_can_be_left_out_and_older_runs_without_it_go_on(bench: Bench) -> None:
    bench.must("run", "tiny.yaml", *SFT, "-o", "eval.probes.kl_task_texts=0")
    out = bench.report()
    assert "kl" not in scores_of(bench.results / LAST)["probes"]["trace"]["trace_fomc"]
    assert "## KL on the new task" not in out
    code, _, err = bench.run("run", "tiny.yaml", *SFT)
    assert code == 2 and "eval.probes.kl_task_texts: was 0, is 16" in err
    forget_the_key(bench.results / "base" / "scores.json")
    for file in bench.results.glob("*/seed-*/run.json"):
        forget_the_key(file)
    assert "sft" in bench.must("run", "tiny.yaml", *SFT)


def forget_the_key(file: Path) -> None:
    """Make a record like those of a version that did not know `kl_task_texts`."""
    data = json.loads(file.read_text())
    if file.name == "run.json":
        del data["config"]["eval"]["probes"]["kl_task_texts"]
        write_run(file, {**data, "sha256": sha256_of(data["config"])})
    else:
        del data["settings"]["probes"]["kl_task_texts"]
        write_sealed(file, {key: value for key, value in data.items() if key != "sha256"})


def test_the_base_model_is_kept_once_and_serves_a_run_that_goes_on(bench: Bench) -> None:
    bench.trained(*SFT)
    whole = fingerprints(bench.results)
    file = bench.results / "base" / "kl" / "general_piqa.safetensors"
    written = file.stat().st_mtime_ns
    kept = load_file(file)
    assert {tuple(kept[f"{i}.log_p"].shape) for i in range(6) if f"{i}.log_p" in kept} == {(8, 259)}
    shutil.rmtree(bench.results / LAST)
    bench.must("run", "tiny.yaml", *SFT)
    assert file.stat().st_mtime_ns == written
    assert fingerprints(bench.results) == whole


def test_probes_can_be_switched_off(bench: Bench) -> None:
    bench.must("run", "tiny.yaml", *SFT, "-o", "eval.probes=false")
    assert "## Probes" not in bench.report()
    assert scores_of(bench.results / LAST)["probes"] == {}
    assert not list(bench.results.rglob("*.probes.jsonl"))
    assert not (bench.results / "base" / "kl").exists()
    code, _, err = bench.run("run", "tiny.yaml", *SFT)
    assert code == 2 and "eval.probes: was null" in err


def test_without_texts_only_the_divergence_is_missing(bench: Bench) -> None:
    bench.must("run", "tiny.yaml", *SFT, "-o", "eval.probes.kl_texts=0")
    probes = scores_of(bench.results / LAST)["probes"]
    assert "kl" not in probes
    assert {"trace_nll", "general_nll"} <= set(probes)


def test_the_engine_that_answers_changes_no_probe(bench: Bench) -> None:
    for engine in ("cl-bench", "hf"):
        bench.must("run", "tiny.yaml", "--engine", engine, "-o", f"name={engine}", *SFT)
    ours, theirs = (
        [
            record
            for task in ("trace_fomc", "trace_numglue_ds", "general_piqa")
            for record in records_of(bench.root / "results" / engine / "base", task)
        ]
        for engine in ("cl-bench", "hf")
    )
    assert [r["doc_id"] for r in ours] == [r["doc_id"] for r in theirs]
    assert [r["nll"] for r in ours] == pytest.approx([r["nll"] for r in theirs], abs=1e-4)
    assert [r.get("label") for r in ours] == [r.get("label") for r in theirs]


def test_eval_probes_again_and_finds_the_base_model(bench: Bench) -> None:
    bench.trained(*SFT)
    file = Path(bench.must("eval", "--stage", "2", "--task", "piqa", "--limit", "2").strip())
    again = json.loads(file.read_text())["probes"]
    assert again["general"]["piqa"]["nll"]["n"] == 2
    assert again["kl"] == scores_of(bench.results / LAST)["probes"]["kl"]


def test_a_wrong_key_names_the_nearest(bench: Bench) -> None:
    code, _, err = bench.run("plan", "tiny.yaml", "-o", "eval.probes.kl_text=3")
    assert code == 2
    assert "eval.probes.kl_text: unknown key (did you mean 'kl_texts'?)" in err


def test_the_benchmark_measures_what_a_run_does(bench: Bench) -> None:
    probes_benchmark.main(["tiny.yaml"])
    out = bench.capture.readouterr().out
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == [
        "trace_fomc",
        "trace_numglue_ds",
        "piqa",
        "KL alone, 0 MB kept",
    ]
