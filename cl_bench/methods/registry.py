"""Finding methods by name."""

from __future__ import annotations

import importlib

from cl_bench.errors import UserError, nearest
from cl_bench.methods.base import Method

METHODS: dict[str, str] = {
    "sft": "cl_bench.methods.sft:SFT",
    "fggm": "cl_bench.methods.fggm:FGGM",
    "ewc": "cl_bench.methods.ewc:EWC",
    "replay": "cl_bench.methods.replay:Replay",
    "lora": "cl_bench.methods.lora:LoRA",
    "migu": "cl_bench.methods.migu:MIGU",
    "agem": "cl_bench.methods.agem:AGEM",
    "gem": "cl_bench.methods.gem:GEM",
    "o_lora": "cl_bench.methods.o_lora:OLoRA",
    "layernorm": "cl_bench.methods.layernorm:LayerNorm",
    "freeze_layers": "cl_bench.methods.freeze_layers:FreezeLayers",
    "hft": "cl_bench.methods.hft:HFT",
    "piece": "cl_bench.methods.piece:PIECE",
    "ogd": "cl_bench.methods.ogd:OGD",
    "loki": "cl_bench.methods.loki:LoKI",
    "grads": "cl_bench.methods.grads:GrADS",
    "single": "cl_bench.methods.single:Single",
    "mtl": "cl_bench.methods.mtl:MTL",
    "l2sp": "cl_bench.methods.l2sp:L2SP",
    "recadam": "cl_bench.methods.recadam:RecAdam",
    "das": "cl_bench.methods.das:DAS",
    "der": "cl_bench.methods.der:DER",
    "lwf": "cl_bench.methods.lwf:LwF",
    "kl_base": "cl_bench.methods.kl_base:KLBase",
    "wise": "cl_bench.methods.wise:WiSE",
    "slerp": "cl_bench.methods.slerp:SLERP",
    "ties": "cl_bench.methods.ties:TIES",
    "dare": "cl_bench.methods.dare:DARE",
    "task_arithmetic": "cl_bench.methods.task_arithmetic:TaskArithmetic",
    "ema": "cl_bench.methods.ema:EMA",
    "branch_merge": "cl_bench.methods.branch_merge:BranchMerge",
    "fapm": "cl_bench.methods.fapm:FAPM",
    "neuron_merge": "cl_bench.methods.neuron_merge:NeuronMerge",
    "osft": "cl_bench.methods.osft:OSFT",
    "kan_lora": "cl_bench.methods.kan_lora:KANLoRA",
    "bottleneck": "cl_bench.methods.bottleneck:BottleneckAdapters",
    "block_expansion": "cl_bench.methods.block_expansion:BlockExpansion",
}
BASE_ROW = "ori"
"""Accepted in `methods:`; the base model is scored once for every experiment anyway."""


def method_class(name: str) -> type[Method]:
    """The class of a shipped method. Raises UserError naming the nearest one."""
    if name == BASE_ROW:
        raise UserError(
            f"'{BASE_ROW}' is the base model, which is scored once for every experiment: no method "
            "can be composed of it, and no stage trained by it"
        )
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'{nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found
