"""O-LoRA (Wang et al. 2023): an adapter a stage, kept orthogonal to those before."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from cl_bench.methods.base import Method, Options, Stage, State, Step
from cl_bench.seeds import derive_seed
from cl_bench.training.update_plan import Frozen, Full, UpdatePlan


class OLoRAOptions(Options):
    r: int = 2
    strength: float = 0.5


class OLoRA(Method[OLoRAOptions]):
    """loss + strength * sum |A_old A_new'|; after a stage its adapter is merged."""

    name = "olora"
    keeps = "statistics"

    def __init__(self, options: OLoRAOptions | None = None) -> None:
        super().__init__(options)
        self._old: dict[str, Tensor] = {}

    def prepare(self, stage: Stage) -> None:
        config = LoraConfig(r=self.options.r, target_modules=["q_proj", "v_proj"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(stage.seed, stage.index, "olora"))
            stage.model = get_peft_model(stage.model, config, autocast_adapter_dtype=False)

    def plan(self, stage: Stage) -> UpdatePlan:
        trained = [name for name, p in stage.model.named_parameters() if p.requires_grad]
        return UpdatePlan({name: Full() for name in trained}, default=Frozen())

    def before_step(self, step: Step) -> None:
        if self._old:
            step.add(self._overlap)

    def _overlap(self, masters: dict[str, Tensor]) -> Tensor:
        products = [old.to(masters[name]) @ masters[name].T for name, old in self._old.items()]
        return self.options.strength * torch.stack([each.abs().sum() for each in products]).sum()

    def finish(self, stage: Stage) -> None:
        for name, parameter in stage.model.named_parameters():
            if "lora_A" in name:
                own = parameter.detach().cpu()
                self._old[name] = torch.cat([self._old[name], own]) if name in self._old else own
        stage.model = stage.model.merge_and_unload().requires_grad_(True)

    def state(self) -> State:
        return State(self._old)

    def load_state(self, state: State) -> None:
        self._old = dict(state.tensors)
