"""FGGM: Fisher-guided gradient masking (Tan et al., arXiv 2601.18261)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.training.memory import Cost
    from cl_bench.training.plan import Selection, UpdatePlan
    from cl_bench.training.shapes import Shapes

Granularity: TypeAlias = Literal["rows", "columns", "elements"]
GRANULARITY: dict[str, Granularity] = {"input": "rows", "output": "columns", "none": "elements"}


class FGGMOptions(Options):
    """Options of FGGM; defaults are the paper's reading where it has one."""

    alpha: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.7, description="share of each weight matrix that is frozen"
    )
    aggregation: Literal["input", "output", "none"] = Field(
        "input", description="input: whole rows; output: whole columns; none: single entries"
    )
    scope: Literal["tensor", "global"] = Field(
        "tensor", description="one threshold per weight matrix, or one for all"
    )
    score: Literal["fisher", "random"] = Field(
        "fisher", description="random freezes the same share blindly (the control)"
    )
    embeddings: Literal["frozen", "full"] = Field(
        "frozen", description="token embeddings and output head; the paper does not say"
    )
    mask_first_task: bool = Field(True, description="false trains the first stage fully (MIGU's)")
    fisher_examples: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of the stage that are scored; all by default"
    )


class FGGM(Method):
    """Freeze the rows of each weight whose Fisher information on the new task is low.

    At the weights the stage begins with, `F = sum_j (d log p(y_j|x_j) / d theta)^2` over the new
    task's examples; rows of a matrix are summed over the input dimension, entries of vectors stand
    alone; what lies above the `alpha`-quantile is trained. Eq. 4 prints `Q(F, 1 - alpha)`, which
    contradicts the text ("alpha = 0.7 retains top 30 %") and Table 2; we follow those.
    """

    name = "fggm"
    options_type = FGGMOptions

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """Selections above the quantile; everything not scored follows `embeddings`."""
        from cl_bench.training.plan import Frozen, Full, UpdatePlan

        options = self.options
        if stage.first and not options.mask_first_task:
            return None
        scores = self._scores(stage)
        thresholds = _thresholds(scores, options.alpha, options.scope)
        selections = {
            name: _select(score, thresholds[name], stage, name, options.aggregation)
            for name, score in scores.items()
        }
        rest = Full() if options.embeddings == "full" else Frozen()
        stage.notes["trained_share"] = round(_trained_share(stage, selections), 6)
        return UpdatePlan(selections, default=rest)

    def cost(self, shapes: Shapes) -> Cost:
        """Compact state for the trained share of every masked matrix, and one Fisher pass.

        `scope: global` trains the same share in all but not of each: counted as `tensor`. With
        `mask_first_task: false` the first stage is full training, whose memory is the larger.
        """
        from dataclasses import replace

        from cl_bench.training.memory import fisher_pass, full_cost, masked_cost

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        cost = masked_cost(shapes, 1.0 - options.alpha, granularity, options.embeddings == "full")
        if not options.mask_first_task:
            cost = replace(full_cost(shapes), flops_per_token=cost.flops_per_token)
        if options.score == "random":
            return cost
        return cost.with_pass(fisher_pass(shapes, granularity, options.fisher_examples))

    def _scores(self, stage: Stage) -> dict[str, Tensor]:
        import torch

        from cl_bench.importance.fisher import fisher_scores

        options = self.options
        granularity = GRANULARITY[options.aggregation]
        if options.score == "random":
            generator = stage.generator("fggm")
            shapes = _score_shapes(stage.model, granularity)
            return {name: torch.rand(size, generator=generator) for name, size in shapes.items()}
        examples = list(stage.examples)
        if options.fisher_examples is not None and options.fisher_examples < len(examples):
            order = torch.randperm(len(examples), generator=stage.generator("fggm"))
            examples = [examples[i] for i in order[: options.fisher_examples].tolist()]
        scores = fisher_scores(stage.model, stage.batches(examples), granularity)
        for score in scores.values():
            stage.all_reduce(score)
        return scores


def _score_shapes(model: Any, granularity: str) -> dict[str, tuple[int, ...]]:
    """Shapes `fisher_scores` would return: block linears aggregated, vectors entry by entry."""
    from cl_bench.importance.fisher import scored_parameters

    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in scored_parameters(model).items():
        rows, columns = (*parameter.shape, 1)[:2]
        whole = parameter.dim() == 1 or granularity == "elements"
        shapes[name] = (
            tuple(parameter.shape) if whole else ((rows,) if granularity == "rows" else (columns,))
        )
    return shapes


def _thresholds(scores: dict[str, Tensor], alpha: float, scope: str) -> dict[str, Tensor]:
    import torch

    from cl_bench.importance.threshold import quantile

    if scope == "global":
        pooled = quantile(torch.cat([score.flatten().cpu() for score in scores.values()]), alpha)
        return {name: pooled.to(score.device) for name, score in scores.items()}
    return {name: quantile(score.flatten(), alpha) for name, score in scores.items()}


def _select(
    score: Tensor, threshold: Tensor, stage: Stage, name: str, aggregation: str
) -> Selection:
    from cl_bench.training.plan import Columns, Elements, Rows

    keep = score > threshold
    parameter = stage.model.get_parameter(name)
    if keep.shape == parameter.shape:
        return Elements(keep)
    index = keep.nonzero().squeeze(1)
    return Rows(index) if aggregation == "input" else Columns(index)


def _trained_share(stage: Stage, selections: dict[str, Selection]) -> float:
    """Share of the entries of scored parameters that this stage trains."""
    from cl_bench.training.plan import Columns, Elements, Rows

    trained = total = 0
    for name, selection in selections.items():
        parameter = stage.model.get_parameter(name)
        total += parameter.numel()
        if isinstance(selection, Rows):
            trained += selection.index.numel() * parameter.shape[1]
        elif isinstance(selection, Columns):
            trained += selection.index.numel() * parameter.shape[0]
        elif isinstance(selection, Elements):
            trained += int(selection.mask.sum())
    return trained / max(total, 1)
