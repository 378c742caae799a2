"""`cl-bench diff` as a user calls it: places in short, tables, JSON, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from scipy.stats import t as student

from tests.e2e.conftest import Bench
from tests.helpers.rendered import must_render


def record(document: int, score: float, **more: Any) -> dict[str, Any]:
    return {"doc_id": document, "prompt_hash": f"h{document}", "target": 1, "score": score, **more}


def place(folder: Path, leaves: dict[str, list[dict[str, Any]]], general: Any = None) -> None:
    """A scored folder with these records; one benchmark may have members."""
    (folder / "predictions").mkdir(parents=True)
    for leaf, records in leaves.items():
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records)
        (folder / "predictions" / f"{leaf}.jsonl").write_text(lines)
    trace = {leaf: {} for leaf in leaves if not leaf.startswith("general_")}
    scores = {"trace": trace, "general": general or {}}
    (folder / "scores.json").write_text(json.dumps(scores))


@pytest.fixture
def group(bench: Bench) -> Bench:
    """`results/made`: base and two stages, with MMLU of two members and a graded task."""
    home = bench.root / "results" / "made"
    members = {"general_mmlu_a": [1, 1, 1, 0], "general_mmlu_b": [0, 1]}
    general = {"mmlu": {"members": dict.fromkeys(members)}, "mean": 0.5}
    after = {"general_mmlu_a": [0, 0, 1, 1], "general_mmlu_b": [0, 1]}
    for name, scored, lls, graded in (
        ("base", members, [-1.0, -2.0], [0.5, 0.25]),
        ("sft/seed-3/stage-1-trace_20minuten", after, [-1.0, -2.5], [0.5, 0.75]),
        ("sft/seed-3/stage-10-trace_fomc", after, [-1.0, -2.5], [0.5, 0.75]),
    ):
        leaves = {
            leaf: [
                record(i, float(score), choice=score, loglikelihoods=lls)
                for i, score in enumerate(scores)
            ]
            for leaf, scores in scored.items()
        }
        texts = [record(i, score, prediction=f"{name}\u2028x") for i, score in enumerate(graded)]
        place(home / name, {"trace_20minuten": texts, **leaves}, general)
    (home / "experiment.json").write_text('{"last_run": "2026", "config": {}}')
    return bench


def test_what_was_forgotten_and_learned(group: Bench) -> None:
    found = json.loads(group.must("diff", "made/base", "sft/seed-3/stage-1", "--json"))
    mmlu = found["tasks"]["mmlu"]
    assert mmlu["forgotten"] == [["general_mmlu_a", 0], ["general_mmlu_a", 1]]
    assert mmlu["learned"] == [["general_mmlu_a", 3]]
    # Members weigh the same: (3/4 + 1/2) / 2 and (2/4 + 1/2) / 2.
    assert (mmlu["n"], mmlu["a"], mmlu["b"]) == (6, 0.625, 0.5)
    assert mmlu["difference"]["difference"] == -0.125
    difference = mmlu["difference"]
    assert (difference["p_value"] < 0.05) == difference["resolved"]
    assert (mmlu["other_answers"], mmlu["loglikelihood_gap"], mmlu["graded"]) == (3, 0.5, False)
    assert mmlu["members"]["general_mmlu_b"]["forgotten"] == []
    graded = found["tasks"]["trace_20minuten"]
    assert graded["graded"] and graded["learned"] == [["trace_20minuten", 1]]
    assert graded["difference"]["difference"] == 0.25 and graded["loglikelihood_gap"] is None


def test_tables_and_documents(group: Bench) -> None:
    out = group.must("diff", "base", "sft/stage-1", "--task", "mmlu", "--show", "1")
    assert len(must_render(out)) == 4 and max(map(len, out.splitlines())) <= 100
    assert "| mmlu |    6 | 62.5 | 50.0 | -12.50 |" in out
    # Nobody has a document wrong twice but number 0 of b: of two choices, one flip each way.
    assert "| mmlu |         2 |       1 |            1.0 |     3 |      0.5 |" in out
    assert "## mmlu: members (general_mmlu_...)" in out and "| b    |    2 | 50.0 | 50.0 |" in out
    assert "## mmlu: forgotten (1 of 2)\n\ngeneral_mmlu_a 0\n\n    gold      1\n" in out
    assert "    A (100)   choice 1, log-likelihoods -1.00, -2.00" in out
    assert "    B (0)     choice 0, log-likelihoods -1.00, -2.50" in out
    assert "general_mmlu_a: its questions cannot be shown: the config of its experiment" in out
    out = group.must("diff", "base", "sft/stage-1", "--show", "3", "--task", "trace_20minuten")
    assert "## trace_20minuten: rose (1 of 1)" in out and "trace_20minuten* " in out
    assert "    A (25)    base\n              x\n" in out  # a line end of Unicode's
    out = group.must("diff", "base", "sft/stage-1", "--task", "general_mmlu_b")
    assert "members" not in out and "| general_mmlu_b |    2 |" in out and "--show 5" not in out


def test_general_is_pooled_over_its_benchmarks(group: Bench) -> None:
    """Members weigh alike within a benchmark, and benchmarks alike: three strata."""
    home = group.root / "results" / "pooled"
    before = {"general_x_a": [1] * 8 + [0, 0], "general_x_b": [1, 1, 0], "general_y": [0.5, 0, 1]}
    after = {"general_x_a": [0] * 5 + [1] * 5, "general_x_b": [1, 1, 0], "general_y": [0.25, 1, 1]}
    general = {
        "x": {"members": {f"general_x_{m}": {"metric": "acc"} for m in "ab"}},
        "general_y": {"metric": "f1"},
    }
    for name, scores in (("base", before), ("after", after)):
        leaves = {
            leaf: [record(i, float(s), prediction="") for i, s in enumerate(values)]
            for leaf, values in scores.items()
        }
        place(home / name, leaves, general)
    found = json.loads(group.must("diff", str(home / "base"), str(home / "after"), "--json"))
    pooled, x, y = found["general"], found["tasks"]["x"], found["tasks"]["general_y"]
    assert pooled["a"] == pytest.approx((x["a"] + y["a"]) / 2)
    difference = pooled["difference"]["difference"]
    assert difference == pytest.approx((-0.3 / 2 + 0.25) / 2)
    assert (pooled["n"], pooled["n_forgotten"], pooled["n_learned"]) == (16, 6, 3)
    # At a true difference of 0: 7 of 10 and none of 3 changed; of the graded one its own variance.
    variance = (7 / 100 / 4 + variance_of_mean([-0.25, 1, 0])) / 4
    t = abs(difference) / variance**0.5
    df = variance**2 / ((variance_of_mean([-0.25, 1, 0]) / 4) ** 2 / 2)
    assert pooled["difference"]["p_value"] == pytest.approx(2 * student.sf(t, int(df)))
    out = group.must("diff", str(home / "base"), str(home / "after"))
    assert "| General*   |   16 |" in out and "the unweighted mean of its 2 benchmarks" in out
    found = json.loads(
        group.must("diff", str(home / "base"), str(home / "after"), "--json", "--task", "x")
    )
    assert "general" not in found


def test_several_tasks_are_several_comparisons(bench: Bench) -> None:
    """p .0455 for each of two is .091 after Holm's correction; beside 10 of 10 it is .0455."""
    home = bench.root / "results" / "several"

    def compared(**lost: int) -> str:
        for name in ("base", "after"):
            shutil.rmtree(home / name, ignore_errors=True)
            leaves = {
                leaf: [record(i, float(name == "base" or i >= k), prediction="") for i in range(20)]
                for leaf, k in lost.items()
            }
            place(home / name, leaves)
        return " ".join(bench.must("diff", str(home / "base"), str(home / "after")).split())

    assert "Corrected for 2 tasks (Holm), none differs." in compared(a=4, b=4)
    assert "Corrected for 2 tasks (Holm), a, b differ." in compared(a=10, b=4)
    assert "Corrected for 2 tasks (Holm), a differs." in compared(a=10, b=0)
    assert "Holm" not in compared(a=10) and "Holm" not in compared(a=1, b=2)


def variance_of_mean(values: list[float]) -> float:
    return stdev(values) ** 2 / len(values)


def test_places_are_found_in_short(group: Bench) -> None:
    home = group.root / "results" / "made"
    stage = home / "sft" / "seed-3" / "stage-1-trace_20minuten"
    for given in (
        "made/sft/seed-3/stage-1",
        "sft/stage-1",
        str(stage),
        "made/sft/stage-1-trace_20",
    ):
        code, out, err = group.run("diff", "made/base", given, "--json")
        if given.endswith("_20"):
            assert code == 2 and "no 'stage-1-trace_20' in results/made/sft (known: seed-3)" in err
        else:
            assert Path(json.loads(out)["b"]).resolve() == stage
    code, _, err = group.run("diff", "made/sft", "nothing/here")
    assert code == 2 and "has no predictions/ (there: seed-3/stage-1" in err
    assert "nothing/here: no 'nothing'" in err
    other = group.root / "results" / "newer"
    place(other / "base", {"x": [record(0, 1.0)]})
    (other / "experiment.json").write_text('{"last_run": "2027", "config": {}}')
    out = group.must("diff", "made/sft/stage-1", "base", "--json")
    assert Path(json.loads(out)["b"]) == Path("results/made/base").resolve()


def test_other_documents_are_refused(group: Bench) -> None:
    stage = group.root / "results" / "made" / "sft" / "seed-3" / "stage-1-trace_20minuten"
    file = stage / "predictions" / "general_mmlu_a.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["prompt_hash"], lines[1]["target"], lines[3]["doc_id"] = "other", 0, 9
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = group.run("diff", "made/base", "made/sft/stage-1")
    assert code == 2 and out == ""
    assert (
        "mmlu: not the same documents: 1 only in A (general_mmlu_a 3); 1 only in B "
        "(general_mmlu_a 9); 1 with another prompt (general_mmlu_a 0); 1 with another target "
        "(general_mmlu_a 1)"
    ) in err
    group.must("diff", "made/base", "made/sft/stage-1", "--task", "trace_20minuten")
    code, _, err = group.run("diff", "made/base", "sft/stage-1", "--task", "mmluu")
    assert code == 2 and "did you mean 'mmlu'" in err
    file.write_text('{"doc_id": ')
    code, _, err = group.run("diff", "made/base", "made/sft/stage-1")
    assert code == 1 and "general_mmlu_a.jsonl: unreadable" in err


def test_a_real_run_and_its_engines_agree_with_themselves(bench: Bench) -> None:
    bench.trained("--method", "sft")
    stage = "tiny/sft/seed-1/stage-1"
    again = bench.must("eval", "--stage", "1", "--engine", "hf").strip()
    found = json.loads(bench.must("diff", stage, str(Path(again).parent), "--json"))["tasks"]
    assert list(found) == ["trace_fomc", "piqa"]
    for task in found.values():
        assert task["forgotten"] == task["learned"] == [] and task["other_answers"] == 0
    assert found["piqa"]["loglikelihood_gap"] < 1e-4
    out = bench.must("diff", "base", stage)
    assert "| trace_fomc |    6 |" in out and "| piqa       |    4 |" in out


def test_diff_imports_no_torch(group: Bench) -> None:
    code = (
        "import sys; from cl_bench.cli import run_command;"
        "assert run_command(['diff', 'made/base', 'sft/stage-1']) == 0;"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
