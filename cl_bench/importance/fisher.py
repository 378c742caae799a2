"""Exact empirical Fisher scores of a causal language model in one batched pass.

F = sum over samples of the squared gradient of the *summed* answer log-likelihood, labels from the
data. Samples stay apart inside a batch (products.py), so any batch size gives the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.errors import UserError, nearest
from cl_bench.importance.recorder import Granularity
from cl_bench.importance.scorer import Scorer
from cl_bench.models.layouts import Layout, layouts
from cl_bench.training.cpu.attention import cpu_attention
from cl_bench.training.sharding import computes_on, is_split, joined, own_part

Remaining = Callable[[Mapping[str, Tensor], Iterable[Any]], Iterable[Any]]
"""The batches that are still to be added to sums."""


def scored_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters scored by default: all floating-point ones but embeddings and the output head."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    skipped = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding) or module is head
        for parameter in module.parameters(recurse=False)
    }
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and id(parameter) not in skipped
    }


def trainable_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that require a gradient, embeddings included."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def fisher_scores(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    granularity: Granularity = "rows",
    modules: Sequence[str] | None = None,
    remaining: Remaining | None = None,
    onto: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Unnormalised Fisher scores by parameter name, float32 (float64 for float64 models).

    `batches`: dicts of input_ids, attention_mask, labels [B, T], padded on either side, labels as
    Hugging Face has them (shifted inside, -100 is no answer). Matrices give [Dout] (rows), [Din]
    (columns) or single entries in the weight's own layout (elements), whichever way round it is;
    stacks of experts [E, Dout] or [E, Din]; vectors (biases, norm weights), and weights whose
    output units are not known, their own shape (models/layouts.py).
    `modules`: names of parameters, or of modules for all their parameters, full or by their last
    parts ("q_proj", "mlp.up_proj"); default `scored_parameters`. A tied head or embedding that is
    asked for has the gradient of both uses. The model is run in eval mode, its weights take no
    gradient, and it comes back as it was. `remaining(scores, batches)`: the batches that are not in
    the scores yet (`Stage.remaining`). `onto`: scores of other batches, which these are added to,
    in place. Raises UserError for an unknown name.

    Layers that mix samples (mixture-of-experts routing) or that are unknown make the pass fall back
    to one sample at a time, where every gradient is a per-sample one.
    """
    targets = scored_parameters(model) if modules is None else targets_of(model, modules)
    plain = getattr(model, "_orig_mod", model)
    found = layouts(model)
    scores = onto or {n: zero_scores(p, found[n], granularity) for n, p in targets.items()}
    with undisturbed(plain), cpu_attention(plain):
        scorer = Scorer(plain, targets, scores, granularity)
        with scorer.patched():
            for batch in batches if remaining is None else remaining(scores, batches):
                scorer.add(batch)
    return scores


def targets_of(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Parameters by names as `fisher_scores` takes them. Raises UserError for unknown ones."""
    parameters = dict(model.named_parameters())
    known = {name.rsplit(".", 1)[0] for name in parameters} | parameters.keys()
    aliases = {id(p): n for n, p in parameters.items()}
    chosen: set[str] = set()
    faults = []
    for wanted in names:
        hits = {
            aliases[id(parameter)]
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if f".{wanted}." in f".{name}." and _ends(name, wanted)
        }
        if not hits:
            faults.append(
                f"fisher_scores: no module or parameter '{wanted}'{nearest(wanted, known)}"
            )
        chosen |= hits
    if faults:
        raise UserError(faults)
    return {name: parameter for name, parameter in parameters.items() if name in chosen}


def _ends(name: str, wanted: str) -> bool:
    """`wanted` is the parameter, its module, or the last parts of either."""
    module = name.rsplit(".", 1)[0]
    return any(f".{full}".endswith(f".{wanted}") for full in (name, module))


def zero_scores(parameter: nn.Parameter, layout: Layout, granularity: Granularity) -> Tensor:
    """Zeros of the shape of a parameter's scores, in float32 or float64; split as it is."""
    shape = layout.score_shape(tuple(parameter.shape), granularity)
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    if is_split(parameter) and shape == tuple(parameter.shape):
        local = torch.zeros_like(own_part(parameter), dtype=dtype, requires_grad=False)
        return joined(local, parameter)
    return torch.zeros(shape, dtype=dtype, device=computes_on(parameter))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients of weights, nothing compiled; everything put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    compiled = [(m, m._compiled_call_impl) for m in model.modules() if m._compiled_call_impl]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for module, _ in compiled:
            module._compiled_call_impl = None
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, implementation in compiled:
            module._compiled_call_impl = implementation
