"""The commented config that `cl-bench init` writes for a user's own files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, get_args

import yaml
from scipy.special import ndtri

from cl_bench.checks.first_steps import GENERATED, Machine
from cl_bench.config.budgets import Budget
from cl_bench.config.evaluation import GeneralEval
from cl_bench.config.schema import ExperimentConfig, ModelConfig
from cl_bench.config.stages import is_place, name_of_data
from cl_bench.costs.model_shapes import model_file, model_shapes
from cl_bench.costs.scoring_time import scoring_tokens
from cl_bench.costs.trained import everything
from cl_bench.data.own_files.task import OwnTask, StageData, own_task, training_pairs
from cl_bench.data.task_names import name_taken
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.experiment.stage_costs import stage_costs
from cl_bench.experiment.workload import Workloads, token_counter
from cl_bench.models.load import model_path_fault
from cl_bench.resources import absolute, expanded
from cl_bench.scores.paired_changes import LEVEL, least_margin

EPOCHS = 3
FEW_GENERATED = 24
"""Documents of a generated benchmark: they show that something is lost, not how much."""
LEAST_UPDATES = 50
"""Of the smallest stage: fewer teach little, whatever the rate."""
BATCHES = (32, 16, 8, 4)
HOLDOUT, MOST_HELD = 0.1, 500
"""Part of a file's rows that is scored, and at most so many of them."""
FEW, HOLDOUT_OF_FEW = 100, 0.2
"""Of files with fewer rows than this a larger part is needed."""
TESTS = ("_test", "-test", ".test")
"""How the name of the file that is scored goes on where the rows' own ends."""
RATES = ((1e9, 1e-5), (3e8, 2e-5), (0, 5e-5))
"""Learning rates by the model's parameters: small models take larger ones."""
OF_ADAPTERS = 10
"""Times the rate of whole weights: LoRA Without Regret (2025)."""
LONGEST_PROMPT, LONGEST_ANSWER = 1024, 512
AROUND = 64
"""Tokens that a chat template may put around a question."""
STEP = 32
"""Limits of tokens are multiples of it."""
FULL = {"mmlu": 14042, "bbh": 6511, "tydiqa": 5077, "boolq": 3270, "piqa": 1838, "gsm8k": 1319}
"""Documents of General's benchmarks (docs/general.md)."""


@dataclass(frozen=True)
class Wanted:
    """What `init` is told, and what it knows of the machine."""

    files: Sequence[str]
    model: str
    out: Path
    name: str
    machine: Machine
    data_root: Path | None = None


def named(files: Sequence[str]) -> str:
    """The experiment's name where none is given."""
    tests = set(map(_test_of, files))
    names = [re.sub(r"[^A-Za-z0-9._-]", "", name_of_data(f)) for f in files if f not in tests]
    return "-".join(name for name in names if name)[:60].strip(".-_") or "mine"


def gate_command(settings: Mapping[str, Any]) -> str:
    """That holds the last stage against the base model.

    The margin is twice what so many documents could show if none of them changed.
    """
    general = GeneralEval.model_validate(settings["eval"]["general"])
    sizes = [general.documents_of(name) or FULL[name] for name in general.tasks]
    critical = float(ndtri(1 - LEVEL))
    margin = ceil(200 * least_margin({"": min(sizes)}, critical))
    stage = f"{settings['name']}/sft/stage-{len(settings['stages'])}"
    return f"cl-bench gate {stage} --against {settings['name']}/base --margin {margin}"


def first_config(wanted: Wanted) -> tuple[str, list[str], str]:
    """The text of the config, what was recognised, and the command that gates what comes of it.

    Raises UserError with every fault.
    """
    stages, made = _stages(wanted)
    shapes = model_shapes(ModelConfig(path=wanted.model)).shapes
    settings = _settings(wanted, stages, made, 1.0e9 if shapes is None else float(shapes.numel))
    facts = [line for one in made for line in (one.fact, *one.oddities)]
    return _text(wanted, settings, made), facts, gate_command(settings)


def _stages(wanted: Wanted) -> tuple[list[dict[str, Any]], list[OwnTask]]:
    faults = [fault] if (fault := model_path_fault(wanted.model)) else []
    tests = {test for file in wanted.files if (test := _test_of(file)) is not None}
    names: set[str] = set()
    stages, made = [], []
    for file in wanted.files:
        if file in tests:  # `init *.jsonl` names it too
            continue
        name = name_of_data(file)
        if name in names:
            faults.append(f"{file}: another file is called {name} too: rename one of them")
        names.add(name)
        try:
            stage, task = _stage(file, name)
        except UserError as error:
            faults += error.faults
            continue
        stages.append(stage | ({"task": f"own_{name}"} if name_taken(name) else {}))
        made.append(task)
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return stages, made


def _test_of(file: str) -> str | None:
    """The file beside another one that its name says is for scoring it."""
    if not is_place(file) or "://" in file:
        return None
    path = Path(file)
    beside = (path.with_name(f"{path.stem}{end}{path.suffix}") for end in TESTS)
    return next((str(one) for one in beside if expanded(one).is_file()), None)


def _stage(file: str, name: str) -> tuple[dict[str, Any], OwnTask]:
    """What the config says of a file, and the task that it makes."""
    where = file if "://" in file else str(absolute(file))
    stage: dict[str, Any] = {"data": file}
    if (test := _test_of(file)) is not None:
        made = own_task(name, StageData(where, str(absolute(test))), scored=True)
        return stage | {"test": test}, made
    whole = own_task(name, StageData(where), scored=False)
    if "test_split" in whole.config:  # of the folder or the data set itself
        return stage, whole
    rows = len(training_pairs(whole))
    part: float | int = HOLDOUT if rows >= FEW else HOLDOUT_OF_FEW
    holdout = MOST_HELD if rows * part > MOST_HELD else part
    return stage | {"holdout": holdout}, own_task(name, StageData(where, holdout=holdout), True)


def _settings(
    wanted: Wanted, stages: Sequence[Mapping[str, Any]], made: Sequence[OwnTask], size: float
) -> dict[str, Any]:
    """The config as data, whose paths are as they were given."""
    lr = next(rate for least, rate in RATES if size >= least)
    rows = min(len(training_pairs(one)) for one in made)
    batch = next((b for b in BATCHES if rows * EPOCHS / b >= LEAST_UPDATES), BATCHES[-1])
    general: dict[str, Any] = {"tasks": list(wanted.machine.general), "budget": "quick"}
    if wanted.machine.general == GENERATED:
        general = {"after": "last", "tasks": list(GENERATED), "limit": FEW_GENERATED}
    return {
        "name": wanted.name,
        "model": {
            "path": wanted.model,
            "dtype": wanted.machine.dtype,
            **({"chat_template": "auto"} if _has_template(wanted.model) else {}),
        },
        "seeds": [42],
        "methods": ["sft", {"name": "fggm", "alpha": 0.7}],
        "stages": [dict(stage) | {"epochs": EPOCHS} for stage in stages],
        "train": {"lr": lr, "batch_size": batch, **_lengths(wanted.model, made)},
        "eval": {"general": general},
    }


def _others(lr: float) -> list[dict[str, Any]]:
    """Methods that are written as comments: each takes as long as those that run."""
    return [
        {"name": "replay", "ratio": 0.1},
        {"name": "lora", "lr": lr * OF_ADAPTERS, "target_modules": "all-linear"},
    ]


def _lengths(model: str, made: Sequence[OwnTask]) -> dict[str, int]:
    """Limits of tokens that cut no row, within reason; none where there is no tokenizer here."""
    count = token_counter(ModelConfig(path=model))
    if count is None:
        return {}
    pairs = [pair for one in made for pair in training_pairs(one)]
    around = AROUND if _has_template(model) else 1
    longest = [max(count(p[side]) for p in pairs) + room for side, room in ((0, around), (1, 1))]
    limits = (LONGEST_PROMPT, LONGEST_ANSWER)
    prompt, answer = (
        min(STEP * ceil(most / STEP), limit) for most, limit in zip(longest, limits, strict=True)
    )
    return {"max_prompt_tokens": prompt, "max_answer_tokens": answer}


def _has_template(model: str) -> bool:
    """Whether the model's tokenizer has a chat template, as far as files on this machine tell."""
    config = ModelConfig(path=model)
    if model_file(config, "chat_template.jinja") is not None:
        return True
    file = model_file(config, "tokenizer_config.json")
    try:
        return file is not None and "chat_template" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # `plan` says what is wrong with it


@dataclass(frozen=True)
class _Times:
    """Seconds: of training by method, and of one scoring of General by budget."""

    training: Mapping[str, float]
    scoring: Mapping[str, float]
    scorings: int


def _times(wanted: Wanted, settings: Mapping[str, Any]) -> _Times | None:
    """From the FLOPs that `plan` counts; None where the model's shapes are not known."""
    stages = [
        {k: _located(v) if k in ("data", "test") else v for k, v in stage.items()}
        for stage in settings["stages"]
    ]
    methods = [*settings["methods"], *_others(settings["train"]["lr"])]
    config = ExperimentConfig.model_validate({**settings, "methods": methods, "stages": stages})
    experiment = resolve(config)
    shapes = model_shapes(config.model).shapes
    if shapes is None:
        return None
    workloads = Workloads(config, experiment.own)
    training = {}
    for run in experiment.runs:
        work = [cost.work for cost in stage_costs(run, shapes, workloads)]
        training[run.label] = (
            sum(one.total for one in work if one is not None) / wanted.machine.flops
        )
    forward = everything(shapes).flops_per_token / 3 / wanted.machine.flops
    scoring = {
        name: forward
        * scoring_tokens(GeneralEval(tasks=list(wanted.machine.general), budget=name), FULL)
        for name in get_args(Budget)
    }
    return _Times(training, scoring, 1 + len(settings["methods"]) * len(stages))


def _located(given: str) -> str:
    return given if "://" in given else str(absolute(given))


def _text(wanted: Wanted, settings: Mapping[str, Any], made: Sequence[OwnTask]) -> str:
    times = _times(wanted, settings)
    return (
        "\n".join([*_head(wanted, settings, made, times), *_rest(wanted, settings, times)]) + "\n"
    )


def _head(
    wanted: Wanted, settings: Mapping[str, Any], made: Sequence[OwnTask], times: _Times | None
) -> Iterator[str]:
    yield "# Written by `cl-bench init`. docs/own-files.md says what rows may look like,"
    yield "# docs/config.md what every key means. Paths are relative to this file. Next:"
    yield f"#   cl-bench plan {wanted.out}    (memory, disk, and what would be refused)"
    yield f"#   cl-bench run {wanted.out}"
    yield f"#   {gate_command(settings)}    (may it ship?)"
    yield f"#   cl-bench export {settings['name']}/sft FOLDER    (the model as others load it)"
    yield f"name: {_plain(settings['name'])}"
    model = settings["model"]
    asked = "  # in its own form of questions; off: plain text" if "chat_template" in model else ""
    yield f"model: {_inline(model | {'path': _beside(model['path'], wanted)})}{asked}"
    if wanted.data_root is not None:
        yield f"data_root: {_plain(_beside(str(wanted.data_root), wanted))}"
    yield "seeds: [42]          # a second seed tells chance from effect, and doubles the time"
    yield "methods:             # a run each; the base model is always scored too"
    chosen, others = settings["methods"], _others(settings["train"]["lr"])
    for entry, said in zip([*chosen, *others], _METHODS, strict=True):
        label = entry if isinstance(entry, str) else entry["name"]
        spent = f"; training some {_duration(times.training[label])}" if times else ""
        yield f"  {'# ' if entry in others else ''}- {_inline(entry)}  # {said}{spent}"
    yield "  # (Without their first #, `run` adds these two to what is there, now or later.)"
    yield "stages:              # in this order; each goes on from the one before"
    for stage, task in zip(settings["stages"], made, strict=True):
        own = {k: _beside(v, wanted) if k in ("data", "test") else v for k, v in stage.items()}
        yield f"  - {_inline(own)}  # {task.fact.partition(': ')[2].partition(': ')[2]}"


_METHODS = (
    "every weight: the yardstick",
    "70 % of the rows of every matrix stay as they are",
    "a tenth of the earlier stages' rows is trained on again",
    "adapters of every linear layer, at ten times the rate",
)


def _rest(wanted: Wanted, settings: Mapping[str, Any], times: _Times | None) -> Iterator[str]:
    train = dict(settings["train"])
    yield "train:"
    yield f"  lr: {train.pop('lr'):.1e}          # by the model's size; a third of it forgets less"
    yield from (f"  {key}: {value}" for key, value in train.items())
    yield "eval:"
    if settings["eval"]["general"].get("limit"):
        yield "  # No data of the real benchmarks was found (`cl-bench data get general`), and the"
        yield "  # hub did not answer: small generated ones stand in for them, at the end of every"
        yield "  # method (`after: every` scores them after every stage)."
    elif times is not None:
        yield f"  # General is scored {times.scorings} times (after every stage of every method)."
        yield "  # Each time, very roughly, on this machine:"
        yield "  # " + ", ".join(f"{name} {_duration(t)}" for name, t in times.scoring.items())
        yield "  # `after: last` scores it at the end of every method alone."
    general = settings["eval"]["general"]
    yield f"  general: {_inline(general)}"


def _beside(given: str, wanted: Wanted) -> str:
    """A path as the config has it; names of the Hub and of the quickstart model stay."""
    if "://" in given or not expanded(given).exists():
        return given
    relative = os.path.relpath(absolute(given), absolute(wanted.out).parent)
    return f"./{relative}" if given == wanted.model else relative


def _inline(value: Any) -> str:
    """YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return f"{value:.1e}" if isinstance(value, float) and value < 0.01 else _plain(value)


def _plain(value: Any) -> str:
    """A scalar of YAML that reads back as itself, in quotes where it has to be."""
    if not isinstance(value, str):
        return str(value)
    quoted = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)
    return quoted.strip()[1:-1]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
