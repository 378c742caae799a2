"""FGGM: Fisher-guided gradient masking (Tan et al., arXiv 2601.18261)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage
from cl_bench.models.layouts import entries_alone, layouts, patterns

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.models.layouts import Layout
    from cl_bench.training.update_plan import Selection, UpdatePlan

Granularity: TypeAlias = Literal["rows", "columns", "elements"]
GRANULARITY: dict[str, Granularity] = {"input": "rows", "output": "columns", "none": "elements"}


class FGGMOptions(Options):
    """Options of FGGM; defaults are the paper's reading where it has one."""

    alpha: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.7, description="share of each weight matrix that is frozen"
    )
    aggregation: Literal["input", "output", "none"] = Field(
        "input",
        description="input: whole output units; output: whole input features; none: single entries",
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


class FGGM(Method[FGGMOptions]):
    """Freeze the rows of each weight whose Fisher information on the new task is low.

    At the weights the stage begins with, `F = sum_j (d log p(y_j|x_j) / d theta)^2` over the new
    task's examples; rows of a matrix (its output units, whatever its layout; each expert is a
    matrix) are summed over the input dimension, entries of vectors stand alone; what lies above the
    `alpha`-quantile is trained. Eq. 4 prints `Q(F, 1 - alpha)`, which contradicts the text ("alpha
    = 0.7 retains top 30 %") and Table 2; we follow those.
    """

    name = "fggm"

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """Selections above the quantile; everything not scored follows `embeddings`."""
        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan, select

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        if stage.first and not options.mask_first_task:
            return None
        found = layouts(stage.model)
        scores = self._scores(stage, found)
        thresholds = _thresholds(scores, found, options.alpha, options.scope)
        shapes = {name: tuple(stage.model.get_parameter(name).shape) for name in scores}
        selections = {
            name: select(found[name], score > thresholds[name], shapes[name], granularity)
            for name, score in scores.items()
        }
        rest = Full() if options.embeddings == "full" else Frozen()
        stage.notes["trained_share"] = round(_trained_share(shapes, selections), 6)
        alone = entries_alone({name: found[name] for name in scores}, shapes)
        if alone and granularity != "elements":
            stage.notes["single_entries"] = patterns(alone)
        return UpdatePlan(selections, default=rest)

    def trains(self, shapes: Shapes) -> Trained:
        """The same share of every masked matrix, with compact state.

        `scope: global` trains the same share in all but not of each: counted as `tensor`. With
        `mask_first_task: false` the first stage is full training, whose memory is the larger.
        """
        from dataclasses import replace

        from cl_bench.costs.trained import everything, masked

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        share = masked(shapes, options.alpha, granularity, options.embeddings == "full")
        if not options.mask_first_task:
            return replace(everything(shapes), flops_per_token=share.flops_per_token)
        return share

    def adds(self, shapes: Shapes) -> Cost:
        """One Fisher pass over the stage's examples, before training."""
        from cl_bench.costs.added import Cost, Work, fisher_pass

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        if options.score == "random":
            return Cost()
        scoring = fisher_pass(shapes, granularity, options.fisher_examples)
        return Cost(work=Work(passes=(scoring,)))

    def _scores(self, stage: Stage, found: Mapping[str, Layout]) -> dict[str, Tensor]:
        import torch

        from cl_bench.importance.fisher import fisher_scores

        options = self.options
        granularity = GRANULARITY[options.aggregation]
        if options.score == "random":
            generator = stage.generator("fggm")
            shapes = _score_shapes(stage.model, found, granularity)
            return {name: torch.rand(size, generator=generator) for name, size in shapes.items()}
        examples = list(stage.examples)
        if options.fisher_examples is not None and options.fisher_examples < len(examples):
            order = torch.randperm(len(examples), generator=stage.generator("fggm"))
            examples = [examples[i] for i in order[: options.fisher_examples].tolist()]
        scores = fisher_scores(stage.model, stage.batches(examples), granularity)
        for score in scores.values():
            stage.all_reduce(score)
        return scores


def _score_shapes(
    model: Any, found: Mapping[str, Layout], granularity: str
) -> dict[str, tuple[int, ...]]:
    """Shapes `fisher_scores` would return."""
    from cl_bench.importance.fisher import scored_parameters

    return {
        name: found[name].score_shape(tuple(parameter.shape), granularity)
        for name, parameter in scored_parameters(model).items()
    }


def _thresholds(
    scores: dict[str, Tensor], found: Mapping[str, Layout], alpha: float, scope: str
) -> dict[str, Tensor]:
    """One for each weight, that broadcasts over its scores; every expert is a weight."""
    import torch

    from cl_bench.importance.threshold import quantile

    if scope == "global":
        pooled = quantile(torch.cat([score.flatten().cpu() for score in scores.values()]), alpha)
        return {name: pooled.to(score.device) for name, score in scores.items()}
    thresholds = {}
    for name, score in scores.items():
        if found[name].stack:
            own = [quantile(member.flatten(), alpha) for member in score]
            thresholds[name] = torch.stack(own).view(-1, *[1] * (score.dim() - 1))
        else:
            thresholds[name] = quantile(score.flatten(), alpha)
    return thresholds


def _trained_share(
    shapes: Mapping[str, tuple[int, ...]], selections: Mapping[str, Selection]
) -> float:
    """Share of the entries of scored parameters that this stage trains."""
    from cl_bench.training.update_plan import Columns, Elements, Rows

    trained = 0
    for name, selection in selections.items():
        if isinstance(selection, Rows):
            trained += selection.index.numel() * shapes[name][-1]
        elif isinstance(selection, Columns):
            trained += selection.index.numel() * shapes[name][-2]
        elif isinstance(selection, Elements):
            trained += int(selection.mask.sum())
    return trained / max(sum(math.prod(shape) for shape in shapes.values()), 1)
