"""A model's logits at the answer tokens of some examples, kept for later stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from cl_bench.data.examples import Example
from cl_bench.methods.stage import Stage
from cl_bench.methods.state import State
from cl_bench.training.loss import answer_logits

if TYPE_CHECKING:
    from torch import Tensor

Tables = dict[str, "Tensor"]
"""`logits` [N, k] in the model's dtype, largest first; `tokens` int32 [N, k] says whose they are;
`rest` [N] is the log of the summed exponentials of the others. All logits: `logits` [N, V] alone.
"""
Kept = dict[str, list[tuple[int, Tables]]]
"""Of each task rows of its training split and the tables of their answers."""


def compressed(logits: Tensor, top_k: int | None) -> Tables:
    """The `top_k` largest of logits [N, V] and the mass of the others; all of them for None."""
    if top_k is None or top_k >= logits.shape[1]:
        return {"logits": logits}
    values, tokens = logits.topk(top_k, dim=1)
    return {"logits": values, "tokens": tokens.int(), "rest": _rest(logits, tokens)}


def squared_distance(logits: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
    """[N]: the mean square, over what was stored of a token, of the difference to logits [N, V]."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    old = stored["logits"].to(wide)
    if "tokens" not in stored:
        return (logits.to(wide) - old).square().mean(1)
    tokens = stored["tokens"].long()
    largest = (logits.gather(1, tokens).to(wide) - old).square().sum(1)
    rest = (_rest(logits, tokens) - stored["rest"]).square()
    return (largest + rest) / (tokens.shape[1] + 1)


def _rest(logits: Tensor, tokens: Tensor) -> Tensor:
    """log of the summed exponentials of all logits [N, V] but those of `tokens` [N, k]."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.scatter(1, tokens, -torch.inf).to(wide).logsumexp(1)


def stored_logits(
    stage: Stage, examples: Sequence[Example], top_k: int | None
) -> list[tuple[Example, Tables]]:
    """For each of the examples (those that are equal once) its tables, on the CPU.

    Every process has to ask; each computes its share and gets all.
    """
    chosen = list({stage.number(example): example for example in examples}.values())
    place = {stage.number(example): i for i, example in enumerate(chosen)}
    counts = torch.zeros(len(chosen), dtype=torch.int64, device=stage.device)
    for batch in stage.batches(chosen):
        own = [place[number] for number in batch["example"].tolist()]
        counts[own] = (batch["labels"][:, 1:] != -100).sum(1)
    stage.all_reduce(counts)
    begins = [0, *counts.cumsum(0).tolist()]
    head: Any = stage.model.get_output_embeddings()  # type: ignore[operator]
    none = compressed(head.weight.detach()[:, :1].T[:0], top_k)
    whole = {key: like.new_zeros(begins[-1], *like.shape[1:]) for key, like in none.items()}
    with torch.no_grad():
        for batch in stage.remaining(whole, stage.batches(chosen)):
            own = [place[number] for number in batch["example"].tolist()]
            rows = torch.cat([torch.arange(begins[i], begins[i + 1]) for i in own])
            logits = answer_logits(stage.model, batch).logits
            for key, values in compressed(logits, top_k).items():
                whole[key][rows.to(values.device)] = values
    for key in sorted(whole):
        stage.all_reduce(whole[key])
    cpu = {key: table.cpu() for key, table in whole.items()}
    return [
        (example, {key: table[begins[i] : begins[i + 1]] for key, table in cpu.items()})
        for i, example in enumerate(chosen)
    ]


def packed(kept: Kept) -> State:
    """Each task's tables one below the other, and how many rows each example has in them."""
    kept = {task: rows for task, rows in kept.items() if rows}
    tensors = {
        f"{task}/{key}": torch.cat([tables[key] for _, tables in rows])
        for task, rows in kept.items()
        for key in rows[0][1]
    }
    records = {
        task: [[place, len(tables["logits"])] for place, tables in rows]
        for task, rows in kept.items()
    }
    return State(tensors, records)


def unpacked(state: State) -> Kept:
    """What `packed` was given."""
    found: Kept = {}
    for task, rows in state.records.items():
        counts = [count for _, count in rows]
        parts = {
            name.removeprefix(f"{task}/"): torch.split(table, counts)
            for name, table in state.tensors.items()
            if name.rpartition("/")[0] == task
        }
        found[task] = [
            (place, {key: part[i] for key, part in parts.items()})
            for i, (place, _) in enumerate(rows)
        ]
    return found
