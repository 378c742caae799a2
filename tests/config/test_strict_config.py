"""What a config may not say: each kind of mistake is found before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cl_bench.config.evaluation import EvalConfig, GeneralEval
from cl_bench.config.file import load_config
from cl_bench.config.labels import TAKEN
from cl_bench.config.schema import ExperimentConfig, StageConfig, TrainConfig, slug
from cl_bench.config.yaml_text import parse
from cl_bench.errors import UserError, said_once
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.ewc import EWC
from cl_bench.methods.fggm import FGGM
from tests.helpers.configs import MINIMAL, faults_of, write

TWO = [{"task": "mini_fomc"}, {"task": "mini_cstance"}]


def message(path: str, *overrides: str) -> str:
    return "\n".join(faults_of(path, *overrides))


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        (TrainConfig, "lr", [True, float("nan"), float("inf"), ".nan", "nan", "yes", [1.0]]),
        (TrainConfig, "warmup_steps", [False, 0.5, "many"]),
        (TrainConfig, "micro_batch_size", [True, "all"]),
        (TrainConfig, "betas", [[1.0, 0.9], [0.9, -0.1], [0.9], [True, 0.9], 0.9]),
        (TrainConfig, "gradient_checkpointing", ["true", 2, 0.5, "on", "no", [True]]),
        (StageConfig, "epochs", [True, 1.5, "2x"]),
        (StageConfig, "score", ["false", -1]),
        (GeneralEval, "limit", [True, {"mmlu": True}, {"mmlu": 1.5}]),
        (EvalConfig, "within_stage", [True, {"every": True}]),
        (EWC.options_type, "lambda", [True, float("inf")]),
        (FGGM.options_type, "alpha", [True, False, "nan"]),
        (FGGM.options_type, "mask_first_task", ["true", 3]),
    ],
)
def test_no_number_from_what_is_none(
    section: type[BaseModel], key: str, values: list[object]
) -> None:
    more = {"task": "mini_fomc"} if section is StageConfig else {}
    for value in values:
        with pytest.raises(ValueError, match=r"valid|number|true or false|less|greater|literal"):
            section.model_validate({**more, key: value})


def test_numbers_and_switches_that_are_meant() -> None:
    train = TrainConfig.model_validate({"lr": "1e-5", "batch_size": 8.0, "betas": [0, "9e-1"]})
    assert (train.lr, train.batch_size, train.betas) == (1e-5, 8, (0.0, 0.9))
    assert EvalConfig.model_validate({"within_stage": 7}).within_stage.every == 7  # type: ignore[union-attr]
    assert EvalConfig.model_validate({"within_stage": False}).within_stage is None
    assert EvalConfig.model_validate({"probes": False}).probes is None
    assert EvalConfig.model_validate({"probes": True}).probes is not None
    assert FGGM.options_type.model_validate({"mask_first_task": False}) is not None


@pytest.mark.parametrize("seeds", [[True], [2**64], ["one"], [-1], []])
def test_seeds_are_whole_numbers_that_name_folders(tmp_path: Path, seeds: list[object]) -> None:
    assert "seeds" in message(write(tmp_path, seeds=seeds))


def test_keys_that_are_given_twice_are_named_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    text = yaml.safe_dump(MINIMAL) + "train:\n  lr: 0.1\n  batch_size: 4\n  lr: 0.2\nname: y\n"
    file.write_text(text)
    lines = text.splitlines()
    found = faults_of(str(file))
    first, second = lines.index("  lr: 0.1") + 1, lines.index("  lr: 0.2") + 1
    assert f"{file}: train.lr: given twice, in line {first} and in line {second}: keep one" in found
    assert any(f"{file}: name: given twice" in fault for fault in found) and len(found) == 2
    (fault,) = faults_of(write(tmp_path), "train={lr: 1, lr: 2}")
    assert fault.startswith("-o train={lr: 1, lr: 2}: lr: given twice, in line 1")
    child = tmp_path / "child.yaml"
    child.write_text("extends: twice.yaml\n")
    assert faults_of(str(child)) == found
    file.write_text(yaml.safe_dump({**MINIMAL, "methods": None}) + "methods: [sft]\n")
    assert "methods: given twice" in message(str(file))


@pytest.mark.parametrize("text", ["a: 010", "a: [1, 2:30]", "a: {b: -07}", "a: 1:30.5"])
def test_numbers_of_other_bases_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"x: a.*in line 1 is no decimal number: YAML reads"):
        parse(text, "x")
    assert parse("a: [0, 10, 0.5, '010', 1e-3]", "x") == {"a": [0, 10, 0.5, "010", "1e-3"]}


def test_yaml_that_is_none(tmp_path: Path) -> None:
    for number, text in enumerate(("a: [" * 5000, "a: 99-99-99\n- b")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert "not readable as YAML" in message(str(file))
    file.write_bytes("name: größe".encode("latin-1"))
    assert "save it as UTF-8" in message(str(file))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.5.epochs=1", "stages.5: there are 2 stages, counted from 0 to 1"),
        ("stages.-1.epochs=1", "stages.-1: there are 2 stages"),
        ("stages.last.epochs=1", "stages.last: there are 2 stages"),
        ("seeds.1=4", "seeds.1: there is only seeds.0"),
        ("methods.3.alpha=0.5", "methods.3: there are 2 methods"),
        ("eval.general.limit.piqa=3", "eval.general.limit is 9, which has no keys"),
        ("name.x=1", "name is 'x', which has no keys"),
    ],
)
def test_overrides_of_what_is_not_there(tmp_path: Path, override: str, expected: str) -> None:
    path = write(
        tmp_path, stages=TWO, seeds=[3], methods=["sft", "fggm"], eval={"general": {"limit": 9}}
    )
    assert f"-o {override}: {expected}" in message(path, override)


def test_overrides_add_to_what_stands_in_short(tmp_path: Path) -> None:
    methods = ["sft", "fggm", {"compose": ["fggm", "replay"]}]
    path = write(tmp_path, methods=methods, eval={"within_stage": 50})
    runs = resolve_file(
        path,
        ["methods.1.alpha=0.5", "methods.1.label=half", "methods.2.compose.1.ratio=0.4"],
    ).runs
    assert [run.label for run in runs] == ["sft", "half", "fggm + replay"]
    assert runs[1].stages[0].parts[0].options.alpha == 0.5  # type: ignore[attr-defined]
    assert runs[2].stages[0].parts[1].options.ratio == 0.4  # type: ignore[attr-defined]
    config = load_config(path, ["eval.within_stage.limit=3"])
    assert (config.eval.within_stage.every, config.eval.within_stage.limit) == (50, 3)  # type: ignore[union-attr]
    config = load_config(path, ["methods.1.name=ewc", "methods.0={file: x.py}"])
    assert config.methods is not None
    assert [entry.name for entry in config.methods] == [None, "ewc", None]
    own = [{"task": "mini_fomc", "method": "fggm"}]
    runs = resolve_file(
        write(tmp_path, methods=None, stages=own), ["stages.0.method.alpha=0.9"]
    ).runs
    assert runs[0].stages[0].parts[0].options.alpha == 0.9  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "tasks", [["FOMC", "trace_fomc"], ["C-STANCE", "c-stance"], ["trace_py150", "PY150"]]
)
def test_two_spellings_are_one_task(tmp_path: Path, tasks: list[str]) -> None:
    stages = [{"task": task, "limit": index + 3} for index, task in enumerate(tasks)]
    found = message(write(tmp_path, stages=stages))
    assert f"stages: {tasks[0]} and {tasks[1]} are one task: write it in one way" in found
    assert "got" not in found
    twice = resolve_file(write(tmp_path, stages=[stages[0], stages[0]]))  # it may come again
    assert len(twice.tasks) == 1 and len(twice.sequence) == 2


@pytest.mark.parametrize(
    "label", [*sorted(TAKEN - {".lock"}), "BASE", "con", "Nul.x", "lpt1", "  "]
)
def test_labels_that_cannot_be_folders(tmp_path: Path, label: str) -> None:
    found = message(write(tmp_path, methods=["sft", {"name": "ewc", "label": label}]))
    assert f"methods: {label}: " in found


@pytest.mark.parametrize("label", ["a\nb", "bell\x07", "x" * 201, "\u2028", "", "é" * 300])
def test_labels_that_break_a_line_or_a_file_system(tmp_path: Path, label: str) -> None:
    found = faults_of(write(tmp_path, methods=[{"name": "sft", "label": label}]))
    assert len(found) == 1 and found[0].isprintable() and len(found[0]) < 300 + len(str(tmp_path))


def test_two_labels_never_share_a_folder(tmp_path: Path) -> None:
    labels = [
        "日本",
        "中文",
        "model 日本",
        "model 中文",
        "größe",
        "gräße",
        "+++",
        "***",
        "a|b",
        "../up",
    ]
    entries = [{"name": "sft", "label": label} for label in labels]
    runs = resolve_file(write(tmp_path, methods=entries)).runs
    assert len({run.slug for run in runs}) == len(labels)
    for run in runs:
        assert Path(run.slug).name == run.slug and run.slug.isascii() and run.slug[0] != "."
    same = [{"name": "sft", "label": "a+b"}, {"name": "sft", "label": "A-B"}]
    assert "give each its own label:, these name the same folder 'a-b'" in message(
        write(tmp_path, methods=same)
    )


@pytest.mark.parametrize("name", ["con", "COM1.x", "ends.", "x" * 201, "a/b", "..", "a b", ""])
def test_names_that_cannot_be_folders(tmp_path: Path, name: str) -> None:
    assert ": name: " in message(write(tmp_path), f"name='{name}'")


def test_the_base_model_is_no_method(tmp_path: Path) -> None:
    found = message(write(tmp_path, methods=["sft", {"compose": ["ori", "replay"]}]))
    assert "'ori' is the base model" in found and "did you mean" not in found
    found = message(write(tmp_path, methods=["sft", {"name": "ori", "lr": 1e-3}]))
    assert "methods: ori: the base model takes no lr" in found
    found = message(write(tmp_path, methods=[{"compose": ["sft", {"compose": ["ewc"]}]}]))
    assert "inside of a composition" in found and "None" not in found


def test_faults_of_the_file_and_of_methods_and_tasks_come_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        seeds=[1, 1],
        train={"lr": -1, "bacth_size": 3},
        methods=["fgm", {"name": "fggm", "alpha": 7}, {"name": "ewc", "label": "base"}, 5],
        stages=[{"task": "mini_fomc", "epoch": 3}, {"epochs": 2}],
        task_paths=["nowhere"],
    )
    found = faults_of(path)
    for part in (
        "seeds: a seed is listed twice",
        "train.lr: Input should be greater than 0 (got -1)",
        "bacth_size: unknown key",
        "unknown method 'fgm'",
        "alpha: Input should be less than 1",
        "'base' is taken by cl-bench",
        "methods.3",
        "epoch: unknown key (did you mean 'epochs'?)",
        "stages.1.task: is required",
        "nowhere is not a folder",
    ):
        assert any(part in fault for fault in found), part
    assert all(fault.startswith(path) for fault in found)
    assert len(found) == len(set(found))


def test_a_fault_shows_no_dump_of_what_was_given(tmp_path: Path) -> None:
    for changes in (
        {"stages": [TWO[0], {**TWO[0], "score": False}]},
        {"methods": [{"name": "sft", "file": "x"}]},
    ):
        for fault in faults_of(write(tmp_path, **changes)):  # type: ignore[arg-type]
            assert "{'" not in fault


def test_lists_of_known_names_are_printed_once() -> None:
    faults = [f"unknown {name} (known: a, b, c, d)" for name in "xyz"] + ["q (known: a, b)"] * 2
    assert (
        said_once(faults)
        == [faults[0], *(f"unknown {n} (known: as above)" for n in "yz")] + ["q (known: a, b)"] * 2
    )


def test_a_config_in_an_old_experiment_is_read_as_it_was() -> None:
    assert slug("FGGM w/o IA") == "fggm-w-o-ia" and slug("fggm + replay") == "fggm-replay"
    assert ExperimentConfig.model_validate(MINIMAL).name == "x"
