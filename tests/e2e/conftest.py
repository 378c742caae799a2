"""A whole experiment in miniature: invented TRACE-shaped data, a random model, a config."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_bench.cli import run_command
from cl_bench.report.figures.drawing import draw_figures
from tests.helpers.tiny import byte_tokenizer, tiny_model


@dataclass
class Bench:
    """A working folder with data, model and config; `run` drives the command line."""

    root: Path
    config: Path
    capture: pytest.CaptureFixture[str]
    kept: Path
    """Results of the runs that `trained` has done for other tests."""

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `cl-bench ARGUMENTS`."""
        code = run_command([str(argument) for argument in arguments])
        out = self.capture.readouterr()
        return code, out.out, out.err

    def write_config(self, **changes: Any) -> None:
        """The config with some keys changed."""
        data = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump(data | changes))

    def must(self, *arguments: str) -> str:
        """Standard output of a command that must succeed."""
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def trained(self, *arguments: str) -> str:
        """What `run tiny.yaml ARGUMENTS` prints, for tests whose subject is not that run.

        It is done once for all of them whose files and arguments are the same.
        """
        given = hashlib.sha256(repr((arguments, _files(self.root))).encode()).hexdigest()
        stored = self.kept / given
        if not stored.exists():
            said = self.must("run", "tiny.yaml", *arguments)
            shutil.copytree(self.root / "results", stored / "results")
            (stored / "said").write_text(said)
            return said
        shutil.copytree(stored / "results", self.root / "results")
        return (stored / "said").read_text()

    def report(self) -> str:
        """The report with all its sections."""
        return self.must("report", "tiny", "--full")

    @property
    def results(self) -> Path:
        """The experiment's folder."""
        return self.root / "results" / "tiny"


def fingerprints(folder: Path) -> dict[str, str]:
    """sha256 of every file that the same run must write again to the byte."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        # What a report says of time and memory is measured; so is what a status says.
        and file.name not in ("timing.json", "experiment.json", ".lock", "run.json", "report.md")
        and file.name != "status.json"
    }


def _files(folder: Path) -> list[tuple[str, str]]:
    return [
        (str(file.relative_to(folder)), hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def write_task(root: Path, task: str, rows: list[tuple[str, str]]) -> None:
    """train, eval and test files as TRACE has them."""
    folder = root / "trace" / task
    folder.mkdir(parents=True, exist_ok=True)
    data = [{"prompt": prompt, "answer": answer} for prompt, answer in rows]
    for split in ("train", "eval", "test"):
        (folder / f"{split}.json").write_text(json.dumps(data))


@pytest.fixture(scope="session")
def shared_between_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, saved once, and `runs`."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_model().save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture
def bench(
    tmp_path: Path,
    shared_between_tests: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bench:
    """Two stages (a choice and a number task), PIQA as General, a 2-layer random model."""
    monkeypatch.chdir(tmp_path)
    # Half a second each, which every report of every test would take: `figures` draws them.
    monkeypatch.setattr("cl_bench.report.written.draw_figures", lambda *_: [])
    config = lay_out(tmp_path, shared_between_tests / "model")
    return Bench(tmp_path, config, capsys, shared_between_tests / "runs")


@pytest.fixture
def figures(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have their figures, as they do outside of tests."""
    monkeypatch.setattr("cl_bench.report.written.draw_figures", draw_figures)


def lay_out(root: Path, model: Path) -> Path:
    """Data, a copy of the model and the config of `bench` in a folder; returns the config."""
    data = root / "data"
    write_task(data, "FOMC", [(f"Text {i}\nStance:", "ABC"[i % 3]) for i in range(12)])
    write_task(data, "NumGLUE-ds", [(f"{i} + 1\nAnswer:", str(i + 1)) for i in range(12)])
    general = data / "general" / "piqa"
    general.mkdir(parents=True)
    rows = [{"goal": f"g{i}", "sol1": "yes", "sol2": "no", "label": i % 2} for i in range(6)]
    (general / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(model, root / "model")
    config = root / "tiny.yaml"
    settings = {
        "name": "tiny",
        "model": {"path": "./model", "dtype": "float32"},
        "seeds": [1],
        "data_root": "data",
        "methods": ["ori", "sft", {"name": "fggm", "alpha": 0.5}],
        "stages": [
            {"task": "FOMC", "epochs": 1, "limit": 8},
            {"task": "trace_numglue_ds", "epochs": 2},
        ],
        "train": {"lr": 1e-3, "batch_size": 4, "max_prompt_tokens": 64, "max_answer_tokens": 4},
        "eval": {"trace": {"limit": 6}, "general": {"tasks": ["piqa"], "limit": 4}},
    }
    config.write_text(yaml.safe_dump(settings))
    return config
