"""`cl-bench eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from cl_bench.commands.options import (
    ALLOW_CODE_HELP,
    CHAT_TEMPLATE_HELP,
    DEVICE_HELP,
    DTYPE_HELP,
    ENGINE_ARGS_HELP,
    ENGINE_HELP,
    ENGINE_PYTHON_HELP,
    LIMIT_HELP,
    TASK_PATH_HELP,
)
from cl_bench.config.dtypes import Dtype


def evaluate(
    what: str | None = typer.Argument(
        None, help="An experiment (the latest by default), or a model: a folder or a hub id."
    ),
    stage: int | None = typer.Option(
        None, min=1, help="Of an experiment: the stage whose checkpoint is scored."
    ),
    method: str | None = typer.Option(None, help="Only this method, by name or label."),
    seed: int | None = typer.Option(None, help="Only this seed."),
    task: list[str] = typer.Option(
        [],
        help="Score these (repeatable): a task, a benchmark, general for all benchmarks, and of a "
        "model also a file of rows. Of an experiment: its own by default.",
    ),
    limit: int | None = typer.Option(None, min=1, help=LIMIT_HELP),
    dtype: Dtype | None = typer.Option(None, help=DTYPE_HELP),
    device: str | None = typer.Option(None, help=DEVICE_HELP),
    chat_template: str | None = typer.Option(None, help=CHAT_TEMPLATE_HELP),
    task_path: list[Path] = typer.Option([], help=TASK_PATH_HELP),
    engine: str | None = typer.Option(None, help=ENGINE_HELP),
    engine_args: str | None = typer.Option(None, help=ENGINE_ARGS_HELP),
    engine_python: str | None = typer.Option(None, help=ENGINE_PYTHON_HELP),
    allow_code_execution: bool = typer.Option(False, help=ALLOW_CODE_HELP),
    data_root: Path | None = typer.Option(None, help="Where the data is; the run's by default."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Score again what a stage left behind, or any model; the runs' own results are not touched.

    cl-bench eval NAME --stage 2, or cl-bench eval MODEL --task piqa --limit 100
    """
    from cl_bench.errors import UserError
    from cl_bench.experiment.processes import refuse_several
    from cl_bench.store.experiments import find_experiment, is_experiment
    from cl_bench.store.file_errors import check_results_folder
    from cl_bench.terminal import say

    refuse_several("eval")
    model = what if what and stage is None and not is_experiment(what, results) else None
    folder = Path()
    if model is None:
        of_models = {"--dtype": dtype, "--chat-template": chat_template}
        _only("a model that is no run's", {**of_models, "--task-path": task_path or None})
        folder = find_experiment(what, results)
        if stage is None:
            raise UserError(f"--stage: missing: which stage of {folder} is scored?")
        latest = ", the experiment that was run last" if what is None else ""
        say(f"scoring {folder}{latest}: reading tasks, data and checkpoint")  # before slow imports
        check_results_folder(folder, "score a copy of it in a folder that can")
    else:
        _only("runs of an experiment", {"--method": method, "--seed": seed})
        say(f"scoring {model}: reading tasks, data and model")
        check_results_folder(results)

    from cl_bench.evaluation.engines.choice import engine_asked, recorded_engine
    from cl_bench.store.experiments import read_experiment

    own = recorded_engine({"config": {}} if model else read_experiment(folder))
    chosen = engine_asked(own, engine, engine_args, engine_python)

    from cl_bench.config.file import template_text
    from cl_bench.experiment.rescore import Selection, rescore
    from cl_bench.experiment.score_model import ModelQuestions, score_model
    from cl_bench.progress import Reporter
    from cl_bench.report.evals import eval_lines, model_lines

    with Reporter() as reporter:
        if model is not None:
            paths = tuple(map(str, task_path))
            asked = ModelQuestions(
                *(tuple(task), limit, dtype, device, chosen, data_root, paths),
                *(allow_code_execution, template_text(chat_template or "off", Path.cwd())),
            )
            files = [score_model(model, asked, results, reporter)]
        else:
            assert stage is not None
            selection = Selection(
                stage,
                method,
                seed,
                tuple(task),
                limit,
                chosen,
                data_root,
                allow_code_execution,
                device,
            )
            files = rescore(folder, selection, reporter)
    for file in files:
        if model is not None:
            print("\n".join(model_lines(file)))
            say(f"cl-bench: written: {file.parent}")
        else:
            say("\n".join(eval_lines(file)))  # standard output is for scripts: the files alone
            print(file)


def _only(whose: str, given: Mapping[str, object]) -> None:
    """Refuse options that say nothing about what is scored."""
    from cl_bench.errors import UserError

    if wrong := [name for name, value in given.items() if value is not None]:
        raise UserError([f"{name}: is for {whose}" for name in wrong])
