"""Each method against a few lines of dense, loop-written training (float64, within 1e-9)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cl_bench.methods.base import State
from cl_bench.methods.compose import Composite
from cl_bench.methods.ewc import EWC, EWCOptions
from cl_bench.methods.fggm import FGGM, FGGMOptions
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.migu import MIGU
from cl_bench.methods.replay import Replay, ReplayOptions
from cl_bench.methods.sft import SFT
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    assert_close,
    encode,
    examples,
    fisher_loop,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)


@pytest.mark.parametrize("tie", [False, True])
def test_sft_is_plain_adamw(tie: bool) -> None:
    expected = model64(tie=tie)
    model = copy.deepcopy(expected)
    losses = reference_training(expected, NEW, TRAIN, epochs=2)
    records = run_method(SFT(), *make_stage(model, NEW, TRAIN), epochs=2)
    assert [record["loss"] for record in records] == pytest.approx(losses, abs=1e-6)
    assert len(records) == 6
    assert records[-1]["lr"] == pytest.approx(TRAIN.lr / 6)
    assert_close(weights(model), weights(expected))


@pytest.mark.parametrize("micro_batch_size", [1, 4, "auto"])
def test_the_split_into_micro_batches_does_not_matter(micro_batch_size: int | str) -> None:
    whole, split = model64(), model64()
    run_method(SFT(), *make_stage(whole, NEW, TRAIN), epochs=1)
    train = TRAIN.model_copy(update={"micro_batch_size": micro_batch_size})
    run_method(SFT(), *make_stage(split, NEW, train), epochs=1)
    assert_close(weights(split), weights(whole))


def fggm_masks(model: nn.Module, alpha: float, aggregation: str) -> Gradients:
    """Dense masks, one for each scored parameter; embeddings and head are frozen."""
    fisher = fisher_loop(copy.deepcopy(model), encode(NEW, TRAIN))
    masks = {}
    for name, score in fisher.items():
        if "embed_tokens" in name or "lm_head" in name:
            masks[name] = torch.zeros_like(score)
        elif score.dim() == 1 or aggregation == "none":
            masks[name] = (score > torch.quantile(score.flatten(), alpha)).to(score)
        elif aggregation == "input":
            rows = score.sum(1)
            masks[name] = (rows > torch.quantile(rows, alpha))[:, None].expand_as(score).to(score)
        else:
            columns = score.sum(0)
            keep = columns > torch.quantile(columns, alpha)
            masks[name] = keep[None, :].expand_as(score).to(score)
    return masks


@pytest.mark.parametrize("aggregation", ["input", "output", "none"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_fggm_is_masked_adamw_and_frozen_entries_keep_their_bits(
    aggregation: str, kind: str
) -> None:
    start = model64(kind=kind)
    masks = fggm_masks(start, 0.7, aggregation)
    expected, model = copy.deepcopy(start), copy.deepcopy(start)

    def mask(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            gradient *= masks[name]

    reference_training(expected, NEW, TRAIN, epochs=2, before_step=mask)
    options = FGGMOptions(alpha=0.7, aggregation=aggregation)  # type: ignore[arg-type]
    stage, batcher = make_stage(model, NEW, TRAIN)
    run_method(FGGM(options), stage, batcher, epochs=2)
    assert_close(weights(model), weights(expected))
    before = weights(start)
    moved = total = 0
    for name, value in weights(model).items():
        frozen = masks[name] == 0
        assert torch.equal(value[frozen], before[name][frozen]), name
        if not ("embed_tokens" in name or "lm_head" in name):
            moved += int((value != before[name]).sum())
            total += value.numel()
    assert moved > 0
    assert stage.notes["trained_share"] == pytest.approx(0.3, abs=0.05)


def test_fggm_scope_first_task_and_random_control() -> None:
    start = model64()
    one = FGGM(FGGMOptions(mask_first_task=False))
    assert one.plan(make_stage(copy.deepcopy(start), NEW, TRAIN, index=1)[0]) is None
    assert one.plan(make_stage(copy.deepcopy(start), NEW, TRAIN, index=2)[0]) is not None
    for options in (FGGMOptions(scope="global"), FGGMOptions(score="random")):
        stage, batcher = make_stage(copy.deepcopy(start), NEW, TRAIN)
        run_method(FGGM(options), stage, batcher, epochs=1)
        assert 0.0 < stage.notes["trained_share"] < 0.7
    first, again = (make_stage(copy.deepcopy(start), NEW, TRAIN)[0] for _ in range(2))
    plans = [FGGM(FGGMOptions(score="random")).plan(stage) for stage in (first, again)]
    assert plans[0] is not None and plans[1] is not None
    for name, selection in plans[0].selections.items():
        assert str(selection) == str(plans[1].selections[name])


def test_ewc_pulls_with_the_fisher_of_earlier_stages() -> None:
    strength, gamma = 50.0, 0.5
    start = model64()
    expected, model = copy.deepcopy(start), copy.deepcopy(start)
    options = EWCOptions.model_validate({"lambda": strength, "gamma": gamma})
    fisher: Gradients = {}
    state = State()
    for index, items in enumerate((OLD, NEW, OLD), 1):
        anchor = weights(expected)

        def pull(gradients: Gradients, anchor: Gradients = anchor) -> None:
            for name, value in fisher.items():
                parameter = expected.get_parameter(name)
                gradients[name] += strength * value * (parameter.detach() - anchor[name])

        reference_training(expected, items, TRAIN, 1, index, before_step=pull)
        new = fisher_loop(expected, encode(items, TRAIN))
        for name, value in new.items():
            fisher[name] = gamma * fisher.get(name, 0.0) + value / len(items)
        method = EWC(options)
        if state:
            method.load_state(state)
        run_method(method, *make_stage(model, items, TRAIN, index), epochs=1)
        state = method.state()
    assert_close(weights(model), weights(expected), 1e-6)  # F is kept in float32
    assert_close(
        {name: value.double() for name, value in state.tensors.items()}, fisher, tolerance=1e-5
    )


def test_replay_mixes_the_same_share_of_every_earlier_task() -> None:
    older = examples("older", 15)
    method = Replay(ReplayOptions(ratio=0.2))
    model = model64()
    stage, _ = make_stage(model, NEW, TRAIN, 3, [("older", older), ("old", OLD)])
    mixed = method.examples(stage, stage.examples)
    assert list(mixed[: len(NEW)]) == NEW
    assert [item.task for item in mixed[len(NEW) :]] == ["older"] * 3 + ["old"] * 2
    later, _ = make_stage(model, OLD, TRAIN, 4, [("older", older)])
    assert [e for e in method.examples(later, []) if e.task == "older"] == [
        e for e in mixed if e.task == "older"
    ]
    first, _ = make_stage(model, NEW, TRAIN, 1)
    assert method.examples(first, first.examples) == NEW


def test_replay_trains_on_the_mixture() -> None:
    expected = model64()
    model = copy.deepcopy(expected)
    method = Replay(ReplayOptions(ratio=0.5))
    stage, batcher = make_stage(model, NEW, TRAIN, 2, [("old", OLD)])
    mixed = method.examples(stage, stage.examples)
    reference_training(expected, mixed, TRAIN, 1, index=2)
    run_method(method, stage, batcher, epochs=1)
    assert_close(weights(model), weights(expected))


def test_lora_is_one_adapter_over_frozen_weights() -> None:
    base = model64()
    method = LoRA(LoRAOptions(r=2, lora_alpha=4, dropout=0.0))
    stage, batcher = make_stage(copy.deepcopy(base), NEW, TRAIN)
    method.prepare(stage)
    expected = copy.deepcopy(stage.model)
    adapters = [name for name, p in expected.named_parameters() if p.requires_grad]
    assert len(adapters) == 2 * 2 * 2
    reference_training(expected, NEW, TRAIN, 1, trained=adapters)
    run_method(method, stage, batcher, epochs=1)
    assert_close(weights(stage.model), weights(expected))
    wrapped = stage.model
    stage, batcher = make_stage(wrapped, OLD, TRAIN, index=2)
    reference_training(expected, OLD, TRAIN, 1, index=2, trained=adapters)
    run_method(LoRA(LoRAOptions(r=2, dropout=0.0)), stage, batcher, epochs=1)
    assert stage.model is wrapped, "the second stage must not wrap again"
    assert_close(weights(stage.model), weights(expected))
    for name, value in weights(stage.model).items():
        if name not in adapters:
            original = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(value, base.get_parameter(original)), name


def test_migu_keeps_the_rows_with_the_largest_summed_outputs() -> None:
    expected = model64()
    model = copy.deepcopy(expected)
    sums: dict[str, Tensor] = {}
    linears = {n: m for n, m in expected.named_modules() if isinstance(m, nn.Linear)}
    for name, module in linears.items():

        def watch(_: nn.Module, args: object, output: Tensor, name: str = name) -> None:
            rows = output.detach().abs().flatten(0, -2).sum(0)
            sums[name] = sums.get(name, 0.0) + rows

        if name != "lm_head":  # the package computes the head at answer positions only
            module.register_forward_hook(watch)

    def mask(gradients: Gradients) -> None:
        for name, total in sums.items():
            keep = (total >= torch.quantile(total, 0.7)).to(total)
            gradients[f"{name}.weight"] *= keep[:, None]
            assert 0.29 <= float(keep.mean()) <= 0.35
        sums.clear()
        gradients["lm_head.weight"].zero_()

    train = TRAIN.model_copy(update={"micro_batch_size": 1})  # no padding, as in the reference
    reference_training(expected, NEW, train, 1, index=2, before_step=mask)

    class HeadFrozen(SFT):
        name = "head_frozen"

        def before_step(self, step) -> None:  # type: ignore[no-untyped-def]
            step.grads["lm_head.weight"].zero_()

    parts = Composite([MIGU(), HeadFrozen()])
    stage, batcher = make_stage(model, NEW, train, index=2)
    run_method(parts, stage, batcher, epochs=1)
    assert_close(weights(model), weights(expected))
    assert not any(module._forward_hooks for module in model.modules())


def test_migu_trains_the_first_task_fully() -> None:
    expected = model64()
    model = copy.deepcopy(expected)
    reference_training(expected, NEW, TRAIN, 1)
    run_method(MIGU(), *make_stage(model, NEW, TRAIN, index=1), epochs=1)
    assert_close(weights(model), weights(expected))


def test_fggm_with_replay_masks_by_the_new_task_and_trains_on_the_mixture() -> None:
    start = model64()
    masks = fggm_masks(start, 0.7, "input")
    expected, model = copy.deepcopy(start), copy.deepcopy(start)
    replay = Replay(ReplayOptions(ratio=0.5))
    stage, batcher = make_stage(model, NEW, TRAIN, 2, [("old", OLD)])

    def mask(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            gradient *= masks[name]

    mixed = replay.examples(stage, NEW)
    reference_training(expected, mixed, TRAIN, 1, index=2, before_step=mask)
    run_method(Composite([FGGM(FGGMOptions()), replay]), stage, batcher, epochs=1)
    assert_close(weights(model), weights(expected))
