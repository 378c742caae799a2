"""Every bad input of the catalogue: exit code, words, one message, nothing left to be trusted."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cl_bench.cli import run_command
from cl_bench.experiment.verify import verify
from tests.e2e.conftest import lay_out
from tests.helpers.bad_inputs import BadInput, cases

CASES = cases()
LAST = "seed-1/stage-2-trace_numglue_ds"
HARMLESS = {".lock"}
"""Left behind by any start; nobody reads it."""


@dataclass
class Kitchen:
    """Folders to copy, and what a command says in a copy."""

    root: Path

    def base(self, place: str) -> Path:
        """`fresh`, `finished` or `half`: config, data, model, results; made when first asked."""
        folder = self.root / place
        if folder.exists():
            return folder
        if place == "half":
            shutil.copytree(self.base("finished"), folder)
            for method in ("ewc", "lora"):
                shutil.rmtree(folder / "results/tiny" / method / LAST)
            return folder
        shutil.copytree(self.root / "fresh", folder)
        (code, _, err) = said(["run", "tiny.yaml"], folder)
        assert code == 0, err
        return folder


def said(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that is started in a folder."""
    out, err, here = io.StringIO(), io.StringIO(), Path.cwd()
    try:
        os.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(command)
    finally:
        os.chdir(here)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def kitchen(
    tmp_path_factory: pytest.TempPathFactory, shared_between_tests: Path
) -> Iterator[Kitchen]:
    root = tmp_path_factory.mktemp("catalogue")
    (root / "fresh").mkdir()
    config = lay_out(root / "fresh", shared_between_tests / "model")
    settings = yaml.safe_load(config.read_text())
    settings["methods"] = [{"name": "ewc"}, {"name": "lora", "lr": 1e-3, "lora_alpha": 16}]
    settings["stages"] = [{"task": task, "limit": 4} for task in ("FOMC", "NumGLUE-ds")]
    settings["eval"] = {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}}
    config.write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(root / "cache"))
        yield Kitchen(root)


def state(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with what it holds."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            path = Path(parent, name)
            if path.is_symlink():
                found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
            elif path.is_file() and name not in HARMLESS:
                content = path.read_bytes() if os.access(path, os.R_OK) else b""
                found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def faults_of(folder: Path) -> list[str]:
    """What `verify` says of the results in a folder; nothing where there are none."""
    results = folder / "results" / "tiny"
    return verify(results).faults if (results / "experiment.json").is_file() else []


def test_the_catalogue_is_large_and_says_of_each_case_what_it_is() -> None:
    assert len(CASES) >= 150
    assert all(case.what and case.says and case.exit in (0, 1, 2) for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_in_words(case: BadInput, kitchen: Kitchen, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    shutil.copytree(kitchen.base(case.place), folder, symlinks=True)
    case.lay_out(folder)
    before, damage = state(tmp_path), set(faults_of(folder) if case.place != "fresh" else ())
    code, out, err = said(case.command, folder)
    told = f"{case.what}\nexit {code}\n{err}\n{out[-500:]}"
    assert code == case.exit, told
    listed = out if code == 0 or case.command[0] == "verify" else ""
    missing = [word for word in case.says if word not in err + listed]
    assert not missing, f"{missing} not said of: {told}"
    assert "Traceback" not in err and "--debug" not in err, told
    faults = [line for line in err.splitlines() if line.startswith("cl-bench: ")]
    faults = [line for line in faults if line.split(": ")[1] not in ("warning", "written")]
    kinds = {line.split(": ")[1] for line in faults}
    assert kinds == ({"error"} if code == 2 else {"failed"} if code == 1 else set()), told
    assert len(faults) == len(set(faults)) and (code != 1 or len(faults) == 1), told
    now = state(tmp_path)
    changed = sorted(name for name in before | now if before.get(name) != now.get(name))
    if changed and code == 1:  # what is complete is kept, and as it should be
        assert not [name for name in changed if ".tmp" in name], changed
        assert set(faults_of(folder)) <= damage, changed
    elif code:
        assert not changed, changed
