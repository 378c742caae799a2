"""Runs batches through a model whose layers record, and squares per-sample gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.errors import RunError
from cl_bench.importance.capture import (
    NotBatchedError,
    expandable,
    expanded_norm,
    recorded_embedding,
    recorded_linear,
)
from cl_bench.importance.recorder import GramCache, Granularity, ScoredBatch, WeightRecorder
from cl_bench.importance.split_recorder import SplitRecorder
from cl_bench.models.layouts import is_conv1d, layouts
from cl_bench.training.cpu import matmul
from cl_bench.training.cross_entropy import summed_cross_entropy
from cl_bench.training.graph import leaves_read
from cl_bench.training.idle import weight_of
from cl_bench.training.linear import SelectiveLinear
from cl_bench.training.loss import answer_logits
from cl_bench.training.patching import replace
from cl_bench.training.sharding import computes_on, is_sharded, is_split


class Scorer:
    """Adds the squared per-sample gradients of batches to `scores`, in place.

    `targets`: the parameters to score, by name; `scores`: zeros of their aggregated shapes.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Mapping[str, nn.Parameter],
        scores: Mapping[str, Tensor],
        granularity: Granularity,
    ) -> None:
        self.model, self.scores, self.granularity = model, scores, granularity
        self.batch, self.grams = ScoredBatch(), GramCache()
        self.layouts = layouts(model)
        find = getattr(model, "get_output_embeddings", None)
        self.head = find() if find else None
        names = {id(parameter): name for name, parameter in targets.items()}
        unknown = _of_unknown_layers(model)
        self.dense = {n: p for n, p in targets.items() if id(p) in unknown}
        self.names = {key: name for key, name in names.items() if key not in unknown}
        self.one_by_one = bool(self.dense)
        self.split = is_sharded(model)
        self.checked = False
        self.restore: dict[nn.Module, Callable[[], None]] = {}
        self.weights: dict[int, WeightRecorder] = {}
        self.copies: list[tuple[str, Tensor]] = []
        self.vectors: dict[str, Tensor] = {}
        device = computes_on(next(model.parameters()))
        self.anchor = torch.empty(0, device=device, requires_grad=True)

    @contextmanager
    def patched(self) -> Iterator[None]:
        """While open, layers hand over what the scores need, and unknown ones take gradients."""
        try:
            for module in self.model.modules():
                forward = self._forward_of(module)
                if forward is not None:
                    self.restore[module] = replace(module, forward)
            for parameter in self.dense.values():
                parameter.requires_grad_(True)
            yield
        finally:
            for module in list(self.restore):
                self.restore.pop(module)()
            for parameter in self.dense.values():
                parameter.requires_grad_(False)
                parameter.grad = None

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Scores one batch; sample by sample where layers cannot keep samples apart."""
        if not self.one_by_one:
            try:
                self._add(batch)
                return
            except NotBatchedError:  # raised in forward, before anything was added
                self.one_by_one = True
        if self.split:
            raise RunError(
                "Fisher scores: the model has layers that need one sample at a time, which its "
                "processes cannot do together: give shard: false"
            )
        for sample in range(len(batch["input_ids"])):
            single = {key: value[sample : sample + 1] for key, value in batch.items()}
            try:
                self._add(single)
            except NotBatchedError:
                self._add(single)

    def _add(self, batch: Mapping[str, Tensor]) -> None:
        if not self.split and not bool((batch["labels"][:, 1:] != -100).any()):
            return
        self._reset()
        self.batch.samples = len(batch["input_ids"])
        with self._reads_that_show():
            outputs = answer_logits(self.model, batch)
            loss = summed_cross_entropy(outputs.logits, outputs.labels) * weight_of(batch)
            if not self.checked and self._reads_itself(leaves_read(loss)):
                raise NotBatchedError
        self.checked = True
        self.batch.answers = outputs.rows
        loss.backward()  # type: ignore[no-untyped-call]
        for recorder in self.weights.values():
            if recorder.pending or recorder.lookups:
                recorder.finish()
        self._add_vectors()
        for name, parameter in self.dense.items():
            self._add_dense(name, parameter)
        self._reset()

    @contextmanager
    def _reads_that_show(self) -> Iterator[None]:
        """In the first pass, scored parameters that are read outside of their layer are leaves."""
        scored = [p for p in self.model.parameters() if id(p) in self.names]
        for parameter in [] if self.checked else scored:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in scored:
                parameter.requires_grad_(False)
            for parameter in self.dense.values():
                parameter.requires_grad_(True)

    def _reads_itself(self, read: Sequence[Tensor]) -> bool:
        """Whether the model read scored weights outside of their layers; unknown ones from now on.

        Of a split model they are others than its own: the weights as they were gathered.
        """
        if self.split:
            return any(isinstance(leaf, nn.Parameter) and leaf.dim() > 1 for leaf in read)
        return self._take_as_dense({id(leaf) for leaf in read})

    def _take_as_dense(self, read: set[int]) -> bool:
        """Layers whose weights the model reads itself (Mamba's dt_proj) are like unknown ones."""
        known = len(self.dense)
        for module in list(self.restore):
            own = dict(module.named_parameters(recurse=False))
            if not any(id(p) in read and id(p) in self.names for p in own.values()):
                continue
            self.restore.pop(module)()
            for parameter in own.values():
                if (name := self.names.pop(id(parameter), None)) is not None:
                    self.dense[name] = parameter
                self.weights.pop(id(parameter), None)
        return len(self.dense) > known

    def _reset(self) -> None:
        self.grams.clear()
        self.copies.clear()
        self.vectors.clear()
        for recorder in self.weights.values():
            recorder.reset()

    def _add_vectors(self) -> None:
        """Biases and norms: per-sample gradients, summed over the uses, are squared."""
        for name, copy in self.copies:
            if copy.grad is not None:
                self._collect(name, copy.grad.reshape(len(copy), -1))
        for name, grad in self.vectors.items():
            self.scores[name].add_(grad.square_().sum(0))

    def _collect(self, name: str, grad: Tensor) -> None:
        """Adds a per-sample gradient [B, D] of a vector."""
        grad = grad.to(self.scores[name].dtype)
        self.vectors[name] = self.vectors[name] + grad if name in self.vectors else grad

    def _add_dense(self, name: str, parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            return
        square = parameter.grad.to(self.scores[name].dtype).square()
        parameter.grad = None
        self.scores[name].add_(self.layouts[name].total(square, self.granularity))

    def _forward_of(self, module: nn.Module) -> Callable[..., Tensor] | None:
        own = dict(module.named_parameters(recurse=False))
        scored = any(id(parameter) in self.names for parameter in own.values())
        if is_conv1d(module) or type(module).forward is nn.Linear.forward:
            if scored:
                return self._linear(module, own)
            taken = own["weight"] in set(self.dense.values())
            return _widened(module) if matmul.widens(own["weight"]) and not taken else None
        if not scored:
            return None
        if isinstance(module, nn.Embedding):
            recorder = self._recorder(own["weight"])
            recorder.joint = True
            return recorded_embedding(module, recorder.on_ids, recorder.on_lookup)
        return expanded_norm(module, lambda: self.batch.samples, self._keeper(own))

    def _linear(
        self, module: nn.Module, own: Mapping[str, nn.Parameter]
    ) -> Callable[[Tensor], Tensor]:
        recorder = self._recorder(own["weight"])
        bias = self.names.get(id(own.get("bias")))
        head = module is self.head
        begin = recorder.on_answers if head else recorder.on_input
        end = recorder.on_answer_gradient if head else recorder.on_gradient

        def sink(x: Tensor, g: Tensor) -> None:
            if bias is not None:
                self._collect(bias, self._per_sample(g, head))
            end(x, g)

        return recorded_linear(module, self.anchor, begin, sink)

    def _per_sample(self, g: Tensor, head: bool) -> Tensor:
        """Sums over the positions of each sample -> [B, D]."""
        if not head or self.batch.answers is None:
            return g.reshape(self.batch.samples, -1, g.shape[-1]).sum(1)
        total = g.new_zeros((self.batch.samples, g.shape[-1]))
        return total.index_add_(0, self.batch.answers, g.reshape(-1, g.shape[-1]))

    def _recorder(self, weight: nn.Parameter) -> WeightRecorder:
        if id(weight) not in self.weights:
            name = self.names.get(id(weight))
            scores = None if name is None else self.scores[name]
            turned = name is not None and self.layouts[name].units == (1,)
            split = scores is not None and is_split(scores)
            if scores is not None and scores.dim() == 2 and turned and not split:
                scores = scores.t()  # products are [Dout, Din], the weight is not
            recorder = WeightRecorder(self.granularity, self.batch, self.grams, scores)
            if scores is not None and split:
                recorder = SplitRecorder.of(recorder, scores, turned)
            self.weights[id(weight)] = recorder
        return self.weights[id(weight)]

    def _keeper(self, own: Mapping[str, nn.Parameter]) -> Callable[[str, Tensor], None]:
        names = {name: self.names.get(id(parameter)) for name, parameter in own.items()}

        def keep(name: str, copy: Tensor) -> None:
            known = names[name]
            if known is not None:
                self.copies.append((known, copy))

        return keep


def _of_unknown_layers(model: nn.Module) -> set[int]:
    """Parameters of layers whose per-sample gradients only single samples give."""
    unknown = set()
    for module in model.modules():
        linear = is_conv1d(module) or type(module).forward is nn.Linear.forward
        plain = type(module).forward is nn.Embedding.forward and module.max_norm is None
        if not (linear or plain or expandable(module)):
            unknown |= {id(parameter) for parameter in module.parameters(recurse=False)}
    for module in model.modules():
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        if own & unknown:
            unknown |= own
    return unknown


def _widened(module: Any) -> Callable[[Tensor], Tensor]:
    """A linear layer that is not scored, with its products widened."""
    turned = is_conv1d(module)

    def forward(input: Tensor) -> Tensor:
        weight = module.weight.t() if turned else module.weight
        return SelectiveLinear.apply(  # type: ignore[no-any-return,no-untyped-call]
            input, weight, module.bias, None, None, None, "full"
        )

    return forward
