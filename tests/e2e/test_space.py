"""`keep:` and `checkpoints: delta`: less on disk, and nothing that is different."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cl_bench.experiment.resolve import resolve_file
from cl_bench.experiment.space import delete_unneeded
from cl_bench.experiment.verify import verify
from cl_bench.models.deltas import write_whole
from cl_bench.store.folders import RunFolder
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import watched

THREE = [
    {"task": "NumGLUE-ds", "limit": 4},
    {"task": "FOMC", "limit": 4},
    {"task": "mini_fomc", "limit": 4, "test_limit": 3},
]
QUICK = {"trace": {"after": "last", "limit": 2}, "general": {"after": "never"}, "probes": False}
ROWS = {"name": "fggm", "alpha": 0.7, "label": "rows"}
ENTRIES = {"name": "fggm", "alpha": 0.7, "aggregation": "none", "label": "entries"}
GROWN = {"name": "block_expansion", "every": 1, "blocks": "new"}
LORA = {"name": "lora", "lr": 1e-3}
APART = ("delta.json", "model.delta.safetensors", "model.safetensors")


def stages(run: Path) -> list[Path]:
    return sorted(run.glob("seed-1/stage-*"))


def kept(run: Path) -> list[int]:
    """Numbers of the stages with a checkpoint."""
    return [int(s.name.split("-")[1]) for s in stages(run) if (s / "checkpoint").exists()]


def wholes(results: Path, scratch: Path) -> dict[str, dict[str, str]]:
    """The files of every folder of weights, made whole."""
    found = {}
    for folder in sorted([*results.rglob("checkpoint"), *results.rglob("scored")]):
        name = str(folder.relative_to(results))
        (scratch / name).mkdir(parents=True)
        write_whole(folder, scratch / name)
        found[name] = fingerprints(scratch / name)
    return found


def apart_from(results: Path, names: tuple[str, ...]) -> dict[str, str]:
    return {n: h for n, h in fingerprints(results).items() if Path(n).name not in names}


@pytest.mark.parametrize(
    "methods",
    [
        [ROWS, GROWN, "ties"],
        pytest.param([ENTRIES, {"name": "piece", "ratio": 0.01}, LORA], marks=pytest.mark.slow),
        pytest.param(["sft", "layernorm", "wise"], marks=pytest.mark.slow),
    ],
)
def test_deltas_are_the_same_run(bench: Bench, tmp_path: Path, methods: list[Any]) -> None:
    bench.write_config(methods=methods, eval=QUICK)
    bench.must("run", "tiny.yaml", "--results", "whole")
    bench.must("run", "tiny.yaml", "-o", "checkpoints=delta")
    full = bench.root / "whole" / "tiny"
    assert wholes(full, tmp_path / "a") == wholes(bench.results, tmp_path / "b")
    assert apart_from(full, APART) == apart_from(bench.results, APART)
    ratios = {}
    for record in sorted(bench.results.rglob("delta.json")):
        size = (record.parent / "model.delta.safetensors").stat().st_size
        written = json.loads((record.parent / "manifest.json").read_text())["model.safetensors"]
        ratios[str(record.parent.relative_to(bench.results))] = size / written["bytes"]
        assert not (record.parent / "model.safetensors").exists()
    for method in ("rows", "entries", "piece", "layernorm", "block-expansion"):
        own = [ratio for name, ratio in ratios.items() if name.startswith(f"{method}/")]
        assert len(own) in (0, 2) and max(own, default=0) < 0.4, (method, own)
    assert ratios or methods == [LORA]
    assert verify(bench.results).faults == verify(full).faults == []
    assert bench.must("inspect", "tiny") == bench.must("inspect", "tiny", "--results", "whole")


def damage(file: Path) -> bytes:
    """Flip a bit in the second half; what was there before."""
    content = file.read_bytes()
    changed = bytearray(content)
    changed[len(content) * 3 // 4] ^= 4
    file.write_bytes(changed)
    return content


@pytest.fixture
def chain(bench: Bench) -> list[Path]:
    """Checkpoints of three stages, the later ones stored as what differs from the one before."""
    bench.write_config(methods=["layernorm"], stages=THREE, eval=QUICK, checkpoints="delta")
    bench.trained()
    return [stage / "checkpoint" for stage in stages(bench.results / "layernorm")]


def test_a_damaged_delta_or_base_is_found(bench: Bench, chain: list[Path]) -> None:
    delta, weights = "model.delta.safetensors", "model.safetensors"
    damaged = [
        chain[0] / delta,
        chain[2] / delta,
        chain[1] / "delta.json",
        bench.root / "model" / weights,
    ]
    for file in damaged:
        before = damage(file)
        faults = verify(bench.results).faults
        assert faults and any(str(file.parent) in fault for fault in faults), (file, faults)
        code, _, err = bench.run("eval", "tiny", "--stage", "3", "--limit", "1")
        assert code in (1, 2) and str(file.parent.relative_to(bench.root)) in err, (file, err)
        code, _, err = bench.run("export", "tiny/layernorm", "out", "--stage", "3")
        assert code in (1, 2) and not Path("out").exists(), err
        file.write_bytes(before)
    assert verify(bench.results).faults == []
    assert "out" in bench.must("export", "tiny/layernorm", "out", "--stage", "3")
    manifest = json.loads((chain[2] / "manifest.json").read_text())
    written = {name: sum for name, sum in fingerprints(Path("out")).items() if name != "README.md"}
    assert written == {name: one["sha256"] for name, one in manifest.items()}
    code, _, err = bench.run("export", "tiny/layernorm", "out")
    assert code == 2 and "exists already" in err
    code, _, err = bench.run("plan", "tiny.yaml", "-o", f"model.path={chain[2]}")
    assert code == 2 and "cl-bench export" in err


def test_a_chain_that_is_broken_is_refused_and_made_again(bench: Bench, chain: list[Path]) -> None:
    whole = fingerprints(bench.results)
    shutil.rmtree(chain[1])
    code, _, err = bench.run("eval", "tiny", "--stage", "3", "--limit", "1")
    assert code == 2 and f"{chain[1]}" in err and "not there any more" in err, err
    faults = verify(bench.results).faults
    assert len(faults) == 1 and str(chain[2]) in faults[0] and str(chain[1]) in faults[0]
    shutil.rmtree(chain[2].parent)
    bench.must("run", "tiny.yaml")
    assert fingerprints(bench.results) == whole


def test_what_nothing_needs_is_deleted_and_said(bench: Bench) -> None:
    bench.write_config(methods=[LORA, "ties"], stages=THREE, eval=QUICK)
    bench.must("run", "tiny.yaml", "--results", "whole")
    said = bench.run("run", "tiny.yaml", "-o", "keep=last", "-o", "checkpoints=delta")[2]
    assert said.count(": training") == 6, said  # nothing was deleted too early, and trained again
    apart = (*APART, "deleted.json", "report.md", "manifest.json", "method.safetensors")
    full, now = apart_from(bench.root / "whole" / "tiny", apart), apart_from(bench.results, apart)
    assert now.items() <= full.items()
    assert all("/checkpoint/" in name or "/scored/" in name for name in full.keys() - now.keys())
    for method in ("lora", "ties"):
        assert kept(bench.results / method) == [3], method
    found = verify(bench.results)
    assert not found.faults and sum("(keep: last)" in note for note in found.notes) == 4
    text = " ".join(bench.must("report", "tiny", "--full").split())
    assert "lora, seed 1, stages 1, 2: checkpoints deleted when nothing needed them" in text
    bench.must("eval", "tiny", "--stage", "3", "--method", "ties", "--limit", "1")
    code, _, err = bench.run("eval", "tiny", "--stage", "1", "--method", "lora")
    assert code == 2 and "deleted by keep: last" in err

    said = bench.run("run", "tiny.yaml", "-o", "keep=scores")[2]
    assert "lora, seed 1: checkpoint of stage 3 deleted (keep: scores)" in said
    assert not list(bench.results.rglob("checkpoint")) and not verify(bench.results).faults


def test_a_stage_that_is_appended_finds_what_it_reads(bench: Bench) -> None:
    """The weights of all stages, which were deleted: they are trained again, and deleted again."""
    bench.write_config(methods=["ties"], stages=THREE, eval=QUICK)
    bench.must("run", "tiny.yaml", "--results", "whole")
    bench.write_config(stages=THREE[:2])
    bench.must("run", "tiny.yaml", "-o", "keep=scores")
    assert kept(bench.results / "ties") == []
    bench.write_config(stages=THREE)
    code, _, err = bench.run("run", "tiny.yaml", "-o", "keep=last")
    assert code == 0 and "stage 1" in err and "trained again" in err, err
    assert kept(bench.results / "ties") == [3]
    last = fingerprints(stages(bench.results / "ties")[-1])
    assert last == fingerprints(stages(bench.root / "whole" / "tiny" / "ties")[-1])


READS = """
from cl_bench.methods.base import Method

class Mine(Method):
    name = "mine"
    keeps = "weights"
{declares}
    def finish(self, stage):
        k = 1 if stage.index == 3 else 0
        stage.notes["sum"] = float(sum(w.sum() for w in stage.weights(k).values()))
"""
SAYS = """
    def earlier_weights(self, stage):
        return [{}] if stage.index == 3 else []
"""


def test_a_method_says_which_weights_it_reads(bench: Bench) -> None:
    file = bench.root / "mine.py"
    bench.write_config(methods=[{"file": "mine.py"}], stages=THREE, eval=QUICK, keep="last")
    file.write_text(READS.format(declares=""))
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and "mine.py, line 10" in err and "earlier_weights" in err, err
    assert not bench.results.exists()
    file.write_text(READS.format(declares=SAYS.format(2)))
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "stage.weights(1)" in err and "keep: all" in err, err
    shutil.rmtree(bench.results)
    file.write_text(READS.format(declares=SAYS.format(1)))
    bench.must("run", "tiny.yaml")
    assert kept(bench.results / "mine") == [3]


CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def killed(work: Callable[[], Any], number: int) -> bool:
    """Whether a process that does it was killed, before its n-th change of a file."""
    left = [number]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES and not reads:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def child() -> int:
        sys.addaudithook(hook)
        work()
        return 0

    process, said = watched(child)
    text = said.read()
    said.close()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), text
    return code != 0


@pytest.mark.parametrize("checkpoints", ["full", "delta"])
def test_killed_at_every_change_of_a_file(bench: Bench, checkpoints: str) -> None:
    """A chain of deltas too: what stays of it is made whole before what it belongs to goes."""
    bench.write_config(methods=["ewc"], eval=QUICK, checkpoints=checkpoints)
    bench.trained()
    bench.write_config(keep="last")
    (run,) = resolve_file(str(bench.config)).runs
    place = RunFolder(bench.results / run.slug / "seed-1")
    delete = partial(delete_unneeded, place, run, "last")
    before, ends = bench.root / "before", []
    bench.results.rename(before)
    for number in range(1, 200):
        shutil.rmtree(bench.results, ignore_errors=True)
        shutil.copytree(before, bench.results)
        if not killed(delete, number):
            break
        assert verify(bench.results).faults == []
        delete()
        ends.append(fingerprints(bench.results))
    assert len(ends) >= 12 and all(end == fingerprints(bench.results) for end in ends)
    first, last = stages(bench.results / run.slug)
    assert kept(bench.results / run.slug) == [2] and not (first / "method.safetensors").exists()
    assert {path.name for path in (last / "checkpoint").iterdir()} == {
        path.name for path in (bench.root / "model").iterdir()
    } | {"manifest.json"}
    assert verify(bench.results).faults == []
