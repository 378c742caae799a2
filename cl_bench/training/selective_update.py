"""The selective update engine: trains what an UpdatePlan selects and pays for no more than that.

Weights stay `nn.Parameter`s of the model in the run's dtype. Each trained parameter has a compact
float32 master (float64 for float64 models), AdamW moments and gradient of the selected entries
alone, all views of four flat buffers. Linear layers and embeddings compute only the selected part
of their weight gradient (linear.py); every other parameter (norms, biases, unknown layers) and
every other use of a weight (models that multiply by `layer.weight` themselves, penalties) is
differentiated densely and gathered by a hook as soon as its gradient is complete.

Order of one update: micro-batches add to `grads`, then `all_reduce`, then methods change `grads` in
place, then `clip` (the norm of what the plan selects and the methods left), then `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cl_bench.models.layouts import is_conv1d
from cl_bench.training.cpu import matmul
from cl_bench.training.cpu.attention import cpu_attention
from cl_bench.training.elsewhere import reduce_on
from cl_bench.training.held import held_of
from cl_bench.training.hooks import only_in_training
from cl_bench.training.linear import SelectiveEmbedding, SelectiveLinear
from cl_bench.training.optimiser import FlatAdamW
from cl_bench.training.patching import as_declared, is_replaced, replace
from cl_bench.training.selected import Slot, build_slots, same_memory
from cl_bench.training.sharding import group_of, is_split, parts_of, refuse_own_gradients
from cl_bench.training.update_plan import UpdatePlan


class SelectiveUpdate:
    """Patches `model` so that training moves exactly what `plan` selects, until `close`.

    `grads` and `masters` map parameter names to compact views that may be written in place (under
    `torch.no_grad` or not: they are no autograd leaves). After writing masters call `write_back`.
    Parameters that the plan freezes, or of which it selects nothing, have no entry. Every backward
    pass through a patched layer adds to `grads`, that of `torch.autograd.grad` too.

    `device` computes; `state` is where `grads`, `masters` and moments are (both default to that of
    the weights). Where it is another one, gradients go there layer by layer, in every backward
    pass, and the update is made there.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: UpdatePlan,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        device: torch.device | None = None,
        state: torch.device | None = None,
    ) -> None:
        self.model = model
        self._device, self._state = device, state
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self._slots = {slot.name: slot for slot in build_slots(model, plan, device)}
        self._held = {
            name: held_of(slot) for name, slot in self._slots.items() if is_split(slot.parameter)
        }
        self._flats: dict[str, FlatAdamW] = {}
        self._computed_on: dict[str, torch.device] = {}
        """By flat buffer: where its gradients come from."""
        self._leaves: dict[str, nn.Parameter] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.masters: Mapping[str, Tensor] = {}
        self.grads: Mapping[str, Tensor] = {}
        self._allocate()
        self._restore: dict[nn.Module, Callable[[], None]] = {}
        self._requires_grad = {p: p.requires_grad for p in model.parameters()}
        self._patch()
        self._require_grad_of_inputs()
        self._attention = ExitStack()
        self._attention.enter_context(cpu_attention(model))

    def _allocate(self) -> None:
        groups: dict[tuple[torch.dtype, torch.device, bool], list[Slot]] = {}
        for slot in self._own_slots():
            split = slot.name in self._held
            groups.setdefault((slot.dtype, self._state_device(slot), split), []).append(slot)
        masters, grads = {}, {}
        for (dtype, device, split), slots in groups.items():
            flat = FlatAdamW.empty(sum(slot.numel for slot in slots), dtype, device)
            key = f"{dtype}/{device}".removeprefix("torch.") + ("/split" if split else "")
            self._flats[key] = flat
            self._computed_on[key] = self._compute_device(slots[0])
            start = 0
            for slot in slots:
                span = slice(start, start := start + slot.numel)
                masters[slot.name] = flat.masters[span].view(slot.shape)
                grads[slot.name] = flat.grads[span].view(slot.shape)
                masters[slot.name].copy_(slot.gather(slot.parameter.data))
                if split or device != self._compute_device(slot):
                    self._leaves[slot.name] = self._leaf_elsewhere(slot.name, grads[slot.name])
                    continue
                if slot.part == "full" and slot.parameter.dtype == dtype:
                    # One copy: the weight is its own master until `close`.
                    slot.parameter.data = masters[slot.name]
                leaf = nn.Parameter(masters[slot.name])
                leaf.grad = grads[slot.name]
                self._leaves[slot.name] = leaf
        self.masters, self.grads = masters, grads

    def _compute_device(self, slot: Slot) -> torch.device:
        return self._device or slot.parameter.device

    def _state_device(self, slot: Slot) -> torch.device:
        return self._state or self._compute_device(slot)

    def _own_slots(self) -> list[Slot]:
        """Of what this process holds."""
        return [
            self._held[name].slot if name in self._held else slot
            for name, slot in self._slots.items()
        ]

    def _leaf_elsewhere(self, name: str, sink: Tensor) -> nn.Parameter:
        """The leaf of a parameter whose gradient is kept elsewhere, without memory of its own.

        Of a split one it is of all processes' entries: they are summed over the processes, and
        `sink` gets the part that belongs here.
        """
        slot, held = self._slots[name], self._held.get(name)
        zero = sink.new_zeros((), device=self._compute_device(slot))
        leaf = nn.Parameter(zero.expand(slot.shape))

        def hand_over(leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            assert gradient is not None
            if held is None:
                sink.add_(gradient.to(sink.device))
            else:
                held.add_sum(gradient, sink)

        register = leaf.register_post_accumulate_grad_hook
        self._hooks.append(register(hand_over))  # type: ignore[no-untyped-call]
        return leaf

    def _patch(self) -> None:
        slots = {slot.parameter: slot for slot in self._slots.values()}
        for parameter in self._requires_grad:
            parameter.requires_grad_(False)
        dense: set[nn.Parameter] = set()
        for module in self.model.modules():
            own = dict(module.named_parameters(recurse=False))
            slot = slots.get(own["weight"]) if "weight" in own else None
            forward = self._forward_of(module, slot)
            if forward is not None:
                self._restore[module] = replace(module, forward)
            dense.update(p for p in own.values() if p in slots)
        for parameter in dense:
            parameter.requires_grad_(True)
            if is_split(parameter):
                continue  # a gradient would come to it in `after_backward`
            hook = partial(_collect, slot=slots[parameter], sink=self.grads[slots[parameter].name])
            register = parameter.register_post_accumulate_grad_hook
            self._hooks.append(register(hook))  # type: ignore[no-untyped-call]

    def _require_grad_of_inputs(self) -> None:
        """Reentrant checkpointing drops the gradients of a layer whose inputs require none."""

        @only_in_training
        def mark(module: nn.Module, args: object, output: Tensor) -> None:
            layers = self.model.modules()
            if (
                torch.is_grad_enabled()
                and not output.requires_grad
                and any(getattr(layer, "gradient_checkpointing", False) for layer in layers)
            ):
                output.requires_grad_(True)

        find = getattr(self.model, "get_input_embeddings", None)
        layer = find() if find else None
        if layer is not None:
            self._hooks.append(layer.register_forward_hook(mark))

    def _forward_of(self, module: nn.Module, slot: Slot | None) -> Callable[..., Tensor] | None:
        """The replacement of `module.forward`, None where the layer stays as it is."""
        if is_replaced(module):
            return None
        leaf = None if slot is None else self._leaves[slot.name]
        index, part = (None, "full") if slot is None else (slot.index, slot.part)
        turned = is_conv1d(module)
        if turned or type(module).forward is nn.Linear.forward:
            if leaf is None and not matmul.widens(module.weight):  # type: ignore[arg-type]
                return None
            return partial(_linear, module, leaf, index, part, turned)
        if type(module).forward is not nn.Embedding.forward or leaf is None:
            return None
        if module.max_norm is not None or module.scale_grad_by_freq:
            return None
        return partial(_embedding, module, leaf, index, part)

    def compact(self, name: str, dense: Tensor) -> Tensor:
        """The selected entries of `dense`, a tensor of parameter `name`'s shape on any device.

        Of a parameter that is split over processes those that are here. They are where `grads` is.
        """
        slot = self._slots[name]
        return (self._held.get(name) or slot).compact(dense).to(self._state_device(slot))

    def after_backward(self) -> None:
        """Raises RunError where a split weight has a gradient that came to no leaf of ours."""
        if self._held:
            refuse_own_gradients(self.model)

    def all_reduce(self, reduce: Callable[[Tensor], None]) -> None:
        """Applies `reduce` (an in-place sum over processes) to each flat gradient buffer.

        Those of split parameters are sums already.
        """
        for key, flat in self._flats.items():
            if not key.endswith("/split"):
                reduce_on(self._computed_on[key], flat.grads, reduce)

    @torch.no_grad()
    def clip(self, max_norm: float | None) -> float:
        """Scales `grads` to a global norm of at most `max_norm`; returns the norm before.

        The factor is `torch.nn.utils.clip_grad_norm_`'s, `max_norm / (norm + 1e-6)` where below 1.
        """
        norms = [
            self._norm_of_all(flat.grads) if key.endswith("/split") else _norm(flat.grads)
            for key, flat in self._flats.items()
        ]
        norm = float(torch.stack([n.cpu() for n in norms]).norm()) if norms else 0.0
        if max_norm is not None and max_norm / (norm + 1e-6) < 1:
            for flat in self._flats.values():
                flat.grads.mul_(max_norm / (norm + 1e-6))
        return norm

    def _norm_of_all(self, gradients: Tensor) -> Tensor:
        """Over all processes, of which each holds other entries."""
        square: Tensor = _norm(gradients).square()
        held = next(iter(self._held.values()))
        square = square.to(self._compute_device(held.whole))
        dist.all_reduce(square, group=group_of(held.whole.parameter))
        return square.sqrt()

    def step(self, lr: float, zero_grads: bool = False) -> None:
        """One AdamW update of the masters from `grads`, written back into the model's weights.

        With `zero_grads` it is `zero_grad` too, in the same pass over memory.
        """
        for flat in self._flats.values():
            flat.step(lr, self.betas, self.eps, self.weight_decay, zero_grads)
        self.write_back()

    @torch.no_grad()
    def write_back(self) -> None:
        """Rounds the masters into the model's weights; frozen entries are not touched."""
        for slot in self._own_slots():
            slot.write(self.masters[slot.name])

    def zero_grad(self) -> None:
        """Sets every gradient to zero."""
        for flat in self._flats.values():
            flat.grads.zero_()

    def drop_gradients(self) -> None:
        """`zero_grad` where a backward pass has failed, which may leave a part of one elsewhere."""
        self.zero_grad()
        for parameter in self._requires_grad:
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Masters, moments and step count (no gradients): tensors that share the live buffers."""
        state = {}
        for key, flat in self._flats.items():
            state[f"{key}/masters"] = flat.masters
            state[f"{key}/exp_avg"] = flat.exp_avg
            state[f"{key}/exp_avg_sq"] = flat.exp_avg_sq
            state[f"{key}/steps"] = torch.tensor(flat.steps)
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from `state_dict()` of an engine with the same plan; writes the weights back.

        Raises ValueError if the state is of another plan or model.
        """
        expected = {key: tensor.shape for key, tensor in self.state_dict().items()}
        if expected != {key: tensor.shape for key, tensor in state.items()}:
            raise ValueError("the saved optimiser state belongs to another update plan or model")
        for key, flat in self._flats.items():
            flat.masters.copy_(state[f"{key}/masters"])
            flat.exp_avg.copy_(state[f"{key}/exp_avg"])
            flat.exp_avg_sq.copy_(state[f"{key}/exp_avg_sq"])
            flat.steps = int(state[f"{key}/steps"])
        self.write_back()

    def nbytes(self) -> dict[str, int]:
        """Bytes held now: `weights` of the model, `gradients`, `optimiser` (with the indices)."""
        flats = self._flats.values()
        indices = [slot.index for slot in self._own_slots() if slot.index is not None]
        slots = [(slot, self.masters[slot.name]) for slot in self._own_slots()]
        shared = sum(m.nbytes for slot, m in slots if same_memory(slot.parameter, m))
        weights = parts_of(self.model.parameters())
        return {
            "weights": sum(p.nbytes for p in weights),
            "gradients": sum(flat.grads.nbytes for flat in flats),
            "optimiser": 3 * sum(flat.masters.nbytes for flat in flats)
            + sum(index.nbytes for index in indices)
            - shared,
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model as an ordinary one, with the weights so far; then trained on as before.

        A scoring in between rounds as one of the saved weights does, and costs no more.
        """
        self._attention.close()
        try:
            with as_declared(self._restore):
                yield
        finally:
            self._attention.enter_context(cpu_attention(self.model))

    def close(self) -> None:
        """Makes the model an ordinary one again; the engine keeps no hold on it."""
        self._attention.close()
        for handle in self._hooks:
            handle.remove()
        for restore in self._restore.values():
            restore()
        for parameter, flag in self._requires_grad.items():
            parameter.requires_grad_(flag)
        for name, slot in self._slots.items():
            if name in self._held:
                continue
            if same_memory(slot.parameter, self.masters[name]):
                slot.parameter.data = self.masters[name].clone()
        self._hooks, self._restore, self._requires_grad = [], {}, {}

    def __enter__(self) -> SelectiveUpdate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _norm(gradients: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradients)
    return norm.double()


def _sink(leaf: Tensor | None) -> Tensor | None:
    return None if leaf is None or torch.compiler.is_compiling() else leaf.grad


def _linear(
    module: Any, leaf: Tensor | None, index: Tensor | None, part: str, turned: bool, input: Tensor
) -> Tensor:
    weight = module.weight.detach()
    return SelectiveLinear.apply(  # type: ignore[no-any-return,no-untyped-call]
        input,
        weight.t() if turned else weight,
        module.bias,
        leaf,
        _sink(leaf),
        index,
        part,
        turned,
    )


def _embedding(module: Any, leaf: Tensor, index: Tensor | None, part: str, input: Tensor) -> Tensor:
    return SelectiveEmbedding.apply(  # type: ignore[no-any-return,no-untyped-call]
        input, module.weight.detach(), leaf, _sink(leaf), index, part, module.padding_idx
    )


def _collect(parameter: Tensor, slot: Slot, sink: Tensor) -> None:
    if parameter.grad is not None:
        sink.add_(slot.gather(parameter.grad).to(sink.device))
        parameter.grad = None
