"""Dark experience replay, DER and DER++ (Buzzega et al., NeurIPS 2020, arXiv 2004.07211)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.base import Batch, Method, Options, Stage, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.data.examples import Example
    from cl_bench.methods.stored_logits import Kept
    from cl_bench.training.loss import AnswerOutputs


class DEROptions(Options):
    """Options of DER and DER++."""

    alpha: Annotated[float, Field(ge=0)] = Field(
        0.5, description="weight of the squared distance to the stored logits"
    )
    beta: Annotated[float, Field(ge=0)] = Field(
        0.5, description="weight of the loss on stored examples; 0 is DER, else DER++"
    )
    memory: Annotated[int, Field(ge=0)] = Field(
        256, description="examples of each task that are kept; 0 is plain fine-tuning"
    )
    draw: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of each of an update's two draws; as many as a batch has"
    )
    top_k: Annotated[int, Field(gt=0)] | None = Field(
        64, description="logits kept of an answer token, and the mass of the others; null: all"
    )


class DER(Method[DEROptions]):
    """loss + alpha * mean (z - z_old)^2 on one draw of the memory + beta * loss on another.

    z_old are the logits that the model gave at the answer tokens of an example when its own stage
    had ended; they are kept as they were through all later stages. Each draw is of the memory of
    all earlier tasks together, without replacement, new at every update. As in the official code
    the squared distance is a mean over logits (the paper writes their sum), and one over tokens, as
    the loss is. Of a large vocabulary the `top_k` largest logits are kept and the log of the summed
    exponentials of the others, which counts as one logit more; with `top_k: null` all are.

    The paper fills its memory while it trains, by reservoir sampling, with the logits of that
    moment, since its stream has no borders. Here tasks have an end, and equal shares.
    """

    name = "der"
    family = "replay"
    source = "Buzzega 2020, arXiv 2004.07211"
    keeps = ("examples", "outputs")

    def __init__(self, options: DEROptions | None = None) -> None:
        super().__init__(options)
        self._kept: Kept = {}

    def adds(self, shapes: Shapes) -> Cost:
        """Two draws at every update, a pass over what is kept, and that: as much as answers have.

        What is kept is in the CPU's memory and not counted there.
        """
        from dataclasses import replace

        from cl_bench.costs.added import Cost, Disk, Memory, Outputs, Pass, Work, another_gradient

        own = self.options
        if not own.memory:
            return Cost()
        terms = [weight for weight in (own.alpha, own.beta) if weight]
        vocabulary = max((shapes.parameters[name][0] for name in shapes.embeddings), default=0)
        token = vocabulary * shapes.dtype_bytes
        if own.top_k is not None and not 0 < vocabulary <= own.top_k:
            # Logits and whose they are, and the mass of the others.
            token = own.top_k * (shapes.dtype_bytes + 4) + shapes.entry_bytes
        work = sum((another_gradient(own.draw).work for _ in terms), Work())
        passes = (Pass(2 * shapes.products, own.memory),)
        each = "all logits" if own.top_k is None else f"{own.top_k} logits"
        remark = f"kept: {each} of every answer token of {own.memory} examples a task"
        return Cost(
            Memory(gradients=2 if terms else 0),
            replace(work, passes=passes),
            Disk(outputs=(Outputs(own.memory, token),)),
            (remark,),
        )

    def prepare(self, stage: Stage) -> None:
        """The memory of earlier tasks; the stage's own, where it comes again, is left out."""
        known = {(e.task, e.doc_id): e for _, some in stage.earlier for e in some}
        self._stage, self._draws = stage, stage.generator("der")
        found = [
            (known[task, place], tables)
            for task, rows in self._kept.items()
            for place, tables in rows
            if (task, place) in known
        ]
        self._memory = [example for example, _ in found]
        self._tables = {stage.number(example): tables for example, tables in found}

    def before_step(self, step: Step) -> None:
        """Adds the gradients of both terms, each on a draw of its own."""
        for weight, loss in ((self.options.alpha, self._distance), (self.options.beta, None)):
            drawn = self._draw()
            if drawn and weight:
                gradient = step.gradient_of(self._stage.batches(drawn), loss)
                for name, value in gradient.items():
                    step.grads[name].add_(value, alpha=weight)

    def _draw(self) -> list[Example]:
        import torch

        size = self.options.draw or self._stage.train.batch_size
        order = torch.randperm(len(self._memory), generator=self._draws)
        return [self._memory[i] for i in order[:size].tolist()]

    def _distance(self, batch: Batch, outputs: AnswerOutputs) -> Tensor:
        """A mean over answer tokens; one that was not there then (cut answers) has distance 0."""
        import torch

        from cl_bench.methods.stored_logits import squared_distance

        total = outputs.logits.new_zeros(())
        counts = outputs.rows.bincount(minlength=len(batch["example"])).tolist()
        answers = zip(batch["example"].tolist(), torch.split(outputs.logits, counts), strict=True)
        for number, logits in answers:
            tables = self._tables[number]
            count = min(len(logits), len(tables["logits"]))
            old = {key: table[:count].to(logits.device) for key, table in tables.items()}
            total = total + squared_distance(logits[:count], old).sum()
        return total / len(outputs.labels)

    def finish(self, stage: Stage) -> None:
        """Keep some of the stage's examples of each task, with what the model answers now."""
        from cl_bench.methods.memory import sample_of
        from cl_bench.methods.stored_logits import stored_logits

        tasks: dict[str, list[Example]] = {}
        for example in stage.examples:
            tasks.setdefault(example.task, []).append(example)
        for task, examples in tasks.items():
            chosen = sample_of(stage, "der", task, examples, self.options.memory)
            found = stored_logits(stage, chosen, self.options.top_k) if chosen else []
            self._kept[task] = [(example.doc_id, tables) for example, tables in found]

    def state(self) -> State:
        """What is kept of all tasks so far."""
        from cl_bench.methods.stored_logits import packed

        return packed(self._kept)

    def load_state(self, state: State) -> None:
        """What earlier stages kept."""
        from cl_bench.methods.stored_logits import unpacked

        self._kept = unpacked(state)
