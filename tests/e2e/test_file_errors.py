"""Disks that are full, folders that cannot be written: which file, and how to go on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench

resource = pytest.importorskip("resource")


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """What a full disk looks like to a program, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_errors_of_files_name_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write_config(
        methods=["sft"],
        stages=[{"task": "FOMC", "limit": 4}],
        eval={"trace": {"limit": 1}, "general": {"tasks": []}, "probes": False},
    )
    for place in (bench.config, Path("/proc/cl-bench")):
        code, _, err = bench.run("run", "tiny.yaml", "--results", str(place))
        said = [line for line in err.splitlines() if "cl-bench: " in line]
        assert code == 2 and len(said) == 1 and str(place) in said[0], err

    with no_file_above(30_000):
        code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "stage-1-trace_fomc/checkpoint: " in err and "File too large" in err
    assert "run the same command again to go on" in err and "SafetensorError" not in err
    monkeypatch.setitem(sys.modules, "resource", None)  # and as on Windows
    bench.must("run", "tiny.yaml")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "report.md")

    monkeypatch.setattr("cl_bench.report.written.write_text", refuse)
    code, out, err = bench.run("report")
    assert code == 0 and "# tiny" in out and "report.md was not written" in err
