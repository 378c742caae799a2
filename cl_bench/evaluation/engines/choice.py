"""Which engine answers the requests: `--engine NAME --engine-args key=value,...`.

Nothing here imports torch: a wrong name or a missing package must fail at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from cl_bench.errors import UserError, nearest

ALIASES = {"hf-auto": "hf", "huggingface": "hf"}
"""lm-eval's other names of `HFLM`."""
CHECKPOINT_ENGINES = {
    "vllm": ("vllm", "lm_eval[vllm]"),
    "vllm-vlm": ("vllm", "lm_eval[vllm]"),
    "sglang": ("sglang", "sglang"),
    "openvino": ("optimum.intel", "lm_eval[optimum]"),
    "ipex": ("optimum.intel", "lm_eval[ipex]"),
    "habana": ("optimum.habana", "lm_eval[habana]"),
    "neuronx": ("optimum.neuron", "optimum[neuronx]"),
    "hf-multimodal": ("transformers", "transformers"),
    "steered": ("transformers", "transformers"),
}
"""Those of lm-eval's model classes that load a Hugging Face folder by `pretrained=`.

For each the module it needs and the package that has it. The others of its registry ask a server,
or load another kind of checkpoint: they cannot answer for a stage's model.
"""
OF_THE_RUN = (
    *("pretrained", "model", "revision", "subfolder", "gguf_file"),
    *("tokenizer", "tokenizer_revision", "peft", "delta", "lora_local_path"),
)
"""Arguments that would say which model answers; the run says that."""
NUMBERS = {"batch_size", "max_batch_size", "max_length", "max_gen_toks", "tensor_parallel_size"}
"""Arguments that several of lm-eval's classes have; each would fail on a word when it is made."""
OWN_ARGUMENTS = ("max_length", "token_budget")
"""What `cl-bench` takes."""


@dataclass(frozen=True)
class Engine:
    """A name that lm-eval's registry knows, or `cl-bench`, and arguments of its class.

    `hf` with `subprocess=true` loads the stage's checkpoint in a process of its own, as all others
    but `cl-bench` do.
    """

    name: str = "cl-bench"
    args: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As scores and reports record it."""
        return " ".join([self.name, *(f"{key}={self.args[key]}" for key in sorted(self.args))])

    @property
    def in_memory(self) -> bool:
        """Whether it answers with the model that was trained, in this process."""
        return self.name == "cl-bench" or (self.name == "hf" and not self.args.get("subprocess"))

    @property
    def arguments(self) -> dict[str, Any]:
        """What its class is given."""
        return {key: value for key, value in self.args.items() if key != "subprocess"}


def choose_engine(name: str, args: str | None = None) -> Engine:
    """The engine of `--engine` and `--engine-args` (lm-eval's syntax).

    Raises UserError with every fault: an unknown name, one that loads no checkpoint, a package that
    is not installed, arguments that say which model answers.
    """
    if name == "cl-bench" and not args:
        return Engine(name, {})  # the default: lm-eval takes half a second to import
    from lm_eval.models import MODEL_MAPPING
    from lm_eval.utils import simple_parse_args_string

    if no_value := [part for part in (args or "").split(",") if part.strip() and "=" not in part]:
        raise UserError([f"--engine-args {part}: key=value is needed" for part in no_value])
    engine = Engine(ALIASES.get(name, name), simple_parse_args_string(args))
    usable = ["cl-bench", "hf", *CHECKPOINT_ENGINES]
    if engine.name not in usable:
        if engine.name in MODEL_MAPPING:
            raise UserError(
                f"--engine {name}: loads no Hugging Face folder, so it cannot answer for a stage's "
                f"model (those that do: {', '.join(usable)})"
            )
        raise UserError(f"--engine {name}: unknown{nearest(name, usable)}")
    if faults := [*_argument_faults(engine), *_missing(engine)]:
        raise UserError(faults)
    return engine


def _argument_faults(engine: Engine) -> list[str]:
    faults = [
        f"--engine-args {key}: the run says which model answers; leave it out"
        for key in engine.args
        if key in OF_THE_RUN
    ]
    if engine.name == "cl-bench":
        for key, value in engine.args.items():
            if key not in (*OWN_ARGUMENTS, *OF_THE_RUN):
                faults.append(f"--engine-args {key}: unknown{nearest(key, OWN_ARGUMENTS)}")
            elif key in OWN_ARGUMENTS and not (isinstance(value, int) and value > 0):
                faults.append(f"--engine-args {key}={value}: a positive number of tokens is needed")
        return faults
    for key in NUMBERS & engine.args.keys():
        value = engine.args[key]
        automatic = key == "batch_size" and re.fullmatch(r"auto(:\d+)?", str(value))
        if not automatic and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            faults.append(f"--engine-args {key}={value}: a positive whole number is needed")
    if "subprocess" in engine.args and engine.name != "hf":
        faults.append("--engine-args subprocess: for `hf`; others run in a subprocess anyway")
    elif not isinstance(engine.args.get("subprocess", False), bool):
        faults.append(f"--engine-args subprocess={engine.args['subprocess']}: true or false")
    return faults


def _missing(engine: Engine) -> list[str]:
    if engine.in_memory:
        return []
    if sys.platform == "win32":
        return [f"--engine {engine}: engines in a subprocess need Linux or macOS"]
    module, package = CHECKPOINT_ENGINES.get(engine.name, ("transformers", "transformers"))
    if _installed(module):
        return []
    return [f"--engine {engine.name}: needs the package {module}: pip install '{package}'"]


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False
