"""FGGM: Fisher-guided gradient masking (Tan et al., arXiv 2601.18261)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from cl_bench.importance.threshold import thresholds
from cl_bench.methods.base import Method, Options, Stage, Step, unsplit
from cl_bench.methods.estimates import Estimator, fisher_of
from cl_bench.methods.masks import PartialSteps, score_shapes, share_of_step, trained_share
from cl_bench.models.layouts import entries_alone, layouts, patterns

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.methods.spec import StageSpec
    from cl_bench.models.layouts import Layout
    from cl_bench.training.update_plan import UpdatePlan

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
    score: Literal["fisher", "random", "lowest"] = Field(
        "fisher",
        description="controls: random freezes the same share blindly, lowest what has most Fisher",
    )
    estimator: Estimator = Field(
        "per_sample",
        description="squared gradients of single examples (eq. 3), or of whole batches",
    )
    mask: Literal["hard", "soft"] = Field(
        "hard",
        description="soft: below the threshold a step is shortened to Fisher / threshold of it",
    )
    refresh: Annotated[int, Field(gt=0)] | None = Field(
        None,
        description="updates after which the mask is taken anew, from a running average of squared "
        "gradients",
    )
    embeddings: Literal["frozen", "full", "rows"] = Field(
        "frozen",
        description="token embeddings and output head: rows masks them too; the paper does not say",
    )
    mask_first_task: bool = Field(True, description="false trains the first stage fully (MIGU's)")
    fisher_examples: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of the stage that are scored; all by default"
    )

    @property
    def partial(self) -> bool:
        """Whether everything is trained and a share of each step taken."""
        return self.mask == "soft" or self.refresh is not None


class FGGM(Method[FGGMOptions]):
    """Freeze the rows of each weight whose Fisher information on the new task is low.

    At the weights the stage begins with, `F = sum_j (d log p(y_j|x_j) / d theta)^2` over the new
    task's examples; rows of a matrix (its output units, whatever its layout; each expert is a
    matrix) are summed over the input dimension, entries of vectors stand alone; what lies above the
    `alpha`-quantile is trained. Eq. 4 prints `Q(F, 1 - alpha)`, which contradicts the text ("alpha
    = 0.7 retains top 30 %") and Table 2; we follow those.

    The paper proposes two things that it does not define, a mask from an online Fisher and a soft
    one. Here `refresh: N` averages the squared gradients of updates, before they are masked, with
    AdamW's second beta, and takes the mask anew from it after every N updates. `mask: soft` takes
    the share `min(1, F / Q(F, alpha))` of each step: of the step, because AdamW divides a factor of
    the gradient out again. Both hold the state of all that may ever be trained.
    """

    name = "fggm"
    family = "masks"
    splits = True
    source = "Tan 2026, arXiv 2601.18261"

    def __init__(self, options: FGGMOptions | None = None) -> None:
        super().__init__(options)
        self._steps = PartialSteps()
        self._running: dict[str, Tensor] = {}
        self._layouts: Mapping[str, Layout] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._updates = 0
        self._beta = 0.0

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Controls that say nothing of a soft or a renewed mask, and embeddings by columns."""
        options = self.options
        if options.refresh is not None and options.score == "random":
            yield "refresh: score: random has no running average; leave one of them out"
        if options.mask == "soft" and options.score == "lowest":
            yield "mask: soft: score: lowest has no share of a step; give mask: hard"
        if stage.train.splitting:
            yield from unsplit(
                ("aggregation: none", options.aggregation == "none", "input or output"),
                ("mask: soft", options.mask == "soft", "hard"),
                (f"refresh: {options.refresh}", options.refresh is not None, "no refresh"),
                ("estimator: batch", options.estimator == "batch", "per_sample"),
            )
        if options.partial and "optimiser" in stage.train.offload:
            yield (
                "mask: soft and refresh take shares of steps on the card, and offload has the "
                "optimiser in main memory: give mask: hard and no refresh, or no offload"
            )
        if options.embeddings == "rows" and options.aggregation != "input":
            yield f"embeddings: rows: aggregation: {options.aggregation} has no rows; give input"

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """Selections above the quantile; everything not scored follows `embeddings`."""
        import torch

        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan, select

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        if stage.first and not options.mask_first_task:
            return None
        found = layouts(stage.model)
        scores = self._scores(stage, found)
        shapes = {name: tuple(stage.model.get_parameter(name).shape) for name in scores}
        rest = Full() if options.embeddings == "full" else Frozen()
        alone = entries_alone({name: found[name] for name in scores}, shapes)
        if alone and granularity != "elements":
            stage.notes["single_entries"] = patterns(alone)
        if options.partial:
            self._layouts, self._shapes, self._beta = found, shapes, stage.train.betas[1]
            self._take(scores)
            if options.refresh is not None:
                self._running = {name: torch.zeros_like(score) for name, score in scores.items()}
            stage.notes["step_share"] = round(self._steps.mean(), 6)
            return UpdatePlan(dict.fromkeys(scores, Full()), default=rest)
        above = thresholds(scores, found, options.alpha, options.scope)
        selections = {
            name: select(found[name], score > above[name], shapes[name], granularity)
            for name, score in scores.items()
        }
        stage.notes["trained_share"] = round(trained_share(shapes, selections), 6)
        return UpdatePlan(selections, default=rest)

    def before_step(self, step: Step) -> None:
        """With `refresh` average the squared gradients; a hard mask keeps what is frozen out."""
        options, steps = self.options, self._steps
        if not steps.shares:
            return
        if options.refresh is not None:
            if self._updates and self._updates % options.refresh == 0:
                sign = -1 if options.score == "lowest" else 1
                self._take({name: sign * value for name, value in self._running.items()})
            self._updates += 1
            self._average(step.grads)
        for name, share in steps.shares.items() if options.mask == "hard" else ():
            if name in step.grads:
                step.grads[name].mul_(share)
        steps.begin(step.masters)

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """Take the share of the step."""
        return self._steps.end(masters)

    def _average(self, grads: Mapping[str, Tensor]) -> None:
        granularity = GRANULARITY[self.options.aggregation]
        for name in self._steps.shares.keys() & grads.keys():
            new = self._layouts[name].total(grads[name].square(), granularity)
            self._running[name].lerp_(new, 1 - self._beta)

    def _take(self, scores: Mapping[str, Tensor]) -> None:
        """The mask of these scores, as views of the parameters' shapes."""
        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        above = thresholds(scores, self._layouts, options.alpha, options.scope)
        for name, score in scores.items():
            share = share_of_step(score, above[name], options.mask == "soft")
            view = self._layouts[name].spread(share, self._shapes[name], granularity)
            self._steps.shares[name] = view

    def trains(self, shapes: Shapes) -> Trained:
        """The same share of every masked matrix, with compact state.

        `scope: global` trains the same share in all but not of each: counted as `tensor`. With
        `mask_first_task: false` the first stage is full training, whose memory is the larger.
        A soft or renewed mask has the state of everything that is scored.
        """
        from dataclasses import replace

        from cl_bench.costs.added import Cost
        from cl_bench.costs.trained import everything, masked, only

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        if options.partial:
            if options.embeddings != "frozen" or not options.mask_first_task:
                return only(shapes, lambda name: True)
            return only(shapes, lambda name: name not in shapes.embeddings)
        share = masked(
            shapes,
            options.alpha,
            granularity,
            options.embeddings == "full",
            masks_embeddings=options.embeddings == "rows",
        )
        if not options.mask_first_task:
            kept = Cost(disk=share.adds.disk)
            return replace(everything(shapes), flops_per_token=share.flops_per_token, adds=kept)
        return share

    def adds(self, shapes: Shapes) -> Cost:
        """One Fisher pass over the stage's examples, before training; shares and a running average.

        Of what a share of a step is taken, the weights before it are kept meanwhile.
        """
        from cl_bench.costs.added import Cost, Disk, Memory, Work, batch_fisher_pass, fisher_pass
        from cl_bench.costs.kept_selection import KINDS, score_bytes

        options, granularity = self.options, GRANULARITY[self.options.aggregation]
        held = 0
        scored = [
            name
            for name in shapes.parameters
            if options.embeddings == "rows" or name not in shapes.embeddings
        ]
        if options.partial:
            sizes = [(shapes.layout(name), shapes.parameters[name]) for name in scored]
            scores = sum(math.prod(own.score_shape(s, granularity)) for own, s in sizes)
            kinds = 1 if options.refresh is None else 2
            held = shapes.entry_bytes * (kinds * scores + sum(math.prod(s) for _, s in sizes))
        memory = Memory(held=held)
        of_scored, halved = set(scored).__contains__, () if options.score == "random" else KINDS
        disk = Disk(selection=score_bytes(shapes, granularity, of_scored, halved))
        if options.score == "random":
            return Cost(memory, disk=disk)
        if options.estimator == "batch":
            scoring = batch_fisher_pass(shapes, granularity, options.fisher_examples)
        else:
            scoring = fisher_pass(shapes, granularity, options.fisher_examples)
        return Cost(memory, Work(passes=(scoring,)), disk)

    def _scores(self, stage: Stage, found: Mapping[str, Layout]) -> dict[str, Tensor]:
        import torch

        from cl_bench.importance.fisher import scored_parameters

        options, model = self.options, stage.model
        granularity = GRANULARITY[options.aggregation]
        names = None
        if options.embeddings == "rows":
            names = [name for name, p in model.named_parameters() if p.is_floating_point()]
        if options.score == "random":
            generator = stage.generator("fggm")
            named = scored_parameters(model) if names is None else names
            shapes = score_shapes(model, named, found, granularity)
            drawn = {name: torch.rand(size, generator=generator) for name, size in shapes.items()}
            stage.keep_scores(drawn)
            return drawn
        limit = options.fisher_examples
        first: dict[str, Tensor] = {}
        scores, _ = fisher_of(stage, "fggm", options.estimator, granularity, limit, names, first)
        if options.score == "lowest":
            for score in (*scores.values(), *first.values()):
                score.neg_()
        stage.keep_scores(scores, first)
        return scores
