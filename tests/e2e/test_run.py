"""The commands as a user gives them, on a tiny model."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from cl_bench.cli import run_command
from cl_bench.store.experiments import read_experiment, write_experiment
from tests.e2e.conftest import Bench, fingerprints, write_task
from tests.helpers.forked import watched
from tests.helpers.rendered import must_render


def run(bench: Bench, *more: str) -> str:
    """A run that must succeed; returns what it printed."""
    code, out, err = bench.run("run", "tiny.yaml", *more)
    assert code == 0, err
    return out


def test_a_run_writes_what_the_design_says_and_reports_it(bench: Bench) -> None:
    out = bench.trained()
    for method in ("sft", "fggm"):
        folder = bench.results / method / "seed-1"
        record = json.loads((folder / "run.json").read_text())
        assert record["config"]["stages"][0]["tasks"] == ["trace_fomc"]
        assert {"sha256", "git", "packages", "hardware", "data"} <= record.keys()
        assert str(bench.root) not in json.dumps(record)
        for number, task in ((1, "trace_fomc"), (2, "trace_numglue_ds")):
            stage = folder / f"stage-{number}-{task}"
            scores = json.loads((stage / "scores.json").read_text())
            assert (scores["stage"], scores["task"]) == (number, task)
            assert list(scores["trace"]) == ["trace_fomc", "trace_numglue_ds"][:number]
            assert scores["trace"][task]["n"] == 6
            assert scores["general"]["mean"] == scores["general"]["piqa"]["score"]
            lines = (stage / "train.jsonl").read_text().splitlines()
            assert len(lines) == (2 if number == 1 else 6)
            assert {"step", "loss", "lr", "grad_norm", "tokens"} <= json.loads(lines[0]).keys()
            predictions = (stage / "predictions" / f"{task}.jsonl").read_text().splitlines()
            assert {"doc_id", "prompt_hash", "target", "prediction", "score"} == json.loads(
                predictions[0]
            ).keys()
            choices = (stage / "predictions" / "general_piqa.jsonl").read_text().splitlines()
            for record in map(json.loads, choices):
                best = max(record["loglikelihoods"])
                assert record["loglikelihoods"].index(best) == record["choice"]
                assert record["score"] == (record["choice"] == record["target"])
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["op_final"]["value"] is not None
        assert summary["bwt"]["value"] is not None
    base = json.loads((bench.results / "base" / "scores.json").read_text())
    assert list(base["trace"]) == ["trace_fomc", "trace_numglue_ds"]
    assert (bench.results / "report.md").read_text() == out
    must_render(out)
    full = bench.report()
    assert "| ori (base)" in full and "| fggm" in full and "| FOMC " in full
    assert (bench.results / "report-full.md").read_text() == full
    assert len(must_render(full)) >= 8
    assert "Inside the stages" not in full


def test_a_finished_run_is_not_run_again(bench: Bench) -> None:
    bench.trained("--method", "sft")
    before = {p: p.stat().st_mtime_ns for p in bench.results.rglob("*") if p.name != ".lock"}
    run(bench, "--method", "sft")
    for path, when in before.items():
        if path.name in ("scores.json", "train.jsonl", "model.safetensors", "run.json"):
            assert path.stat().st_mtime_ns == when, path


def test_an_interrupted_run_ends_with_the_same_bytes(bench: Bench) -> None:
    bench.trained()
    whole = fingerprints(bench.results)
    fggm = bench.results / "fggm" / "seed-1"
    shutil.rmtree(fggm / "stage-2-trace_numglue_ds")  # killed between stages
    run(bench)
    assert fingerprints(bench.results) == whole
    (fggm / "stage-2-trace_numglue_ds" / "scores.json").unlink()  # killed while scoring
    run(bench)
    assert fingerprints(bench.results) == whole
    half = fggm / "stage-2-trace_numglue_ds"  # killed while training, checkpoint half written
    (half / "scores.json").unlink()
    (half / "checkpoint").rename(half / ".checkpoint.tmp")
    (half / "train.jsonl").write_text('{"step": 1}\n{"st')
    run(bench)
    assert fingerprints(bench.results) == whole


def test_scoring_leaves_training_alone(bench: Bench) -> None:
    run(bench, "-o", "name=scored", "--method", "sft")
    bare = ["-o", "eval.trace.after=never", "-o", "eval.general.after=never"]
    run(bench, "-o", "name=bare", *bare, "--method", "sft")
    weights = [
        (bench.root / "results" / name / "sft/seed-1/stage-2-trace_numglue_ds/checkpoint")
        .joinpath("model.safetensors")
        .read_bytes()
        for name in ("scored", "bare")
    ]
    assert weights[0] == weights[1]


def test_killed_for_real_and_started_again(bench: Bench) -> None:
    run(bench, "-o", "name=whole", "--method", "sft")
    command = ["run", "tiny.yaml", "-o", "name=killed", "--method", "sft"]
    process, said = watched(lambda: run_command(command))
    for line in said:
        if "stage 2/2" in line:
            process.send_signal(signal.SIGKILL)
            break
    said.close()
    assert process.wait() == -signal.SIGKILL
    run(bench, "-o", "name=killed", "--method", "sft")
    for name in ("stage-1-trace_fomc", "stage-2-trace_numglue_ds"):
        whole, killed = (
            bench.root / "results" / experiment / "sft" / "seed-1" / name
            for experiment in ("whole", "killed")
        )
        assert fingerprints(killed) == fingerprints(whole)
    summaries = [
        (bench.root / "results" / name / "sft/seed-1/summary.json").read_text()
        for name in ("whole", "killed")
    ]
    assert summaries[0] == summaries[1]


def test_an_interrupt_says_that_the_state_is_kept(bench: Bench) -> None:
    process, lines = watched(lambda: run_command(["run", "tiny.yaml"]))
    said = []
    for line in lines:
        said.append(line)
        if "stage 1/2" in line:
            process.send_signal(signal.SIGINT)
            said += list(lines)
    lines.close()
    assert process.wait() == 130, "".join(said)
    assert "interrupted" in said[-1] and "Traceback" not in "".join(said)
    run(bench)


def test_eval_scores_a_stage_again_beside_the_run(bench: Bench) -> None:
    bench.trained("--method", "sft")
    before = fingerprints(bench.results)
    code, out, err = bench.run("eval", "--stage", "1", "--task", "trace_fomc", "--limit", "3")
    assert code == 0, err
    assert "results/tiny, the experiment that was run last" in err
    file = Path(out.strip())
    assert file.parent.parent.name == "evals"
    scores = json.loads(file.read_text())
    assert scores["trace"]["trace_fomc"]["n"] == 3 and scores["general"] == {"mean": None}
    after = fingerprints(bench.results)
    assert {name: after[name] for name in before} == before
    code, out, err = bench.run("eval", "results/tiny", "--stage", "2", "--task", "piqa")
    assert code == 0 and json.loads(Path(out.strip()).read_text())["general"]["piqa"]["n"] == 4
    code, _, err = bench.run("eval", "--stage", "3")
    assert code == 2 and "no stage 3 here yet (there: [1, 2])" in err


def test_report_names_the_experiment_it_took(bench: Bench) -> None:
    printed = bench.trained("--method", "sft")
    code, out, err = bench.run("report")
    assert code == 0 and out == printed
    assert "results/tiny, the experiment that was run last" in err
    assert bench.run("report", "tiny")[1] == printed
    code, _, err = bench.run("report", "tinny")
    assert code == 2 and "did you mean 'tiny'" in err


def test_lora_saves_adapters_and_the_next_method_merges_them(bench: Bench) -> None:
    stages = [
        {"task": "trace_fomc", "limit": 4, "method": "lora"},
        {"task": "trace_numglue_ds", "limit": 4, "method": {"name": "ewc", "lambda": 10}},
    ]
    bench.write_config(methods=None, stages=stages)
    run(bench)
    first, second = sorted((bench.results / "lora-then-ewc" / "seed-1").glob("stage-*"))
    assert (first / "checkpoint" / "adapter_model.safetensors").is_file()
    assert not (first / "checkpoint" / "model.safetensors").exists()
    assert json.loads((first / "checkpoint" / "base.json").read_text())["base"].endswith("model")
    assert (second / "checkpoint" / "model.safetensors").is_file()
    assert (second / "method.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "train.lrr=1"], "train.lrr: unknown key (did you mean 'lr'?)"),
        (["-o", "model.path=./modl"], "no folder"),
        (["-o", "data_root=nowhere"], "FOMC"),
        (["-o", "stages.0.task=trace_fmc"], "unknown task 'trace_fmc' (did you mean 'trace_fomc'"),
        (["-o", "eval.general.tasks=[pica]"], "unknown task 'pica'"),
        (["-o", "methods=[{compose: [lora, l2sp]}]"], "stage 2: l2sp: anchor: base: the stage"),
        (["-o", "methods=[{compose: [lora, das]}]"], "das: it masks units of the model's own"),
        (["-o", "methods=[recadam]"], "gamma: lr * weight * gamma is 5, so that a pull"),
        (["--method", "sftt"], "did you mean 'sft'"),
        (["--engine", "vlm"], "--engine vlm"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_is_left(
    bench: Bench, arguments: list[str], expected: str
) -> None:
    code, _, err = bench.run("run", "tiny.yaml", *arguments)
    assert code == 2, err
    assert expected in err and "Traceback" not in err
    assert not (bench.root / "results").exists()


def test_faults_of_data_tasks_and_model_come_together(bench: Bench) -> None:
    train = bench.root / "data" / "trace" / "FOMC" / "train.json"
    train.write_text(json.dumps([{"prompt": "a", "answer": "b"}, {"prompt": 3}, "x"]))
    write_task(bench.root / "data", "NumGLUE-ds", [])
    code, _, err = bench.run("run", "tiny.yaml", "-o", "model.path=./modl")
    assert code == 2
    assert "model.path" in err and "train.json" in err and "NumGLUE-ds" in err
    assert not (bench.root / "results").exists()


def test_another_config_in_the_same_folder_is_refused(bench: Bench) -> None:
    bench.trained("--method", "sft")
    code, _, err = bench.run("run", "tiny.yaml", "--method", "sft", "-o", "train.lr=1e-5")
    assert code == 2 and "train.lr: was 0.001, is 1e-05 (sft/seed-1)" in err


def test_no_disk_for_the_checkpoints(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(bench.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "what is not done yet will leave" in err
    assert not bench.results.exists()


def test_a_task_without_a_training_split(bench: Bench) -> None:
    folder = bench.root / "own"
    folder.mkdir()
    (bench.root / "data.jsonl").write_text('{"q": "a", "a": "b"}\n')
    (folder / "own.yaml").write_text(
        "task: only_test\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {bench.root / 'data.jsonl'}}}}}\n"
        "output_type: generate_until\ntest_split: test\ndoc_to_text: q\ndoc_to_target: a\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    bench.write_config(task_paths=["own"], stages=[{"task": "only_test"}])
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "only_test" in err and "train" in err


def test_published_numbers_stand_in_a_section_of_their_own(bench: Bench) -> None:
    bench.trained()
    before = bench.report()
    opened = read_experiment(bench.results)
    source = {"kind": "published", "source": "Some 2020", "numbers": {"sft": {"op": 12.34}}}
    opened["config"]["expected"] = [source]
    write_experiment(bench.results, {k: v for k, v in opened.items() if k != "sha256"})
    after = bench.report()
    start, end = after.index("\n## Numbers to compare with"), after.index("\n## Differences")
    assert "| sft    |                   12.34 |" in after[start:end]
    assert after[end:] == before[before.index("\n## Differences") :]
    assert "published: OP as printed |" in after[:start] and "published" not in before
