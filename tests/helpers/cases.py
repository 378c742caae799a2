"""Every shipped method with the options that change what it costs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from cl_bench.methods.agem import AGEM
from cl_bench.methods.base import Method
from cl_bench.methods.block_expansion import BlockExpansion
from cl_bench.methods.bottleneck import BottleneckAdapters
from cl_bench.methods.compose import Composite
from cl_bench.methods.das import DAS
from cl_bench.methods.der import DER
from cl_bench.methods.ema import EMA
from cl_bench.methods.ewc import EWC
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.freeze_layers import FreezeLayers
from cl_bench.methods.gem import GEM
from cl_bench.methods.grads import GrADS
from cl_bench.methods.hft import HFT
from cl_bench.methods.kan_lora import KANLoRA
from cl_bench.methods.kl_base import KLBase
from cl_bench.methods.l2sp import L2SP
from cl_bench.methods.layernorm import LayerNorm
from cl_bench.methods.loki import LoKI
from cl_bench.methods.lora import LoRA
from cl_bench.methods.lwf import LwF
from cl_bench.methods.migu import MIGU
from cl_bench.methods.o_lora import OLoRA
from cl_bench.methods.ogd import OGD
from cl_bench.methods.osft import OSFT
from cl_bench.methods.piece import PIECE
from cl_bench.methods.recadam import RecAdam
from cl_bench.methods.registry import method_class
from cl_bench.methods.replay import Replay
from cl_bench.methods.sft import SFT


def configured(method: type[Method], **options: Any) -> Callable[[], Method]:
    return lambda: method(method.options_type.model_validate(options))


MERGES = (
    *("wise", "slerp", "ties", "dare", "task_arithmetic", "ema", "branch_merge", "fapm"),
    "neuron_merge",
)
CASES: dict[str, Callable[[], Method]] = {
    "sft": SFT,
    "fggm": FGGM,
    "fggm columns": configured(FGGM, aggregation="output"),
    "fggm elements": configured(FGGM, aggregation="none"),
    "fggm half, embeddings": configured(FGGM, alpha=0.5, embeddings="full"),
    "fggm random": configured(FGGM, score="random"),
    "fggm rows of embeddings": configured(FGGM, embeddings="rows"),
    "fggm soft": configured(FGGM, mask="soft"),
    "fggm renewed": configured(FGGM, refresh=2, aggregation="none"),
    "ewc": EWC,
    "ewc trace": configured(EWC, mode="trace"),
    "replay": Replay,
    "lora": LoRA,
    "lora everywhere": configured(LoRA, r=4, target_modules="all-linear", dropout=0.0),
    "migu": MIGU,
    "agem": AGEM,
    "gem": GEM,
    "l2sp": L2SP,
    "lwf": LwF,
    "das": DAS,
    "recadam": RecAdam,
    "der": configured(DER, memory=1, top_k=4),  # what answers take is not counted
    "kl_base": KLBase,
    "lora + lwf": lambda: Composite([LoRA(), LwF()]),
    **{name: method_class(name) for name in MERGES},
    "osft": OSFT,
    "osft, others": configured(OSFT, unfreeze_rank_ratio=0.7, others="full"),
    "block_expansion": configured(BlockExpansion, every=1),
    "block_expansion, new": configured(BlockExpansion, every=1, blocks="new"),
    "kan_lora": KANLoRA,
    "kan_lora everywhere": configured(KANLoRA, last_layers=None),
    "bottleneck": configured(BottleneckAdapters, size=8),
    "o_lora": OLoRA,
    "layernorm": LayerNorm,
    "freeze_layers": configured(FreezeLayers, side="top"),
    "hft": HFT,
    "piece": configured(PIECE, ratio=0.5, score="second_order", score_batch=2),
    "ogd": configured(OGD, directions=1),
    "loki": configured(LoKI, share=0.3, steps=2),
    "grads": GrADS,
    "fggm + replay": lambda: Composite([FGGM(), Replay()]),
    "lora + ema": lambda: Composite([LoRA(), EMA()]),
    "ewc + fggm": lambda: Composite([EWC(), FGGM()]),
    "lora + ewc": lambda: Composite([LoRA(), EWC()]),
}


def without_our_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own attention, as on other devices than CPUs."""
    for module in ("training.selective_update", "importance.fisher"):
        monkeypatch.setattr(f"cl_bench.{module}.cpu_attention", lambda model: nullcontext())
