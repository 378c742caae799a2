"""What the engine must equal, written plainly: dense gradients, masked, dense AdamW."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cl_bench.training.update_plan import (
    Columns,
    Elements,
    Frozen,
    Full,
    Rows,
    Selection,
    UpdatePlan,
)


def dense_mask(selection: Selection, parameter: Tensor) -> Tensor:
    """The bool mask of a selection in the parameter's shape, on its device."""
    mask = torch.zeros(parameter.shape, dtype=torch.bool)
    if isinstance(selection, Rows):
        mask[selection.index] = True
    elif isinstance(selection, Columns):
        mask[:, selection.index] = True
    elif isinstance(selection, Elements):
        mask = selection.mask.clone()
    elif not isinstance(selection, Frozen):
        mask[:] = True
    return mask.to(parameter.device)


def random_selection(parameter: Tensor, generator: torch.Generator) -> Selection:
    """Any kind of selection that fits the parameter, of a random size."""
    kinds = ["full", "frozen", "elements"] + (
        ["rows", "columns"] * 2 if parameter.dim() == 2 else []
    )
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    share = float(torch.rand((), generator=generator))
    if kind in ("rows", "columns"):
        size = parameter.shape[0 if kind == "rows" else 1]
        count = max(1, round(share * size))
        index = torch.randperm(size, generator=generator)[:count].sort().values
        return Rows(index) if kind == "rows" else Columns(index)
    if kind == "elements":
        return Elements(torch.rand(parameter.shape, generator=generator) < share)
    return Frozen() if kind == "frozen" else Full()


def random_plan(model: nn.Module, seed: int) -> UpdatePlan:
    """A selection of a random kind for each parameter."""
    generator = torch.Generator().manual_seed(seed)
    return UpdatePlan({n: random_selection(p, generator) for n, p in model.named_parameters()})


def random_batch(
    vocab: int, sizes: list[tuple[int, int]], side: str, seed: int
) -> dict[str, Tensor]:
    """Samples of (prompt, answer) lengths, padded on `side`; labels on the answers alone."""
    generator = torch.Generator().manual_seed(seed)
    width = max(prompt + answer for prompt, answer in sizes)
    shape = (len(sizes), width)
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    mask = torch.zeros(shape, dtype=torch.long)
    for i, (prompt, answer) in enumerate(sizes):
        length = prompt + answer
        start = width - length if side == "left" else 0
        tokens = torch.randint(3, vocab, (length,), generator=generator)
        ids[i, start : start + length] = tokens
        mask[i, start : start + length] = 1
        labels[i, start + prompt : start + length] = tokens[prompt:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_loss(model: nn.Module, batch: dict[str, Tensor], denominator: float) -> Tensor:
    """Sum of answer cross-entropies over all logits, divided by `denominator`."""
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=False
    ).logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (
        nn.functional.cross_entropy(
            wide[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
        )
        / denominator
    )


def count_answers(batches: list[dict[str, Tensor]]) -> int:
    """Answer tokens of all batches."""
    return sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)


class DenseMaskedAdamW:
    """Dense gradients times a mask, clipped afterwards, dense AdamW; one process, one batch."""

    def __init__(
        self, model: nn.Module, plan: UpdatePlan, lr: float, max_norm: float | None
    ) -> None:
        self.model, self.max_norm = model, max_norm
        self.parameters = dict(model.named_parameters())
        self.masks = {n: dense_mask(plan.of(n), p) for n, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
        )

    def step(self, batches: list[dict[str, Tensor]]) -> float:
        """One update over the accumulated batches; returns the norm before clipping."""
        tokens = count_answers(batches)
        self.optimiser.zero_grad()
        for batch in batches:
            plain_loss(self.model, batch, tokens).backward()
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad *= self.masks[name]
        limit = self.max_norm if self.max_norm is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        self.optimiser.step()
        return float(norm)
