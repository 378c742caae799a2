"""Lists of values in an entry of `methods:`: one labelled run for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cl_bench.config.schema import ExperimentConfig
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.store.experiments import find_runs, write_run
from cl_bench.store.folders import sha256_of


def experiment(*methods: Any, only: tuple[str, ...] = ()) -> Experiment:
    stages = [{"task": "mini_fomc"}, {"task": "mini_cstance"}]
    data = {"name": "x", "model": {"path": "m"}, "stages": stages, "methods": list(methods)}
    return resolve(ExperimentConfig.model_validate(data), only)


def labels(runs: tuple[RunSpec, ...]) -> list[str]:
    return [run.label for run in runs]


def options(run: RunSpec) -> list[dict[str, Any]]:
    """Of every part, the same in both stages."""
    found = [[p.options.model_dump(by_alias=True) for p in stage.parts] for stage in run.stages]
    assert found[0] == found[1]
    return found[0]


def test_each_value_is_a_run_with_a_label() -> None:
    found = experiment("sft", {"name": "fggm", "alpha": [0.5, 0.7, 0.9]}, "ewc")
    assert labels(found.runs) == [
        "sft",
        "fggm alpha=0.5",
        "fggm alpha=0.7",
        "fggm alpha=0.9",
        "ewc",
    ]
    assert [options(run)[0]["alpha"] for run in found.runs[1:4]] == [0.5, 0.7, 0.9]
    assert [run.order for run in found.runs] == [0, 1, 2, 3, 4]
    assert found.runs[1].slug == "fggm-alpha-0.5"


def test_lists_of_any_kind_and_their_product() -> None:
    entry = {
        "name": "fggm",
        "aggregation": ["input", "none"],
        "mask_first_task": [True, False],
        "fisher_examples": [None, 8],
        "lr": ["1e-5", 0.00002],
        "label": "mine",
    }
    found = experiment(entry)
    assert len(found.runs) == 16
    named = "mine aggregation=input mask_first_task=true fisher_examples=none lr=1e-5"
    assert found.runs[0].label == named and found.runs[1].label == named.replace("1e-5", "2e-5")
    assert found.runs[-1].label.endswith("none mask_first_task=false fisher_examples=8 lr=2e-5")
    assert found.runs[1].stages[0].train.lr == 2e-5
    assert found.runs[1].stages[0].origins["lr"] == "methods: " + found.runs[1].label
    assert len({str((options(run), run.stages[0].train)) for run in found.runs}) == 16


def test_what_is_a_list_by_nature_is_one_run() -> None:
    lora = {"name": "lora", "target_modules": ["q_proj", "k_proj"], "r": [2], "betas": [0.8, 0.9]}
    (run,) = experiment(lora).runs
    assert run.label == "lora r=2" and run.stages[0].train.betas == (0.8, 0.9)
    assert options(run)[0]["target_modules"] == ["q_proj", "k_proj"]


def test_parts_of_a_composition() -> None:
    parts = [{"name": "fggm", "alpha": [0.5, 0.7]}, "replay"]
    found = experiment({"compose": parts, "ratio": [0.1, 0.2]})
    assert labels(found.runs)[1] == "fggm + replay ratio=0.1 alpha=0.7"
    assert [(a["alpha"], b["ratio"]) for a, b in map(options, found.runs)] == [
        *((0.5, 0.1), (0.7, 0.1), (0.5, 0.2), (0.7, 0.2))
    ]
    same = [{"name": name, "fisher_examples": [3, 4]} for name in ("fggm", "ewc")]
    found = experiment({"compose": same})
    assert labels(found.runs)[1] == "fggm + ewc fggm.fisher_examples=3 ewc.fisher_examples=4"
    whole = experiment({"compose": ["fggm", "ewc"], "fisher_examples": [3, 4]})
    assert [[o["fisher_examples"] for o in options(run)] for run in whole.runs] == [[3, 3], [4, 4]]


def test_methods_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from cl_bench.methods.base import Method, Options\n"
        "class O(Options):\n    sizes: list[int] | None = None\n    power: float = 1.0\n"
        "class Own(Method[O]):\n    name = 'own'\n"
    )
    found = experiment({"file": str(file), "sizes": [1, 2], "power": [1.5, 2.0]})
    assert labels(found.runs) == ["own power=1.5", "own power=2.0"]
    assert options(found.runs[0]) == [{"sizes": [1, 2], "power": 1.5}]


def test_the_label_of_the_entry_chooses_all_of_its_runs() -> None:
    methods = [
        {"name": "fggm", "alpha": [0.5, 0.7], "label": "low"},
        {"compose": ["fggm", "replay"], "ratio": [0.1, 0.2]},
        "sft",
    ]
    chosen = [
        labels(experiment(*methods, only=(one,)).chosen)
        for one in ("low", "low alpha=0.7", "fggm", "fggm + replay")
    ]
    low = ["low alpha=0.5", "low alpha=0.7"]
    assert chosen[:3] == [low, low[1:], low]
    assert chosen[3] == ["fggm + replay ratio=0.1", "fggm + replay ratio=0.2"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "fggm", "alpha": []}, "methods: fggm: alpha: the list is empty"),
        ({"name": "fggm", "alpha": [0.5, 0.5]}, "methods: fggm: alpha: the list has 0.5 twice"),
        ({"name": "fggm", "alpha": [0.5, 7]}, "methods: fggm alpha=7: alpha: "),
        (
            {"name": "fggm", "alpha": [[0.5]]},
            "methods: fggm: alpha: Input should be a valid number",
        ),
        ({"name": "fggm", "alhpa": [0.5, 7]}, "methods: fggm: alhpa: unknown key"),
    ],
)
def test_faults_name_the_entry(entry: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        experiment(entry, only=("fggm",))
    (fault,) = caught.value.faults
    assert fault.startswith(said)


def test_runs_on_disk_are_found_by_the_label_of_their_entry(tmp_path: Path) -> None:
    for run in experiment({"name": "fggm", "alpha": [0.5, 0.7], "label": "low"}).runs:
        config = {"label": run.label, "stages": []}
        record = {"sha256": sha256_of(config), "config": config, "order": run.order, "of": run.of}
        (tmp_path / run.slug / "seed-1").mkdir(parents=True)
        write_run(tmp_path / run.slug / "seed-1" / "run.json", record)
    assert len(find_runs(tmp_path, "low")) == 2
    (found,) = find_runs(tmp_path, "low alpha=0.7")
    assert found.path.parent.name == "low-alpha-0.7"
