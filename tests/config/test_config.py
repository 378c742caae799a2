"""The experiment file: merging, precedence, and what its faults look like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cl_bench.config.evaluation import GeneralEval
from cl_bench.config.file import load_config
from cl_bench.config.schema import slug
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve, resolve_file
from tests.helpers.configs import faults_of, write


def test_every_fault_is_in_one_message_with_file_key_and_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path, nmae="y", train={"lr": -1, "schedul": "linear"}, seeds=[1, 1])
    faults = faults_of(path)
    assert all(fault.startswith(path) for fault in faults)
    joined = "\n".join(faults)
    assert "nmae: unknown key (did you mean 'name'?)" in joined
    assert "train.schedul: unknown key (did you mean 'schedule'?)" in joined
    assert "train.lr: Input should be greater than 0" in joined
    assert "seeds: a seed is listed twice" in joined
    assert len(faults) == 4


def test_limits_and_budgets_of_general(tmp_path: Path) -> None:
    def general(**options: object) -> GeneralEval:
        return load_config(write(tmp_path, eval={"general": options})).eval.general

    assert general().documents_of("mmlu") is None
    assert general(limit=9).documents_of("mmlu") == 9
    limited = general(limit={"mmlu": 570, "gsm8k": 100})
    assert [limited.documents_of(name) for name in ("mmlu", "gsm8k", "bbh")] == [570, 100, None]
    quick = general(tasks=["MMLU", "hellaswag"], budget="quick")
    assert quick.settings() == {
        "tasks": ["MMLU", "hellaswag"],
        "protocol": "lm-eval",
        "limit": {"MMLU": 285, "hellaswag": 200},
    }
    assert general(budget="full").settings() == general().settings()


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    ("key", "start"),
    [
        ("eval.general.limit", "eval.general.limit: limit: {} documents give no score"),
        ("eval.general.limit.piqa", "eval.general.limit: piqa: {} documents give no score"),
        ("eval.trace.limit", "eval.trace.limit: Input should be greater than 0"),
        ("eval.within_stage.limit", "eval.within_stage.limit: Input should be greater than 0"),
        ("stages.0.limit", "stages.0.limit: Input should be greater than 0"),
        ("stages.0.test_limit", "stages.0.test_limit: Input should be greater than 0"),
    ],
)
def test_no_documents_are_no_limit(tmp_path: Path, key: str, start: str, value: int) -> None:
    """In the file and by -o alike: 0 is never read as "all"."""
    path = write(tmp_path)
    (fault,) = faults_of(path, f"{key}={value}")
    assert start.format(value) in fault
    data: dict[str, object] = {"eval": {}, "stages": [{"task": "mini_fomc"}]}
    place: object = data
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in parents:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})  # type: ignore[union-attr]
    place[last] = value  # type: ignore[index]
    (fault,) = faults_of(write(tmp_path, "in_file.yaml", **data))
    assert start.format(value) in fault


def test_faults_of_methods_and_stages_come_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        methods=["fgm", {"name": "fggm", "alpa": 0.5}, {"name": "ewc", "lambda": -1}],
        stages=[{"task": "mini_fomc", "epoch": 3}],
    )
    joined = "\n".join(faults_of(path))
    assert "unknown method 'fgm' (did you mean 'fggm'?)" in joined
    assert "alpa: unknown key (did you mean 'alpha'?)" in joined
    assert "lambda: Input should be greater than 0" in joined
    assert "epoch: unknown key (did you mean 'epochs'?)" in joined


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "expected keys and values"),
        ("a: [1\n", "not readable as YAML"),
        ("extends: config.yaml\n", "circle"),
        ("extends: nowhere.yaml\n", "no such file"),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert expected in faults_of(str(file))[0]


def test_a_config_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"trase.yaml: no such config .*configs/trace.yaml"):
        load_config("configs/trase.yaml")


def test_precedence_default_method_train_entry_stage(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        methods=["lora", {"name": "lora", "label": "own", "lr": 3e-4}],
        stages=[{"task": "mini_fomc"}, {"task": "mini_cstance", "lr": 4e-4}],
    )
    (plain, own) = resolve_file(path).runs
    assert plain.stages[0].train.lr == 1e-4
    assert plain.stages[0].origins["lr"] == "method lora"
    assert own.stages[0].train.lr == 3e-4
    assert own.stages[0].origins["lr"] == "methods: own"
    assert own.stages[1].train.lr == 4e-4
    assert own.stages[1].origins["lr"] == "stages.1"
    assert plain.stages[0].origins["batch_size"] == "default"
    (plain, _) = resolve_file(path, ["train.lr=2e-4"]).runs
    assert plain.stages[0].train.lr == 2e-4
    assert plain.stages[0].origins["lr"] == "train"


def test_method_options_of_entry_and_stage(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        methods=[{"name": "fggm", "alpha": 0.5}, {"compose": ["fggm", "replay"], "ratio": 0.2}],
        stages=[{"task": "mini_fomc"}, {"task": "mini_cstance", "alpha": 0.9}],
    )
    (fggm, both) = resolve_file(path).runs
    assert [stage.parts[0].options.alpha for stage in fggm.stages] == [0.5, 0.9]  # type: ignore[attr-defined]
    assert [part.method.name for part in both.stages[0].parts] == ["fggm", "replay"]
    assert both.stages[0].parts[1].options.ratio == 0.2  # type: ignore[attr-defined]
    assert both.label == "fggm + replay"


def test_extends_and_overrides_merge(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", train={"lr": 1e-4, "batch_size": 8}, data_root="data")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nname: child\ntrain: {lr: 2.0e-4}\n")
    config = load_config(str(child), ["train.batch_size=4", "stages.0.epochs=7"])
    assert (config.name, config.train.lr, config.train.batch_size) == ("child", 2e-4, 4)
    assert config.stages[0].epochs == 7
    assert config.data_root == str(tmp_path / "data")


@pytest.mark.parametrize("override", ["train.lr", "=3", "train..lr=1", "train.lr=[1"])
def test_malformed_overrides(tmp_path: Path, override: str) -> None:
    assert "-o" in faults_of(write(tmp_path), override)[0]


def test_only_narrows_methods_and_ori_is_no_run(tmp_path: Path) -> None:
    path = write(tmp_path, methods=["ori", "sft", "fggm"], seeds=[1, 2])
    experiment = resolve_file(path)
    config, runs = experiment.config, experiment.chosen
    assert [(run.label, run.seed) for run in runs] == [
        ("sft", 1),
        ("sft", 2),
        ("fggm", 1),
        ("fggm", 2),
    ]
    assert {run.label for run in resolve(config, ["FGGM"]).chosen} == {"fggm"}
    with pytest.raises(UserError, match="--method fgm: not in methods"):
        resolve(config, ["fgm"])


def test_a_method_is_chosen_by_name_or_by_label(tmp_path: Path) -> None:
    methods = ["sft", {"name": "fggm", "label": "low"}, {"name": "fggm", "label": "high"}]
    path = write(tmp_path, methods=[*methods, {"compose": ["fggm", "ewc"]}])
    config = resolve_file(path).config
    labels = {
        name: [run.label for run in resolve(config, [name]).chosen]
        for name in ("fggm", "high", "fggm + ewc")
    }
    assert labels == {"fggm": ["low", "high"], "high": ["high"], "fggm + ewc": ["fggm + ewc"]}
    with pytest.raises(UserError, match=r"--method lora: not in methods:.*fggm, .*low"):
        resolve(config, ["lora"])


def test_a_fault_in_any_entry_is_found_whatever_is_chosen(tmp_path: Path) -> None:
    path = write(
        tmp_path, methods=["sft", {"name": "fggm", "alpha": 7}, {"name": "ewc", "lmbda": 1}]
    )
    with pytest.raises(UserError) as caught:
        resolve_file(path, only=["sft"])
    joined = "\n".join(caught.value.faults)
    assert "methods: fggm: alpha" in joined and "lmbda: unknown key" in joined


def test_a_model_folder_beside_the_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (
        here / "owner/name",
        there / "owner/name",
        there / "owner/only",
        here / "smollm2-135m",
    ):
        folder.mkdir(parents=True)
    monkeypatch.chdir(there)

    def path_of(given: str, *overrides: str) -> str:
        return load_config(write(here, model={"path": given}), overrides).model.path

    assert path_of("owner/name") == str(here / "owner/name")
    assert path_of("./owner/name") == path_of("../here/owner/name") == str(here / "owner/name")
    assert path_of("x/y", "model.path=owner/name") == str(there / "owner/name")
    assert path_of("owner/only") == str(there / "owner/only")
    assert path_of("owner/hub") == "owner/hub" and path_of("smollm2-135m") == "smollm2-135m"
    assert path_of("./gone") == str(here / "gone")


def test_a_method_for_each_stage_makes_one_run(tmp_path: Path) -> None:
    stages = [
        {"task": "mini_fomc", "method": "lora"},
        {"task": "mini_cstance", "method": {"name": "fggm", "alpha": 0.9}},
    ]
    runs = resolve_file(write(tmp_path, methods=None, stages=stages)).runs
    assert [run.label for run in runs] == ["lora then fggm"]
    assert runs[0].stages[1].parts[0].options.alpha == 0.9  # type: ignore[attr-defined]
    assert "either methods:" in faults_of(write(tmp_path, stages=stages))[0]


def test_two_entries_need_different_labels(tmp_path: Path) -> None:
    path = write(tmp_path, methods=["fggm", {"name": "fggm", "alpha": 0.5}])
    assert "give each its own label" in faults_of(path)[0]


def test_a_users_method_file_is_found_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from cl_bench.methods.base import Method\n\n\nclass Mine(Method):\n    name = 'mine'\n"
    )
    runs = resolve_file(write(tmp_path, methods=[{"file": "mine.py"}])).runs
    assert [run.label for run in runs] == ["mine"]
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    assert "ModuleNotFoundError" in faults_of(write(tmp_path, methods=[{"file": "broken.py"}]))[0]


def test_slugs_are_folder_names() -> None:
    assert slug("FGGM w/o IA") == "fggm-w-o-ia"
    assert slug("///") != slug("+") and slug("///").startswith("method-")


def test_a_config_is_checked_without_torch() -> None:
    code = (
        "import sys; from cl_bench.experiment.resolve import resolve_file;"
        "resolve_file('configs/trace.yaml'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
