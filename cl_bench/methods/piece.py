"""PIECE: few entries, chosen by their importance (Wang et al. 2025, arXiv 2511.15375)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.training.update_plan import UpdatePlan


class PIECEOptions(Options):
    """Options of PIECE."""

    score: Literal["fisher", "second_order"] = Field(
        "fisher", description="fisher: PIECE-F; second_order: PIECE-S"
    )
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.001, description="share of the model's entries that is trained"
    )
    score_batch: Annotated[int, Field(gt=0)] = Field(
        4, description="examples of a batch of the scoring pass, whose gradients are taken together"
    )
    score_examples: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of the stage that are scored; all by default"
    )


class PIECE(Method[PIECEOptions]):
    """Train the `ratio` most important entries of the whole model, chosen at the stage's start.

    g_b is the gradient of the mean loss of a batch b of the new task's examples, at the weights
    that the stage begins with. PIECE-F scores an entry by `sum_b g_b^2`, PIECE-S by
    `|sum_b g_b| / sqrt(sum_b g_b^2 + 1)`, which for gradients much smaller than 1 is the size of
    the summed gradient. The largest of all parameters together are trained; token embeddings (with
    a head that is tied to them) are not scored and are frozen; head, norms and biases take part.
    In the official code a tensor of which nothing is chosen is trained in full; here it is frozen.
    That code cuts prompts to 256 and answers to 128 tokens for scoring; here they are as long as
    in training. A bf16 model has its gradients in bf16, sums in float32.
    """

    name = "piece"
    family = "masks"
    source = "Wang 2025, arXiv 2511.15375"

    def plan(self, stage: Stage) -> UpdatePlan:
        """The chosen entries; everything else is frozen."""
        from cl_bench.importance.largest import largest
        from cl_bench.training.update_plan import Elements, Frozen, UpdatePlan

        total = sum(p.numel() for p in stage.model.parameters())
        count = math.ceil(self.options.ratio * total)
        masks = largest(self._scores(stage), count)
        chosen = {name: mask for name, mask in masks.items() if bool(mask.any())}
        trained = sum(int(mask.sum()) for mask in chosen.values())
        stage.notes |= {"trained_share": round(trained / total, 9), "tensors": len(chosen)}
        return UpdatePlan({n: Elements(mask) for n, mask in chosen.items()}, default=Frozen())

    def trains(self, shapes: Shapes) -> Trained:
        """The chosen entries, a mask of every entry that was scored, and the scoring pass."""
        from dataclasses import replace

        from cl_bench.costs.added import MASK_BYTES, Cost, Disk, Memory, Pass, Work
        from cl_bench.costs.kept_selection import KINDS, choice_bytes, score_bytes, score_memory
        from cl_bench.costs.trained import everything, only

        tokens = next(name for name in shapes.parameters if name in shapes.embeddings)
        scored = shapes.numel - math.prod(shapes.parameters[tokens])
        count, full = min(scored, math.ceil(self.options.ratio * shapes.numel)), everything(shapes)
        entry, sums = shapes.entry_bytes, 2 if self._signed else 1
        held = (sums + 1) * entry * scored + shapes.dtype_bytes * scored
        kept = choice_bytes(shapes, lambda name, shape: 0 if name == tokens else math.prod(shape))
        halved = ("entries",) if self._signed else KINDS
        kept += score_bytes(shapes, "elements", lambda name: name != tokens, halved)
        held += score_memory(shapes, "elements", lambda name: name != tokens)
        one = Pass(6 * shapes.products, self.options.score_examples, held=held)
        return replace(
            only(shapes, lambda name: False),
            gradients=entry * count,
            optimiser=3 * entry * count + 4 * count,
            flops_per_token=full.flops_per_token,
            entries=count,
            delta=(shapes.dtype_bytes + 4) * count,
            inputs_kept=full.inputs_kept - {tokens},
            adds=Cost(Memory(held=MASK_BYTES * scored), Work(passes=(one,)), Disk(selection=kept)),
        )

    def _scores(self, stage: Stage) -> dict[str, Tensor]:
        """Scores of every entry but those of token embeddings, summed over processes."""
        import torch

        from cl_bench.methods.gradients import gradient_on
        from cl_bench.training.kept_scores import small_scores

        model: Any = stage.model
        options = self.options
        embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
        scored = {n: p for n, p in model.named_parameters() if id(p) not in embeddings}
        wide = {n: torch.promote_types(p.dtype, torch.float32) for n, p in scored.items()}
        squares = {n: torch.zeros_like(p, dtype=wide[n]) for n, p in scored.items()}
        sums = {n: torch.zeros_like(s) for n, s in squares.items()} if self._signed else {}
        limit = options.score_examples
        examples = stage.examples if limit is None else stage.sample(limit, "piece")
        order = torch.randperm(len(examples), generator=stage.generator("piece")).tolist()
        size = options.score_batch
        parts = [order[k : k + size] for k in range(0, len(order), size)]
        both = {**squares, **{f"{name} (sum)": value for name, value in sums.items()}}
        first: tuple[dict[str, Tensor], ...] = ()
        middle = len(parts) // 2
        for half in (parts[:middle], parts[middle:]):
            batches = ([examples[i] for i in part] for part in half)
            for batch in stage.remaining(both, batches):
                for name, gradient in gradient_on(stage, batch, scored).items():
                    squares[name].addcmul_(gradient, gradient)
                    if self._signed:
                        sums[name].add_(gradient)
            if middle and not first:
                first = small_scores(squares, model), small_scores(sums, model)
        if not self._signed:
            stage.keep_scores(squares, *first[:1])
            return squares
        whole = (small_scores(squares, model), small_scores(sums, model)) if first else ()
        scores = {n: s.abs_().div_(squares[n].add_(1).sqrt_()) for n, s in sums.items()}
        stage.keep_scores(scores, *second_order_halves(first, whole))
        return scores

    @property
    def _signed(self) -> bool:
        return self.options.score == "second_order"


def second_order_halves(
    first: Sequence[Mapping[str, Tensor]], whole: Sequence[Mapping[str, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """PIECE-S of either half, from sums of g^2 and of g over the first one and over all.

    Of sampled entries alone: sums over rows are not those of their entries' scores.
    """
    if not first:
        return
    rest = [{n: one[n] - half[n] for n in half} for half, one in zip(first, whole, strict=True)]
    for squares, sums in (first, rest):
        yield {n: sums[n].abs() / (squares[n] + 1).sqrt() for n in sums if n.startswith("entries/")}
