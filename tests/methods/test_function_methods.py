"""KAN-LoRA and bottleneck adapters against their equations, written out entry by entry."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor, nn

from cl_bench.costs.shapes import meta_shapes
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.bottleneck import BottleneckAdapters
from cl_bench.methods.compose import Composite
from cl_bench.methods.ewc import EWC
from cl_bench.methods.function_methods import FunctionMethod
from cl_bench.methods.kan_lora import KANLoRA
from cl_bench.models.function_adapters import (
    adapter_of,
    detach,
    load_function_adapter,
    save_function_adapter,
)
from cl_bench.models.kan import KANLayer, splines
from tests.helpers.cases import configured
from tests.helpers.configs import write
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    assert_close,
    encode,
    fisher_loop,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.tiny import tiny_model

METHODS: dict[str, Any] = {
    "kan_lora": configured(KANLoRA, r=3, grid=4, last_layers=1, target_modules=["q_proj"]),
    "bottleneck": configured(BottleneckAdapters, size=5),
    "bottleneck, mlp": configured(BottleneckAdapters, size=5, place="mlp", activation="relu"),
}


def spline_by_spline(x: Tensor, grid: int) -> Tensor:
    """[..., grid + 3], each of SciPy's, and by hand from its definition at single numbers."""
    knots = [2 * i / grid - 1 for i in range(-3, grid + 4)]
    found = torch.zeros(*x.shape, grid + 3, dtype=x.dtype)
    for i in range(grid + 3):
        one = BSpline.basis_element(knots[i : i + 5], extrapolate=False)
        found[..., i] = torch.tensor(one(x.numpy())).nan_to_num()
    return found


@pytest.mark.parametrize("grid", [1, 4, 5])
def test_splines_are_those_of_scipy(grid: int) -> None:
    x = torch.linspace(-4, 4, 333, dtype=torch.float64)
    found = splines(x, grid)
    assert torch.allclose(found, spline_by_spline(x, grid), atol=1e-12)
    inside = (x > -1) & (x < 1)
    assert torch.allclose(found[inside].sum(-1), torch.ones_like(x[inside]))


def test_a_layer_is_the_sum_over_its_curves() -> None:
    torch.manual_seed(0)
    layer = KANLayer(3, 2, 4).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    basis = spline_by_spline(x.detach(), 4)
    spline = layer.spline.view(2, 3, 7)
    for token in range(5):
        for j in range(2):
            total = 0.0
            for i in range(3):
                value = float(x.detach()[token, i])
                total += float(layer.base[j, i]) * value / (1 + math.exp(-value))
                for g in range(7):
                    curve = float(spline[j, i, g]) * float(basis[token, i, g])
                    total += float(layer.scale[j, i]) * curve
            assert float(layer(x)[token, j]) == pytest.approx(total, abs=1e-12)
    assert torch.autograd.gradcheck(layer, (x,))  # type: ignore[no-untyped-call]
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


class Oracle(nn.Module):
    """The layer, and its function with parameters of its own, in plain operations."""

    def __init__(self, layer: Any, function: Any) -> None:
        super().__init__()
        self.layer, self.own = layer, nn.ParameterDict()
        for name, value in function.named_parameters():
            self.own[name.replace(".", "_")] = nn.Parameter(value.detach().clone())
        self.kind = type(function).__name__
        self.f = getattr(function, "f", None)

    def kan(self, x: Tensor, which: str) -> Tensor:
        base, scale = self.own[f"{which}_base"], self.own[f"{which}_scale"]
        spline = self.own[f"{which}_spline"].view(*base.shape, 7)
        knots = [2 * i / 4 - 1 for i in range(-3, 8)]
        orders = [((x >= knots[i]) & (x < knots[i + 1])).double() for i in range(10)]
        for k in (1, 2, 3):
            orders = [
                (x - knots[i]) / (knots[i + k] - knots[i]) * orders[i]
                + (knots[i + k + 1] - x) / (knots[i + k + 1] - knots[i + 1]) * orders[i + 1]
                for i in range(len(orders) - 1)
            ]
        y = (x * torch.sigmoid(x)) @ base.T
        for g, basis in enumerate(orders):
            y = y + basis @ (scale * spline[..., g]).T
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.kind == "KANPair":
            return y + 16 / 3 * self.kan(self.kan(x, "inner"), "outer")
        assert self.f is not None
        inner = self.f(y @ self.own["down_weight"].T + self.own["down_bias"])
        return y + inner @ self.own["up_weight"].T + self.own["up_bias"]


def oracle_of(model: Any) -> Any:
    """A copy of a model in which oracles stand for what was attached."""
    found = copy.deepcopy(model)
    for name in adapter_of(model).layers:  # type: ignore[union-attr]
        parent, _, last = name.rpartition(".")
        adapted = found.get_submodule(name)
        place = found.get_submodule(parent)
        setattr(place, last, Oracle(adapted.base_layer, adapted.function))
    return found


def own_of(model: Any) -> dict[str, Tensor]:
    """Trained parameters by the names that an oracle's have."""
    found = {}
    for name, value in weights(model).items():
        if ".function." in name:
            layer, _, rest = name.partition(".function.")
            found[f"{layer}.own.{rest.replace('.', '_')}"] = value
    return found


@pytest.mark.parametrize("case", METHODS)
def test_two_stages_are_those_of_plain_equations(case: str) -> None:
    model = model64(kind="qwen2")
    before = weights(model)
    first, batcher = make_stage(model, OLD, TRAIN)
    start = METHODS[case]()
    start.prepare(first)
    expected = oracle_of(model)
    trained = [name for name, _ in expected.named_parameters() if ".own." in name]
    reference_training(expected, OLD, TRAIN, 1, trained=trained)
    run_method(METHODS[case](), first, batcher, 1)
    reference_training(expected, NEW, TRAIN, 1, 2, trained=trained)
    second, batcher = make_stage(model, NEW, TRAIN, 2)
    run_method(METHODS[case](), second, batcher, 1)
    own = own_of(model)
    assert_close(own, {n: w for n, w in weights(expected).items() if n in own})
    detach(model)
    assert_close(weights(model), before, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", [KANLoRA, BottleneckAdapters])
def test_a_stage_can_begin_with_the_same_bits(method: type[FunctionMethod], dtype: Any) -> None:
    model = tiny_model(dtype=dtype)
    ids = torch.tensor([[3, 4, 5, 6]])
    logits = model(input_ids=ids).logits
    stage, batcher = make_stage(model, NEW, TRAIN)
    configured(method, init="zero")().prepare(stage)
    assert torch.equal(model(input_ids=ids).logits, logits)
    run_method(configured(method, init="zero")(), stage, batcher, 1)
    assert not torch.equal(model(input_ids=ids).logits, logits)


@pytest.mark.parametrize("method", [KANLoRA, BottleneckAdapters])
def test_what_is_saved_is_what_is_loaded(method: type[FunctionMethod], tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    stage, _ = make_stage(model, NEW, TRAIN)
    configured(method)().prepare(stage)
    save_function_adapter(model, tmp_path)
    again = tiny_model(dtype=torch.bfloat16)
    state = torch.random.get_rng_state()
    load_function_adapter(again, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_close(weights(again), weights(model), 0.0)
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    needing = {name for name, p in again.named_parameters() if p.requires_grad}
    assert needing == {name for name, _ in again.named_parameters() if ".function." in name}


@pytest.mark.parametrize("case", METHODS)
def test_ewc_beside_it_remembers_the_functions(case: str) -> None:
    """As the paper's own runs have it."""
    model = model64()
    stage, batcher = make_stage(model, OLD, TRAIN)
    own = EWC()
    run_method(Composite([METHODS[case](), own]), stage, batcher, 1)
    expected = fisher_loop(model, encode(OLD, TRAIN))
    found = own.state().tensors
    assert found
    for key, value in found.items():
        name = next(n for n in expected if key.endswith(n))
        assert ".function." in name
        assert torch.allclose(value, expected[name] / len(OLD), rtol=1e-6, atol=1e-12), key


def test_other_models_and_methods_beside_it_are_refused(tmp_path: Path) -> None:
    for make in METHODS.values():
        with pytest.raises(UserError, match="of type gpt2"):
            make().trains(meta_shapes({"model_type": "gpt2", "n_layer": 2}))
    faults = {"ewc": 0, "lwf": 0, "replay": 0, "ema": 0, "migu": 1, "ogd": 1, "lora": 1}
    for other, count in faults.items():
        both = [{"compose": ["kan_lora", other]}]
        try:
            (run,) = resolve_file(write(tmp_path, methods=both)).runs
        except UserError as error:  # two plans
            assert count and "only one part may" in error.faults[0]
            continue
        assert len(list(KANLoRA().refuses(run.stages[0]))) == count, other
    (run,) = resolve_file(write(tmp_path, methods=[{"compose": ["ewc", "kan_lora"]}])).runs
    (fault,) = KANLoRA().refuses(run.stages[0])
    assert "list it first" in fault
