"""What a run tells others while it goes on: `status.json`, the growing matrix, trackers.

Only the first process tells anything. Nothing here changes what is trained or scored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cl_bench.errors import DivergedError, RunsFailedError
from cl_bench.experiment.workplace import Workplace
from cl_bench.live.forecast import Forecast, Part, Rates
from cl_bench.methods.spec import RunSpec
from cl_bench.results.growing import growing_rows, row_name, scores_so_far
from cl_bench.store.folders import RunFolder, there
from cl_bench.store.status_file import STATUS, kept_up, own_name, read_status
from cl_bench.trackers.tracked import Tracking, scores_of

BASE = "base"


class Watch:
    """The story of one start of `cl-bench run`, as it is told."""

    def __init__(
        self, work: Workplace, folder: Path, runs: Sequence[RunSpec], share: bool = False
    ) -> None:
        self.work, self.folder, self.runs = work, folder, runs
        self.state, self.said = "running", ""
        self.status_name = own_name() if share else STATUS
        self.began = time.time()
        self.tracking = Tracking(folder, work.config, work.reporter.line)
        work.reporter.opened(work.config.name, work.suite.columns, tuple(work.suite.general))
        work.reporter.memory = _memory_mb
        before = read_status(folder)
        rates = Rates.of(None if before is None else before.get("rates"))
        work.reporter.forecast = Forecast([*self._base(), *self._parts()], rates)
        work.reporter.stages(sum(len(work.experiment.now(run)) for run in runs), 0)

    @contextmanager
    def told(self) -> Iterator[None]:
        """While open, `status.json` is kept up; at the end it says how the run ended.

        Of processes that share an experiment each has one under a name of its own.
        """
        with kept_up(self.folder, self._content, self.work.reporter.once, self.status_name):
            try:
                yield
                self.state = "finished"
            except KeyboardInterrupt:
                self.state, self.said = "interrupted", "run the same command again to go on"
                raise
            except RunsFailedError as error:
                self.state, self.said = "diverged", str(error)
                raise
            except BaseException as error:
                self.state, self.said = "failed", str(error) or type(error).__name__
                raise
            finally:
                self.tracking.close(self.state)

    def _content(self) -> Mapping[str, Any]:
        reporter = self.work.reporter
        return {
            "state": self.state,
            "said": self.said,
            "began": self.began,
            "status": reporter.status.as_json(),
            "rates": reporter.forecast.rates.as_json(),
        }

    def _base(self) -> Iterator[Part]:
        """The base model's row, unless it is there."""
        config, suite = self.work.config, self.work.suite
        if not there(self.folder / BASE / "scores.json"):
            general = config.eval.general.after != "never"
            names = self.work.experiment.base_columns
            units = suite.units(names, general, config.train)
            yield Part(BASE, "", 0.0, {unit.name: unit.size for unit in units})

    def _parts(self) -> Iterator[Part]:
        """What is not done yet of the chosen runs."""
        for run in self.runs:
            place = self._place(run)
            for position, spec in enumerate(self.work.experiment.now(run)):
                stage = place.stage(spec.folder)
                if stage.scored or there(stage.failure_file):
                    continue
                examples = (e for t, n in spec.sets for e in self.work.examples[t, n, run.seed])
                characters = sum(len(e.prompt) + len(e.answer) for e in examples)
                work = 0.0 if stage.trained else float(characters * spec.epochs)
                units = self.work.suite.units(spec.scored.columns, spec.scored.general, spec.train)
                documents = {unit.name: unit.size for unit in units}
                yield Part(_key(run, position), run.label, work, documents)

    def _place(self, run: RunSpec) -> RunFolder:
        return RunFolder(self.folder / run.slug / f"seed-{run.seed}")

    def base(self) -> None:
        """The base model is next."""
        scores = scores_so_far(self.folder / BASE)
        self.work.reporter.part(BASE, BASE, growing_rows(self.folder) if scores else ())

    @contextmanager
    def stage(self, run: RunSpec, position: int) -> Iterator[None]:
        """While open, a stage is trained and scored, unless it is done already."""
        spec, place = run.stages[position], self._place(run)
        stage = place.stage(spec.folder)
        if stage.scored:
            self.tracking.catch_up(run.label, run.seed, place)
            yield
            return
        self.work.reporter.part(
            _key(run, position),
            row_name(stage.path),
            growing_rows(self.folder, place),
            run=self.runs.index(run) + 1,
            runs=len(self.runs),
            epochs=spec.epochs,
        )
        self.tracking.open(run.label, run.seed, place)
        self.work.reporter.heard = [partial(self.tracking.step, spec.folder)]
        try:
            yield
        except DivergedError:
            self.tracking.close("diverged")
            raise
        finally:
            self.work.reporter.heard = []
        means = {n: v for n, v in scores_of(stage.path).items() if n in ("OP", "General")}
        said = "".join(f", {name} {value:.1f}" for name, value in means.items())
        self.work.reporter.event(
            f"{run.label}, seed {run.seed}, {row_name(stage.path)}: done{said}"
        )
        self.tracking.catch_up(run.label, run.seed, place)


class NoWatch(Watch):
    """Of the other processes, which tell nothing."""

    def __init__(self) -> None:
        pass

    @contextmanager
    def stage(self, run: RunSpec, position: int) -> Iterator[None]:
        """Nothing is told."""
        yield


def _key(run: RunSpec, position: int) -> str:
    return f"{run.slug}/{run.seed}/{position}"


def _memory_mb() -> int:
    """In use now by this process; where there is an accelerator, on it."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated() // 2**20)
    return int(psutil.Process().memory_info().rss // 2**20)
