"""KL on the new task against the loss of General: points and data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.report.as_markdown import markdown
from cl_bench.report.kl_forgetting import kl_points, kl_section
from cl_bench.store.seals import write_sealed
from tests.helpers.rendered import tables_of

BASE = {"general": {"piqa": {"score": 0.6, "stderr": 0.1, "n": 9}, "mean": 0.6}, "trace": {}}


def probe(value: float | None, stderr: float | None = 0.01) -> dict[str, Any]:
    return {"mean": value, "stderr": stderr, "n": 4}


def stage(
    folder: Path, number: int, general: float | None, kl: dict[str, float | None], task: Any
) -> Any:
    place = folder / f"stage-{number}"
    place.mkdir(parents=True)
    piqa = {"score": general, "stderr": 0.1, "n": 9}
    probes = {name: {"kl": probe(v), "reverse_kl": probe(v and 2 * v)} for name, v in kl.items()}
    scores = {"stage": number, "task": task, "trace": {}, "probes": {"trace": probes}}
    write_sealed(
        place / "scores.json", {**scores, "general": {"piqa": piqa} if general is not None else {}}
    )
    return SimpleNamespace(scored=True, path=place)


def result(label: str, *stages: Any) -> Any:
    run = SimpleNamespace(stages=lambda: [*stages, SimpleNamespace(scored=False)])
    return SimpleNamespace(name=lambda run: label, runs=[run])


def test_a_stage_is_a_point_of_its_own_tasks_divergence_and_the_loss_of_general(
    tmp_path: Path,
) -> None:
    found = [
        result(
            "sft",
            stage(tmp_path / "sft", 1, 0.5, {"a": 0.2, "b": 9.0}, "a"),
            stage(tmp_path / "sft", 2, 0.3, {"a": 9.0, "b": 0.6}, "b"),
            stage(tmp_path / "sft", 3, None, {"c": 0.6}, "c"),
        ),
        result(
            "mtl",
            stage(tmp_path / "mtl", 1, 0.7, {"a": 0.1, "b": 0.3}, ["a", "b"]),
            stage(tmp_path / "mtl", 2, 0.7, {"a": 0.1, "b": None}, ["a", "b"]),
        ),
    ]
    points, lacking = kl_points(BASE, found)
    assert [(p.method, p.stage, p.tasks) for p in points] == [
        ("sft", 1, ("a",)),
        ("sft", 2, ("b",)),
        ("mtl", 1, ("a", "b")),
    ]
    assert [p.kl for p in points] == pytest.approx([0.2, 0.6, 0.2])
    assert [p.reverse_kl for p in points] == pytest.approx([0.4, 1.2, 0.4])
    assert [p.general_loss for p in points] == pytest.approx([0.1, 0.3, -0.1])
    assert lacking == 2
    text = "\n".join(markdown(list(kl_section(points, lacking, tmp_path)), None, screen=False))
    assert "over 3 points: 0.87 (reverse: 0.87)" in text and "2 scored stages lack" in text
    (rows,) = tables_of(text)
    assert [row[-1].strip() for row in rows[1:]] == ["+10.0 ± 14.1", "+30.0 ± 14.1", "-10.0 ± 14.1"]
    kept = json.loads((tmp_path / "kl-general.json").read_text())
    assert [point["kl"] for point in kept["points"]] == [p.kl for p in points]
    assert kept["spearman"]["kl"] == pytest.approx(0.75**0.5) and kept["not_measured"] == 2


def test_nothing_is_said_where_nothing_was_measured(tmp_path: Path) -> None:
    assert list(kl_section(*kl_points(BASE, []), tmp_path)) == []
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_the_figure_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, _ = kl_points(BASE, [result("sft", stage(tmp_path / "sft", 1, 0.5, {"a": 0.2}, "a"))])
    (tmp_path / "file").touch()
    text = "\n".join(markdown(list(kl_section(points, 0, tmp_path / "file")), None, screen=False))
    assert "over 1 point: not defined" in text
    assert "was not written" in capsys.readouterr().err
