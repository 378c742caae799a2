"""A damaged file is named, or the result is the same to the byte: no traceback, no other number.

Every kind of file that a run leaves, times every kind of damage, times the commands that read it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_bench.cli import run_command
from tests.e2e.conftest import fingerprints, lay_out

LAST = "ewc/seed-1/stage-2-trace_numglue_ds"
FIRST = "ewc/seed-1/stage-1-trace_fomc"


@dataclass
class Finished:
    """A finished experiment, a copy of it to damage, and what its commands say of the original."""

    root: Path
    said: dict[str, tuple[str, dict[str, str]]]

    @property
    def results(self) -> Path:
        return self.root / "results" / "tiny"

    def reset(self, command: str) -> None:
        """A whole copy; for `go on` one whose last stage is not there yet."""
        shutil.rmtree(self.results)
        shutil.copytree(self.root / "whole", self.results)
        if command == "go on":
            shutil.rmtree(self.results / LAST)

    def do(self, command: str) -> tuple[int, str, str]:
        """Exit code, what is printed and scored, and what is said."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(COMMANDS[command].split())
        printed = out.getvalue()
        written = [line for line in printed.splitlines() if line.endswith("scores.json")]
        return code, printed + "".join(Path(name).read_text() for name in written), err.getvalue()


COMMANDS = {
    "run": "run tiny.yaml",
    "go on": "run tiny.yaml",
    "report": "report tiny --full",
    "diff": f"diff tiny/base tiny/{LAST} --json",
    "eval": "eval tiny --stage 2 --task piqa --limit 1",
}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shared_between_tests: Path
) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("finished")
    config = lay_out(root, shared_between_tests / "model")
    settings = yaml.safe_load(config.read_text())
    stages = [{"task": task, "epochs": 1, "limit": 4} for task in ("FOMC", "NumGLUE-ds")]
    evaluation = {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}}
    evaluation["within_stage"] = {"tasks": ["piqa"], "limit": 1}
    config.write_text(
        yaml.safe_dump(settings | {"methods": ["ewc"], "stages": stages, "eval": evaluation})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        # Figures are drawn of what the tables show, and take longer than all the rest.
        patch.setattr("cl_bench.report.written.draw_figures", lambda *_: [])
        made = Finished(root, {})
        made.do("run")
        shutil.copytree(made.results, root / "whole")
        for command in COMMANDS:
            made.reset(command)
            code, printed, err = made.do(command)
            assert code == 0, err
            made.said[command] = printed, fingerprints(made.results)
        yield made


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def other_digit(file: Path) -> None:
    data = file.read_bytes()
    found = [match.start() for match in re.finditer(rb"[0-9]", data)]
    place = found[len(found) // 2]
    file.write_bytes(data[:place] + bytes([48 + (data[place] - 41) % 10]) + data[place + 1 :])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def last_line_gone(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def deleted(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_list(file: Path) -> None:
    file.write_text("[]\n")


def without_keys(file: Path) -> None:
    file.write_text("{}\n")


def unreadable(file: Path) -> None:
    file.chmod(0)


Damage = Callable[[Path], None]
ANY: tuple[Damage, ...] = (flipped, cut, emptied, deleted, a_folder)
ANY = (*ANY, unreadable) if os.name == "posix" and os.geteuid() else ANY
JSON = (*ANY, other_digit, a_list, without_keys)
LINES = (*ANY, other_digit, last_line_gone, without_keys)

TABLE: dict[str, tuple[tuple[Damage, ...], str]] = {
    "experiment.json": (JSON, "report, eval"),
    "base/scores.json": (JSON, "report, diff"),
    "base/predictions/trace_fomc.jsonl": (LINES, "report, diff"),
    "base/predictions/general_piqa.probes.jsonl": (LINES, "report"),
    "base/kl/general_piqa.safetensors": (ANY, "eval"),
    "ewc/seed-1/run.json": (JSON, "report, eval"),
    "ewc/seed-1/summary.json": (JSON, "report"),
    f"{LAST}/scores.json": (JSON, "report, diff"),
    f"{LAST}/predictions/trace_fomc.jsonl": (LINES, "report, diff"),
    f"{LAST}/predictions/trace_numglue_ds.probes.jsonl": (LINES, "report"),
    f"{LAST}/curve.jsonl": (LINES, "report"),
    f"{LAST}/trained.json": (JSON, "report, eval"),
    f"{LAST}/method.safetensors": (ANY, "eval"),
    f"{LAST}/checkpoint/model.safetensors": (ANY, "eval"),
    f"{LAST}/checkpoint/config.json": (JSON, "eval"),
    f"{LAST}/checkpoint/manifest.json": (JSON, "eval"),
}
ONCE: tuple[tuple[str, Damage, str], ...] = (
    ("base/scores.json", without_keys, "run"),
    ("base/scores.json", deleted, "run"),
    ("ewc/seed-1/run.json", a_list, "run"),
    ("experiment.json", cut, "run"),
    ("report.md", cut, "run"),
    (f"{FIRST}/trained.json", deleted, "run"),
    (f"{FIRST}/train.jsonl", other_digit, "run"),
    (f"{FIRST}/notes.json", a_list, "run"),
    (f"{FIRST}/timing.json", a_list, "run"),
    (f"{FIRST}/checkpoint/manifest.json", other_digit, "run"),
    (f"{FIRST}/scores.json", a_folder, "run"),
    (f"{FIRST}/method.safetensors", flipped, "go on"),
    (f"{FIRST}/method.safetensors", deleted, "go on"),
    (f"{FIRST}/checkpoint/model.safetensors", flipped, "go on"),
    (f"{FIRST}/checkpoint/manifest.json", deleted, "go on"),
)


@pytest.mark.parametrize("name", TABLE)
def test_it_is_named_or_makes_no_difference(finished: Finished, name: str) -> None:
    damages, commands = TABLE[name]
    faults = [
        fault
        for damage in damages
        for command in commands.split(", ")
        if (fault := fault_of(finished, name, damage, command))
    ]
    assert not faults, "\n".join(faults)


def test_the_same_for_starts_of_run(finished: Finished) -> None:
    """Of which each takes longer: those that can end in different ways."""
    faults = [fault for case in ONCE if (fault := fault_of(finished, *case))]
    assert not faults, "\n".join(faults)


def fault_of(finished: Finished, name: str, damage: Damage, command: str) -> str | None:
    """What is wrong with how a command takes a damaged file; None when nothing is."""
    finished.reset(command)
    damage(finished.results / name)
    code, printed, err = finished.do(command)
    case = f"{name} {damage.__name__}, {command}: exit {code}"
    if "--debug" in err or "Traceback" in err or code not in (0, 1, 2):
        return f"{case}: {err}"
    if code:
        return None if Path(name).name in err else f"{case} and not named: {err}"
    before, files = finished.said[command]
    if damage is deleted and Path(name).name in printed + err:
        return None  # said to be missing
    now = fingerprints(finished.results)
    other = [key for key in files | now if key != name and files.get(key) != now.get(key)]
    if printed != before or other:
        return f"{case}, with another result in silence: {other}"
    return None


@pytest.mark.parametrize("name", ["train.jsonl", "curve.jsonl"])
def test_a_full_disk_is_told_with_the_file(
    finished: Finished, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a line more is written at a file's end."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path: Path, mode: str = "r", **rest: Any) -> Any:
        return Full() if path.name == name and mode == "a" else real(path, mode, **rest)

    real = Path.open
    finished.reset("go on")
    monkeypatch.setattr(Path, "open", opened)
    code, _, err = finished.do("go on")
    assert code == 1 and f"{LAST}/{name}: No space left" in err, err
    assert "run the same command again to go on" in err
    monkeypatch.undo()
    code, printed, err = finished.do("go on")
    assert code == 0 and (printed, fingerprints(finished.results)) == finished.said["go on"], err


def test_a_folder_that_cannot_be_written_is_not_scored_in(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    finished.reset("eval")
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    code, _, err = finished.do("eval")
    assert code == 2 and "results/tiny: cannot be written (Read-only file system" in err
    assert "score a copy of it" in err and "--results" not in err, err
