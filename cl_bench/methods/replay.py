"""Experience replay: a share of every earlier task is mixed into the new one, or seen after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_serializer

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Phase, Stage, State

if TYPE_CHECKING:
    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.data.examples import Example
    from cl_bench.data.rows import Row
    from cl_bench.methods.spec import StageSpec


class ReplayOptions(Options):
    """Options of replay."""

    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of each earlier task's examples that is seen again in every epoch"
    )
    mode: Literal["mixed", "posthoc"] = Field(
        "mixed", description="posthoc: one epoch of its own after the task's (TRACE)"
    )
    selection: Literal["random", "first", "nll"] = Field(
        "random",
        description="seeded, the first (TRACE), or nll: whose answers the model finds least likely "
        "when it has learned the task",
    )
    general: str | None = Field(
        None, description="a JSON lines file of prompts and answers that is replayed in all stages"
    )
    general_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the general file's rows, a seeded sample"
    )

    @field_serializer("general", when_used="json")
    def _content(self, value: str | None) -> str | None:
        """What a run is bound to is the content of the file, wherever it lies."""
        from cl_bench.store.folders import sha256_file

        if value is None or not Path(value).is_file():
            return value
        return f"{Path(value).name} {sha256_file(Path(value))[:16]}"


class Replay(Method[ReplayOptions]):
    """Mixed replay: `ceil(ratio * n)` seeded examples of every earlier task join each epoch.

    The sample of a task is the same in all later stages (a buffer filled once), until the task is
    trained again on more examples; while it is, it is not replayed. TRACE instead trains one
    separate epoch after each task, the first too, on the first rows in file order and on LIMA:
    `mode: posthoc`, `selection: first`, `general: lima.jsonl`. There that epoch goes on with the
    optimiser of the task at a constant rate; here it has its own, and its own schedule.

    With `selection: nll` the examples of a task are ranked when its stage ends, by the mean
    negative log-likelihood of an answer's tokens, highest first; what is kept are their numbers.
    """

    name = "replay"
    family = "replay"
    splits = True
    source = "SEEKR 2024, PIECE 2025"
    keeps = "examples"

    def __init__(self, options: ReplayOptions | None = None) -> None:
        super().__init__(options)
        self._ranked: dict[str, list[int]] = {}
        """By task the `doc_id` of its examples, the first to be replayed first."""

    def answers(self, hook: str) -> bool:
        """Phases of its own only where the buffer has an epoch of its own."""
        return super().answers(hook) and (hook != "phases" or self.options.mode == "posthoc")

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """A general file that cannot be read, and a share of none."""
        if self.options.general is not None:
            try:
                self._rows()
            except UserError as error:
                yield from (f"general: {fault}" for fault in error.faults)
        elif "general_ratio" in self.options.model_fields_set:
            yield "general_ratio: of no file; give general: FILE.jsonl or leave it out"

    def adds(self, shapes: Shapes) -> Cost:
        """`ratio` of every earlier stage's examples and of the general file's, in each epoch."""
        from cl_bench.costs.added import Cost, Pass, Work

        options = self.options
        rows = 0
        if options.general is not None and Path(options.general).is_file():
            rows = math.ceil(options.general_ratio * len(self._rows()))
        work = Work(earlier=options.ratio, examples=rows)
        if options.mode == "posthoc":
            work = Work(earlier_once=options.ratio, examples_once=rows)
        if options.selection == "nll":
            work += Work(passes=(Pass(2 * shapes.products),))
        return Cost(work=work)

    def examples(self, stage: Stage, examples: Sequence[Example]) -> Sequence[Example]:
        """The stage's examples, then the buffer of every earlier task, oldest first."""
        if self.options.mode == "posthoc":
            return examples
        buffer = self._buffer(stage)
        stage.notes["replayed_examples"] = len(buffer)
        return [*examples, *buffer]

    def phases(self, stage: Stage) -> Iterator[Phase]:
        """After the stage's own epochs one on the buffer, where it has any."""
        yield from super().phases(stage)
        if self.options.mode == "posthoc":
            buffer = self._buffer(stage)
            stage.notes["replayed_examples"] = len(buffer)
            if buffer:
                yield Phase(buffer, 1)

    def finish(self, stage: Stage) -> None:
        """Rank the stage's examples, for later stages."""
        if self.options.selection == "nll":
            losses = _losses(stage)
            order = sorted(range(len(losses)), key=lambda i: (-losses[i], i))
            self._ranked[stage.task] = [stage.examples[i].doc_id for i in order]

    def state(self) -> State:
        """Numbers of examples; their texts stay in the task's file."""
        return State(records=dict(self._ranked))

    def load_state(self, state: State) -> None:
        """The ranking of every task so far."""
        self._ranked = dict(state.records)

    def _buffer(self, stage: Stage) -> list[Example]:
        """What is replayed in this stage: of earlier tasks, oldest first, then general rows."""
        found: list[Example] = []
        for task, earlier in stage.earlier:
            keep = math.ceil(self.options.ratio * len(earlier))
            found += [earlier[i] for i in self._chosen(stage, task, earlier, keep)]
        return found + self._general(stage)

    def _chosen(
        self, stage: Stage, task: str, earlier: Sequence[Example], keep: int
    ) -> Sequence[int]:
        """Which of a task's examples, in their order."""
        if self.options.selection == "first":
            return range(keep)
        if self.options.selection == "nll" and task in self._ranked:
            place = {example.doc_id: i for i, example in enumerate(earlier)}
            return sorted([place[n] for n in self._ranked[task] if n in place][:keep])
        return _drawn(stage.seed, task, len(earlier), keep)

    def _general(self, stage: Stage) -> list[Example]:
        from cl_bench.data.examples import Example, in_form

        if self.options.general is None:
            return []
        rows = self._rows()
        keep = math.ceil(self.options.general_ratio * len(rows))
        return [
            in_form(Example(rows[i].prompt, rows[i].answer, i, "general", "generate"), stage.chat)
            for i in _drawn(stage.seed, "general", len(rows), keep)
        ]

    def _rows(self) -> list[Row]:
        from cl_bench.data.rows import trace_rows

        return trace_rows(Path(str(self.options.general)))


def _drawn(seed: int, task: str, size: int, keep: int) -> list[int]:
    """`keep` of `size`, in order; the same in every stage, a smaller sample within a larger."""
    import torch

    from cl_bench.seeds import derive_seed

    generator = torch.Generator().manual_seed(derive_seed(seed, "replay", task))
    return sorted(torch.randperm(size, generator=generator)[:keep].tolist())


def _losses(stage: Stage) -> list[float]:
    """The mean negative log-likelihood of the answer tokens of each of the stage's examples."""
    import torch

    from cl_bench.training.loss import answer_logits

    sums = torch.zeros(len(stage.examples), 2, dtype=torch.float64, device=stage.device)
    numbers = torch.tensor([stage.number(example) for example in stage.examples])
    with torch.no_grad():
        for batch in stage.remaining({"sums": sums}, stage.batches(stage.examples)):
            outputs = answer_logits(stage.model, batch)
            wide = outputs.logits.to(torch.promote_types(outputs.logits.dtype, torch.float32))
            losses = torch.nn.functional.cross_entropy(wide, outputs.labels, reduction="none")
            place = batch["example"][outputs.rows]  # numbers of the stage's own are their places
            sums[:, 0].index_add_(0, place, losses.double())
            sums[:, 1].index_add_(0, place, torch.ones_like(losses, dtype=torch.float64))
    stage.all_reduce(sums)
    means = (sums[:, 0] / sums[:, 1].clamp(min=1)).cpu()
    return [float(mean) for mean in means[numbers]]  # equal examples have one number
