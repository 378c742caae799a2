"""Starting what is finished already: no torch, the same checks, the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cl_bench.store.status_file import STATUS
from tests.e2e.conftest import Bench, fingerprints

SAID = "finished already"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled by every start that goes on to load what trains."""
    from cl_bench.experiment import run

    found: list[str] = []
    whole = run.run_experiment

    def noted(*given: object, **named: object) -> Path:
        found.append("loaded")
        return whole(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "run_experiment", noted)
    return found


def test_torch_is_not_imported(bench: Bench) -> None:
    bench.trained("--method", "sft")  # whose report has no figure of tensors
    before = fingerprints(bench.results)
    given = ["cl_bench", "run", "tiny.yaml", "--method", "sft"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *given],
        cwd=bench.root,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0 and SAID in done.stderr, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lm_eval.api.task" in imported  # importtime was on, and tasks were compared
    assert not {"torch", "transformers.modeling_utils"} & imported
    after = fingerprints(bench.results)
    drawn = {name for name in after if name.startswith("report-figures/")}  # not by `bench`
    assert {name: after[name] for name in after.keys() - drawn} == before


def test_the_report_is_as_before(bench: Bench, loaded: list[str]) -> None:
    first = bench.trained("--method", "sft")
    assert bench.must("run", "tiny.yaml", "--method", "sft") == first
    assert not loaded


def test_what_is_not_finished_goes_on(bench: Bench, loaded: list[str]) -> None:
    bench.trained("--method", "sft")
    last = bench.results / "sft" / "seed-1" / "stage-2-trace_numglue_ds"
    whole = fingerprints(bench.results)
    for undo in (
        lambda: (last / "scores.json").unlink(),
        lambda: (bench.results / "base" / "scores.json").unlink(),
        lambda: shutil.rmtree(last),
    ):
        undo()
        loaded.clear()
        bench.must("run", "tiny.yaml", "--method", "sft")
        assert loaded
        assert fingerprints(bench.results) == whole
    loaded.clear()
    bench.must("run", "tiny.yaml")  # fggm is not there yet
    assert loaded


def _rows(bench: Bench) -> None:
    file = bench.root / "data" / "trace" / "FOMC" / "train.json"
    rows = json.loads(file.read_text())
    rows[0]["prompt"] += " more"
    file.write_text(json.dumps(rows))


def _learning_rate(bench: Bench) -> None:
    text = bench.config.read_text()
    assert "lr: 0.001" in text
    bench.config.write_text(text.replace("lr: 0.001", "lr: 0.002"))


def _tokenizer(bench: Bench) -> None:
    file = next(bench.root.glob("**/tokenizer_config.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 77}))


@pytest.mark.parametrize("change", [_rows, _learning_rate, _tokenizer])
def test_other_inputs_are_refused(bench: Bench, change: Callable[[Bench], None]) -> None:
    bench.trained("--method", "sft")
    before = fingerprints(bench.results)
    change(bench)
    code, _, err = bench.run("run", "tiny.yaml", "--method", "sft")
    assert code == 2 and "was left as it is" in err and SAID not in err
    assert fingerprints(bench.results) == before


def test_a_damaged_record_is_found(bench: Bench) -> None:
    bench.trained("--method", "sft")
    stage = bench.results / "sft" / "seed-1" / "stage-2-trace_numglue_ds"
    records = stage / "predictions" / "trace_numglue_ds.jsonl"
    records.write_text(records.read_text().replace('"score"', '"scofe"', 1))
    code, _, err = bench.run("run", "tiny.yaml", "--method", "sft")
    assert code == 1 and records.name in err and SAID not in err


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_an_end_that_was_not_well_is_gone_into(bench: Bench, loaded: list[str], state: str) -> None:
    bench.trained("--method", "sft")
    status = bench.results / STATUS
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": state}))
    bench.must("run", "tiny.yaml", "--method", "sft")
    assert loaded
    loaded.clear()
    bench.must("run", "tiny.yaml", "--method", "sft")
    assert not loaded


def test_another_setting_that_no_number_depends_on(bench: Bench, loaded: list[str]) -> None:
    bench.trained("--method", "sft")
    first = bench.results / "sft" / "seed-1" / "stage-1-trace_fomc" / "checkpoint"
    assert first.is_dir()
    bench.must("run", "tiny.yaml", "--method", "sft", "-o", "keep=last")
    assert loaded and not first.exists()
