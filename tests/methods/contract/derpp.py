"""DER++ (Buzzega et al. 2020): rehearse with the logits that the model once gave."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cl_bench.data.examples import Example
from cl_bench.methods.base import Batch, Method, Options, Stage, State, Step
from cl_bench.training.loss import AnswerOutputs, answer_logits


class DERPPOptions(Options):
    alpha: float = 0.5
    beta: float = 0.5
    buffer: int = 4


class DERPP(Method[DERPPOptions]):
    """loss + alpha * squared distance to the stored logits + beta * loss, on the buffer."""

    name = "derpp"
    keeps = ("examples", "outputs")

    def __init__(self, options: DERPPOptions | None = None) -> None:
        super().__init__(options)
        self._kept: list[list[object]] = []
        self._logits = torch.empty(0)

    def prepare(self, stage: Stage) -> None:
        known = {(e.task, e.doc_id): e for _, some in stage.earlier for e in some}
        self._stage = stage
        self._buffer: list[Example] = [known[str(t), int(str(i))] for t, i in self._kept]
        self._row = {stage.number(example): row for row, example in enumerate(self._buffer)}

    def before_step(self, step: Step) -> None:
        if self._buffer:
            batches = self._stage.batches(self._buffer)
            for name, gradient in step.gradient_of(batches, self._rehearsal).items():
                step.grads[name].add_(gradient)

    def _rehearsal(self, batch: Batch, outputs: AnswerOutputs) -> Tensor:
        rows = torch.tensor([self._row[int(number)] for number in batch["example"]])
        old = self._logits[rows[outputs.rows.cpu()], _places(outputs)].to(outputs.logits)
        distance = (outputs.logits - old).square().mean()
        label = cross_entropy(outputs.logits, outputs.labels)
        return self.options.alpha * distance + self.options.beta * label

    def finish(self, stage: Stage) -> None:
        chosen = stage.sample(self.options.buffer, "buffer")
        longest, vocabulary = stage.train.max_answer_tokens + 1, stage.model.config.vocab_size
        like = {"device": stage.device, "dtype": stage.model.dtype}
        table = torch.zeros(len(chosen), longest, vocabulary, **like)
        row = {stage.number(example): i for i, example in enumerate(chosen)}
        with torch.no_grad():
            for batch in stage.batches(chosen):
                outputs = answer_logits(stage.model, batch)
                rows = torch.tensor([row[int(number)] for number in batch["example"]])
                table[rows[outputs.rows.cpu()], _places(outputs)] = outputs.logits
        stage.all_reduce(table)  # every process has filled in its share
        self._kept += [[example.task, example.doc_id] for example in chosen]
        self._logits = torch.cat([self._logits, table.cpu()]) if len(self._logits) else table.cpu()

    def state(self) -> State:
        return State({"logits": self._logits}, {"kept": self._kept})

    def load_state(self, state: State) -> None:
        self._logits, self._kept = state.tensors["logits"], list(state.records["kept"])


def _places(outputs: AnswerOutputs) -> Tensor:
    """Which token of its answer each one is."""
    counts = outputs.rows.bincount().tolist()
    return torch.cat([torch.arange(count) for count in counts])
