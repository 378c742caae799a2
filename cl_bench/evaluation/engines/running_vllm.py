"""A vLLM that stays from one stage to the next: given new weights, and its memory taken meanwhile.

Runs in the engine's process (worker.py), whose Python need not have more than lm-eval and vLLM.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

DISCARD = 2
"""The level of vLLM's sleep that keeps neither weights nor keys and values."""
ALLOWED = "VLLM_ALLOW_INSECURE_SERIALIZATION"
"""What lets vLLM hand a function to its own processes, which `tied_head_again` needs."""


def prepare() -> None:
    """Before vLLM is imported."""
    os.environ[ALLOWED] = "1"


def take_weights(lm: Any, folder: str) -> None:
    """Answer with the weights of `folder` from here on: the same architecture, other numbers.

    Keys and values of prompts that were read with the old weights are forgotten.
    """
    cloudpickle = import_module("cloudpickle")  # vLLM's own, not ours
    vllm = lm.model
    if _sleeps(lm):
        vllm.wake_up(tags=["weights"])
    vllm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # vLLM's processes lack it
    vllm.collective_rpc(tied_head_again)
    if _sleeps(lm):
        vllm.wake_up(tags=["kv_cache"])
    if not vllm.reset_prefix_cache():
        raise RuntimeError("vLLM did not forget the prompts that it has read with other weights")


def tied_head_again(worker: Any) -> None:
    """Have the output layer use the new embeddings, where it is one matrix with them.

    vLLM 0.32 packs its weights a second time for CPUs, and `reload_weights` packs only layers that
    the checkpoint has weights for: without this the old head answers for the new model.
    """
    for layer in worker.get_model().modules():
        if type(layer).__name__ == "ParallelLMHead" and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


def is_dead(lm: Any) -> bool:
    """Whether the process that computes has ended: vLLM 0.32 then waits for its answer for ever."""
    core = getattr(getattr(lm.model, "llm_engine", None), "engine_core", None)
    return bool(getattr(getattr(core, "resources", None), "engine_dead", False))


def rest(lm: Any) -> None:
    """Give back an accelerator's memory, where vLLM was started to be able to."""
    if _sleeps(lm):
        lm.model.sleep(level=DISCARD)


def _sleeps(lm: Any) -> bool:
    return bool(lm.model.llm_engine.model_config.enable_sleep_mode)
