"""The process of one run on a host of a cluster: `on_host.py` starts it.

It works like a `cl-bench run --share` that is left one run, or the base model alone, or only
compares this host with the driver's.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cl_bench.errors import RunsFailedError, UserError
from cl_bench.experiment.processes import SilentExitError
from cl_bench.methods.spec import Experiment
from cl_bench.parallel.requests import BASE, LOOK

LOOK_SECONDS = 1.0
SAVING_SECONDS = 600.0
"""How long a process whose parent is gone may take to save what it is at."""


def main(asked: Path, answer: Path, parent: int) -> None:
    """Do what the file `asked` says (`requests.py`), ending early once `parent` is gone.

    What there is to say of a failure goes to the file `answer` too.
    """
    request = json.loads(asked.read_text(encoding="utf-8"))
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    if request["processes"] > 1 and "RANK" not in os.environ:
        _several(request["processes"], asked, answer)
        return
    try:
        _work(request)
    except SilentExitError:  # another process of the run says it
        raise
    except KeyboardInterrupt:
        _write(answer, 130, [])
        raise
    except UserError as error:
        _write(answer, 2, error.faults)
        raise
    except RunsFailedError as error:
        _write(answer, 1, error.failures)
        raise
    except Exception as error:
        _write(answer, 1, [str(error) or type(error).__name__])
        raise


def end_with(parent: int) -> None:
    """Have this process end, saving what it is at, once `parent` is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVING_SECONDS)
    os._exit(1)


def _several(processes: int, asked: Path, answer: Path) -> None:
    """This process becomes torchrun's, which starts so many."""
    from torch.distributed.run import main as torchrun

    launched = ["--standalone", "--nproc-per-node", str(processes), "-m", "cl_bench", "work"]
    torchrun([*launched, str(asked), str(answer), str(os.getpid())])


def _write(answer: Path, code: int, said: list[str]) -> None:
    answer.write_text(json.dumps({"code": code, "said": said}), encoding="utf-8")


def _work(request: Mapping[str, Any]) -> None:
    from cl_bench.evaluation.engines.choice import engine_asked
    from cl_bench.experiment.resolve import resolve_file

    results = Path(request["results"])
    given = (request["override"], request["method"], results, request["until"])
    whole = resolve_file(request["config"], *given)
    folder = results / whole.config.name
    agree = partial(_agree, whole, folder, request["expected"])
    if request["run"] == LOOK:
        _look(whole, request["allow_code"], agree)
        return
    engine = engine_asked(whole.config.engine, *request["engine"])

    from cl_bench.experiment.processes import one_voice, place
    from cl_bench.experiment.run import run_experiment
    from cl_bench.progress import Reporter

    with one_voice(), Reporter(enabled=place() == 0) as reporter:
        own = _only(whole, request["run"])
        run_experiment(own, results, engine, reporter, request["allow_code"], True, agree)


def _look(experiment: Experiment, allow_code: bool, agree: Any) -> None:
    """Compare what the numbers would be made of, without torch."""
    from cl_bench.checks.made_of import made_of, rows_to_train_on
    from cl_bench.evaluation.asked import load_asked
    from cl_bench.models.load import model_path_fault, resolve_model_path

    source = experiment.config.model.source
    if fault := model_path_fault(source):
        raise UserError(fault)
    asked = load_asked(experiment, allow_code)
    examples = rows_to_train_on(experiment, asked.stage_tasks)
    path = resolve_model_path(source, lambda _: None)
    agree(made_of(experiment, asked, examples, path, lambda _: None))


def _agree(
    experiment: Experiment, folder: Path, expected: Mapping[str, Any], contents: dict[str, Any]
) -> None:
    """Raise UserError where this host would make other runs than the driver's."""
    from cl_bench.parallel.agreement import described, differences

    here = json.loads(json.dumps(described(experiment, contents, folder)))
    if found := differences(expected, here):
        raise UserError(found)


def _only(experiment: Experiment, run: str) -> Experiment:
    """The experiment with one of its runs left to do; none for the base model alone."""
    from cl_bench.parallel.agreement import key_of

    chosen = tuple(each for each in experiment.runs if key_of(each) == run)
    assert chosen or run == BASE, run
    return replace(experiment, chosen=chosen)
