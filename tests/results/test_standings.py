"""Differences and changes of a report, against loops over the files that a run leaves."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from statistics import mean, variance
from typing import Any

import pytest
from scipy.stats import chi2, t

from cl_bench.report.overview import read_overview, screen_blocks
from cl_bench.results.answers import Scoring, compare, read_scoring
from cl_bench.results.compare import compare_places
from cl_bench.results.groups import Chosen, choose
from cl_bench.results.places import Place
from cl_bench.results.pooled import pooled_general
from cl_bench.results.same_documents import Reference
from cl_bench.results.standings import Standing, Standings
from cl_bench.store.experiments import write_run
from cl_bench.store.folders import sha256_of
from cl_bench.store.once import each_file_once
from tests.helpers.invented_runs import Invented
from tests.helpers.likeliest import likeliest_variance
from tests.helpers.read import lines_of

FEW = {"mmlu": 30, "piqa": 20}


def standings_of(*folders: Path, baseline: str | None = None) -> Standings:
    (found,) = read_overview([Chosen(folder) for folder in folders], baseline).found
    return found


def method(found: Standings, label: str) -> Standing:
    (one,) = [each for each in found.methods if each.label == label]
    return one


def scores(place: Path, leaf: str) -> dict[int, float]:
    file = place / "predictions" / f"{leaf}.jsonl"
    return {record["doc_id"]: record["score"] for record in lines_of(file)}


def last(folder: Path, label: str, seed: int) -> Path:
    return sorted((folder / label / f"seed-{seed}").glob("stage-*"))[-1]


def by_hand(first: list[list[Path]], leaves: list[str]) -> tuple[float, float, float]:
    """Difference, standard error and p of places (a pair a seed), in plain loops.

    The answers are right or wrong: of one seed the test is McNemar's, over all leaves together.
    """
    per_leaf = []
    for leaf in leaves:
        seeds = []
        for one, other in first:
            a, b = scores(one, leaf), scores(other, leaf)
            seeds.append([a[document] - b[document] for document in a])
        per_leaf.append(seeds)
    if len(first) == 1:
        difference = mean(mean(seeds[0]) for seeds in per_leaf)
        error = changed = 0.0
        for (documents,) in per_leaf:
            n, forgotten, learned = len(documents), documents.count(-1), documents.count(1)
            error += likeliest_variance(forgotten, learned, n, difference) / len(leaves) ** 2
            changed += (forgotten + learned) / n**2 / len(leaves) ** 2
        return difference, math.sqrt(error), chi2(1).sf(difference**2 / changed)
    parts = []
    for seeds in per_leaf:
        documents = [mean(column) for column in zip(*seeds, strict=True)]
        error = variance(documents) / len(documents) / len(leaves) ** 2
        parts.append((error, len(documents) - 1))
    overall = [mean(mean(seeds[i]) for seeds in per_leaf) for i in range(len(first))]
    parts.append((variance(overall) / len(overall), len(overall) - 1))
    total = sum(part for part, _ in parts)
    df = int(total**2 / sum(part**2 / n for part, n in parts) + 1e-9)
    difference = mean(overall)
    return difference, math.sqrt(total), 2 * t(df).sf(abs(difference) / math.sqrt(total))


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_differences_are_those_of_loops(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    folder = Invented(seeds=seeds, benchmarks=FEW).write(tmp_path)
    found = standings_of(folder)
    leaves = {"general": ["general_mmlu", "general_piqa"], "op": list(found.tasks)}
    p_values = []
    for label in ("sft", "ewc", "fggm"):
        places = [last(folder, label, seed) for seed in seeds]
        sides = {"base": [folder / "base"] * len(seeds)}
        if label != "sft":
            sides["baseline"] = [last(folder, "sft", seed) for seed in seeds]
        for against, others in sides.items():
            pairs = [[a, b] for a, b in zip(places, others, strict=True)]
            for score in ("general", "op"):
                value, error, p = by_hand(pairs, leaves[score])
                each = method(found, label).differences[score, against]  # type: ignore[index]
                assert each.compared is not None and each.compared.paired
                comparison = each.compared.comparison
                assert comparison.difference == pytest.approx(value)
                assert comparison.stderr == pytest.approx(error, rel=1e-5)
                assert comparison.p_value == pytest.approx(p)
                p_values.append((p, each))
    ordered = sorted(p_values, key=lambda pair: pair[0])
    largest = 0.0
    for place, (p, each) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - place)))
        assert each.corrected == pytest.approx(largest)
        assert each.resolved == (largest < 0.05)
    assert found.comparisons == len(ordered) == 10


def test_members_of_a_group_weigh_the_same() -> None:
    """As in the score, whatever number of documents they have."""

    def scoring(small: list[float], large: list[float]) -> Scoring:
        values = {f"a/{i}": value for i, value in enumerate(small)}
        values |= {f"b/{i}": value for i, value in enumerate(large)}
        score = (mean(small) + mean(large)) / 2
        entry = {"score": score, "stderr": 0.1, "n": len(values)}
        return Scoring({"trace": {}, "general": {"mmlu": entry}}, {"mmlu": values})

    before = scoring([1.0] * 4, [1.0] * 96)
    after = scoring([1.0, 0.0, 0.0, 1.0], [1.0] * 90 + [0.0] * 6)
    found = compare([after], [before], ["mmlu"])
    assert found is not None and found.paired
    assert found.comparison.difference == pytest.approx(-(0.5 + 6 / 96) / 2)
    true = found.comparison.difference
    error = likeliest_variance(2, 0, 4, true) + likeliest_variance(6, 0, 96, true)
    assert found.comparison.stderr == pytest.approx(math.sqrt(error) / 2, rel=1e-5)


def test_it_is_what_diff_says(tmp_path: Path) -> None:
    folder = Invented(methods={"sft": (0.15, 0.3)}, benchmarks=FEW).write(tmp_path)
    before, after = Place(folder / "base"), Place(last(folder, "sft", 1))
    found = compare_places(before, after, list(FEW))
    diffs = {diff.task: diff for diff in found}
    pooled = pooled_general(before, after, found)
    assert pooled is not None
    diffs["General"] = pooled
    changes = method(standings_of(folder), "sft").changes
    assert [change.benchmark for change in changes] == list(diffs)
    for change in changes:
        ours, theirs = change.difference.compared, diffs[change.benchmark].comparison
        assert ours is not None and theirs is not None and theirs.p_value is not None
        for name in ("difference", "stderr", "low", "high", "p_value", "df"):
            assert getattr(ours.comparison, name) == getattr(theirs, name), name


def test_changes_are_those_of_loops(tmp_path: Path) -> None:
    folder = Invented(seeds=(1, 2), benchmarks=FEW).write(tmp_path)
    changes = {c.benchmark: c for c in method(standings_of(folder), "sft").changes}
    assert list(changes) == ["mmlu", "piqa", "General"]
    forgotten, learned = {}, {}
    for name in FEW:
        before = scores(folder / "base", f"general_{name}")
        lower = higher = 0
        for seed in (1, 2):
            after = scores(last(folder, "sft", seed), f"general_{name}")
            lower += sum(1 for document in after if after[document] < before[document])
            higher += sum(1 for document in after if after[document] > before[document])
        forgotten[name], learned[name] = lower / 2, higher / 2
        assert changes[name].documents == (forgotten[name], learned[name])
        assert changes[name].before == pytest.approx(mean(before.values()))
        assert changes[name].n == len(before)
    whole = changes["General"]
    assert whole.documents == (sum(forgotten.values()), sum(learned.values()))
    assert whole.after == pytest.approx(mean([changes["mmlu"].after, changes["piqa"].after]))
    assert (
        whole.difference.corrected
        == method(standings_of(folder), "sft").differences["general", "base"].corrected
    ), "one number, one verdict"


def test_what_stage_tasks_lost_is_that_of_loops(tmp_path: Path) -> None:
    folder = Invented(seeds=(1, 2), benchmarks=FEW).write(tmp_path)
    (found,) = read_overview([Chosen(folder)], every_file=True).found
    changes = {c.benchmark: c for c in method(found, "sft").task_changes}
    assert list(changes) == ["trace_fomc", "trace_numglue_ds"], "not what is learned last"
    for number, task in enumerate(changes, 1):
        own = [folder / f"sft/seed-{seed}/stage-{number}-{task}" for seed in (1, 2)]
        ends = [last(folder, "sft", seed) for seed in (1, 2)]
        value, error, _ = by_hand([[a, b] for a, b in zip(ends, own, strict=True)], [task])
        compared = changes[task].difference.compared
        assert compared is not None and compared.comparison.difference == pytest.approx(value)
        assert compared.comparison.stderr == pytest.approx(error)
        lower = 0
        for before, after in zip(own, ends, strict=True):
            ours, theirs = scores(after, task), scores(before, task)
            lower += sum(1 for document in ours if ours[document] < theirs[document])
        assert changes[task].documents is not None and changes[task].documents[0] == lower / 2
        assert changes[task].n == 30


def test_verdicts(tmp_path: Path) -> None:
    methods = {"sft": (0.5, 0.3), "nothing": (0.0, 0.3), "better": (-0.35, 0.3)}
    folder = Invented(methods=methods, benchmarks={"mmlu": 80, "piqa": 80}).write(tmp_path)
    for kept in ("nothing",):  # the same answers as the base model's
        for leaf in ("general_mmlu", "general_piqa"):
            text = (folder / "base/predictions" / f"{leaf}.jsonl").read_text()
            (last(folder, kept, 1) / "predictions" / f"{leaf}.jsonl").write_text(text)
        file = last(folder, kept, 1) / "scores.json"
        data = json.loads(file.read_text())
        data.pop("files"), data.pop("sha256")
        file.write_text(json.dumps(data))
    found = standings_of(folder)
    verdicts = {m.label: [c.verdict for c in m.changes] for m in found.methods}
    assert verdicts["sft"] == ["lost"] * 3 and verdicts["nothing"] == ["unchanged"] * 3
    assert verdicts["better"] == ["gained"] * 3


def test_other_documents_are_left_out(tmp_path: Path) -> None:
    folder = Invented(benchmarks=FEW).write(tmp_path)
    place = last(folder, "ewc", 1)
    file = place / "predictions/general_mmlu.jsonl"
    records = lines_of(file)
    for record in records[:5]:
        record["prompt_hash"] = "another"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    file = place / "predictions/general_piqa.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:17]) + "\n")
    data = json.loads((place / "scores.json").read_text())
    data.pop("files"), data.pop("sha256")
    (place / "scores.json").write_text(json.dumps(data))
    found = standings_of(folder)
    assert found.left_out == {"mmlu": 5, "piqa": 3}
    compared = method(found, "ewc").differences["general", "base"].compared
    assert compared is not None and compared.comparison.n == {"mmlu": 25, "piqa": 17}


def test_without_records_nothing_is_paired(tmp_path: Path) -> None:
    folder = Invented(benchmarks=FEW).write(tmp_path)
    shutil.rmtree(folder / "base/predictions")
    found = standings_of(folder)
    each = method(found, "sft").differences["general", "base"].compared
    assert each is not None and not each.paired and not found.paired
    cells = [found.base.cell(name) for name in FEW]
    after = [method(found, "sft").lasts[0].cell(name) for name in FEW]
    parts = [cell.stderr for cell in (*cells, *after) if cell is not None and cell.stderr]
    assert each.comparison.stderr == pytest.approx(math.sqrt(sum(p**2 for p in parts)) / 2)
    against = method(found, "fggm").differences["general", "baseline"].compared
    assert against is not None and against.paired, "those that have records still are"


def test_a_metric_of_all_documents_is_paired_over_resamples(tmp_path: Path) -> None:
    folder = Invented(benchmarks=FEW).write(tmp_path)
    reference = Reference()
    sides = []
    for place, shift in ((last(folder, "sft", 1), -0.2), (folder / "base", 0.0)):
        data = json.loads((place / "scores.json").read_text())
        data.pop("sha256")
        entry: dict[str, Any] = data["general"]["mmlu"]
        entry |= {"aggregation": "mcc", "resamples": [0.5 + shift, 0.52 + shift, 0.48 + shift]}
        entry |= {"score": 0.5 + shift}
        (place / "scores.json").write_text(json.dumps({**data, "files": None} | {"files": {}}))
        data.pop("files")
        (place / "scores.json").write_text(json.dumps(data))
        sides.append(read_scoring(reference, place, {"mmlu": ["general_mmlu"]}))
    found = compare([sides[0]], [sides[1]], ["mmlu"])
    assert found is not None and found.paired
    assert found.comparison.difference == pytest.approx(-0.2)
    assert found.comparison.stderr == pytest.approx(0.0, abs=1e-12)
    assert sides[0].own["mmlu"], "its documents are counted by their own answers"


def test_seeds_are_paired_with_their_like(tmp_path: Path) -> None:
    folder = Invented(seeds=(1, 2, 3), benchmarks=FEW).write(tmp_path)
    for seed in (1, 2):
        shutil.rmtree(folder / f"fggm/seed-{seed}")
    found = standings_of(folder, baseline="ewc")
    each = method(found, "fggm").differences["general", "baseline"].compared
    value, error, _ = by_hand(
        [[last(folder, "fggm", 3), last(folder, "ewc", 3)]], ["general_mmlu", "general_piqa"]
    )
    assert each is not None and each.comparison.n_seeds == 1
    assert each.comparison.difference == pytest.approx(value)
    assert each.comparison.stderr == pytest.approx(error, rel=1e-5)


def test_time_and_memory_are_those_of_one_machine(tmp_path: Path) -> None:
    folder = Invented(benchmarks=FEW).write(tmp_path)
    record = json.loads((folder / "fggm/seed-1/run.json").read_text())
    write_run(folder / "fggm/seed-1/run.json", {**record, "hardware": {"cores": 64}})
    (timing,) = (folder / "ewc/seed-1").glob("stage-2-*/timing.json")
    data = json.loads(timing.read_text())
    data.pop("sha256"), data.pop("peak_of")  # as older versions had it: of the whole process
    timing.write_text(json.dumps(data))
    found = standings_of(folder)
    assert method(found, "sft").cost.seconds == method(found, "sft").cost.memory == 1.0
    assert method(found, "ewc").cost.seconds == pytest.approx(33 / 30)
    assert method(found, "ewc").cost.memory is None
    assert method(found, "fggm").cost.seconds is None


def test_two_hundred_runs_take_less_than_five_seconds(tmp_path: Path) -> None:
    """Of processor time. The stages of one run are linked two hundred times."""
    tasks = {"trace_fomc": 50, "trace_py150": 50}
    one = Invented(methods={"sft": (0.2, 0.4)}, tasks=tasks, benchmarks={"mmlu": 200, "piqa": 50})
    folder = one.write(tmp_path)
    record = json.loads((folder / "sft/seed-1/run.json").read_text())
    for i in range(200):
        label, seed = f"method-{i // 5}", i % 5
        config = {**record["config"], "label": label, "seed": seed}
        run = folder / label / f"seed-{seed}"
        for stage in (folder / "sft/seed-1").glob("stage-*"):
            shutil.copytree(stage, run / stage.name, copy_function=os.link)
        entry = {**record, "label": label, "config": config, "sha256": sha256_of(config)}
        write_run(run / "run.json", {k: v for k, v in entry.items() if k != "seal"})
    began = time.process_time()
    with each_file_once():
        overview = read_overview([Chosen(folder)])
        screen_blocks(overview, "all.md")
    assert len(overview.found[0].methods) == 41
    assert time.process_time() - began < 5


def test_runs_are_chosen_by_name(tmp_path: Path) -> None:
    Invented(seeds=(1, 2), benchmarks=FEW).write(tmp_path / "results")
    results = tmp_path / "results"
    (found,) = read_overview(choose(["invented/sft/seed-2", "invented/ewc"], results)).found
    assert {m.label: m.result.seeds for m in found.methods} == {"sft": [2], "ewc": [1, 2]}
    assert choose([str(results)], results) == [Chosen(results / "invented")]
