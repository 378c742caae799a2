"""`cl-bench eval MODEL`: the scores of any model, without a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cl_bench.config.budgets import TRACE_GENERAL
from cl_bench.config.schema import TrainConfig, slug
from cl_bench.config.stages import is_place, name_of_data
from cl_bench.data.chat import ask_in
from cl_bench.data.definitions import definition
from cl_bench.data.loading import load_task_set
from cl_bench.data.own_files.task import StageData
from cl_bench.data.tasks import general_name, task_folders, unknown_task
from cl_bench.errors import UserError
from cl_bench.evaluation.answer_limits import limit_faults
from cl_bench.evaluation.chat_form import chat_of_folder, without_form
from cl_bench.evaluation.code.humaneval import code_faults, sandbox_warnings
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject, engine_faults, scored_form
from cl_bench.evaluation.headline import headline_faults
from cl_bench.evaluation.sampling import stratified_documents
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.rescore import GENERAL
from cl_bench.experiment.scoring import Scoring, score_into
from cl_bench.identity.bindings import recorded, scored_data
from cl_bench.models.any_folder import any_contents, any_model, any_model_faults
from cl_bench.models.load import usable_device
from cl_bench.progress import Reporter
from cl_bench.resources import absolute
from cl_bench.store.folders import locked, sha256_of, there
from cl_bench.training.cpu.heap import keep_freed_memory

SCORED = "models"
"""The folder below `results/` that holds scores of models that belong to no experiment."""


@dataclass(frozen=True)
class ModelQuestions:
    """What a model is asked, and how."""

    tasks: tuple[str, ...]
    """Names of tasks and benchmarks, or files of rows."""
    limit: int | None
    """Documents of each, a seeded sample."""
    dtype: str | None
    """None: bfloat16 on a GPU, else float32."""
    device: str | None
    """None: the first GPU, or the CPU."""
    engine: Engine
    data_root: Path | None = None
    task_paths: tuple[str, ...] = ()
    allow_code: bool = False
    chat_template: str = "off"
    """`off`, `auto`, or the text of a template."""


def score_model(model: str, asked: ModelQuestions, results: Path, reporter: Reporter) -> Path:
    """Score a model; returns the `scores.json` in `results/models/<name>-<id>`.

    The id is fixed by the model's weights and all that its scores depend on: what is there is not
    scored again, and an interrupted scoring goes on. Raises UserError for a model that cannot be
    loaded, unknown tasks, and data that is missing or wrong, all at once.
    """
    faults = any_model_faults(model, asked.engine.in_memory)
    suite, more = _suite(asked)
    if suite is None or faults:
        raise UserError([*faults, *more])
    chat, more = chat_of_folder(model, asked.chat_template, reporter.line)
    if chat is not None:
        more += without_form(suite.leaves)
    if more:
        raise UserError(more)
    if chat is not None:
        ask_in(chat, suite.leaves)
    for warning in sandbox_warnings(suite.leaves):
        reporter.line(warning)
    device = usable_device(asked.device)
    dtype = asked.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    units = suite.units((), True, TrainConfig())  # of General: nothing is cut as in training
    basis = {"model": {**any_contents(model), "dtype": dtype}}
    settings = {
        "dtype": dtype,
        "engine": str(asked.engine),
        "sha256": sha256_of([basis, [unit.depends_on() for unit in units]]),
    }
    name = Path(model).resolve().name if Path(model).is_dir() else model
    place = results / SCORED / f"{slug(name)[:60]}-{sha256_of(settings)[:8]}"
    scores = place / "scores.json"
    if there(scores):
        return scores
    place.mkdir(parents=True, exist_ok=True)
    with locked(place):
        if there(scores):  # another process was at work
            return scores
        if device.type == "cpu":
            keep_freed_memory()
        loaded, tokenizer, folder = any_model(model, dtype, device)
        reporter.scoring(name)
        data = scored_data(suite.leaves, suite.documents)
        tasks = {name: definition(members) for name, members in suite.general.items()}
        form = {"chat_template": asked.chat_template} if chat is not None else {}
        of_model = {"model": model} | form
        about = {"settings": settings | of_model, **scored_form(loaded, asked.engine)}
        rest = recorded(about, {"model": basis["model"], "tasks": tasks, "data": data})
        scoring = Scoring(Subject(loaded, tokenizer, folder), units, basis, None)
        score_into(place, scoring, suite, reporter, {"stage": 0}, lambda _: rest)
    return scores


def _suite(asked: ModelQuestions) -> tuple[Suite | None, list[str]]:
    """The tasks with their documents, or what is wrong with them."""
    faults = [*engine_faults(asked.engine)]
    names, own, more = _names(asked)
    faults += more
    if faults:
        return None, faults
    try:
        loaded = load_task_set(names.values(), asked.data_root, asked.task_paths, own=own)
    except UserError as error:
        return None, list(error.faults)
    faults += [*code_faults(loaded.tasks, asked.allow_code), *limit_faults(loaded.tasks)]
    faults += headline_faults(loaded.tasks.values())
    members = {
        given: {leaf: loaded.tasks[leaf] for leaf in loaded.members[name]}
        for given, name in names.items()
    }
    documents: dict[str, Sequence[int]] = {}
    for group in members.values():
        documents |= stratified_documents(group, asked.limit)
    return Suite({}, members, documents, {}, asked.engine, own=loaded.own), faults


def _names(asked: ModelQuestions) -> tuple[dict[str, str], dict[str, StageData], list[str]]:
    """What is asked by the name that tables give it: the task; files of rows; and faults."""
    names: dict[str, str] = {}
    own: dict[str, StageData] = {}
    faults = [
        f"--task-path {path}: not a folder"
        for path in task_folders(asked.task_paths)[1:]
        if not path.is_dir()
    ]
    if not asked.tasks:
        faults.append(f"--task: what is to be scored? A task, a benchmark, {GENERAL}, or a file")
    for given in asked.tasks:
        if is_place(given):
            where = given if "://" in given else str(absolute(given))
            own[name_of_data(given)] = StageData(where, test=where)
            names[name_of_data(given)] = name_of_data(given)
            continue
        for name in TRACE_GENERAL if given.lower() == GENERAL else (given,):
            task = general_name(name, asked.task_paths)
            if fault := unknown_task(task, asked.task_paths):
                faults.append(f"--task {given}: {fault}")
            names[name] = task
    return names, own, faults
