"""Which engine answers the requests: the config's `engine:`, or `--engine` and its like.

Nothing here imports torch: a wrong name or a missing package must fail at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from cl_bench.config.schema import EngineConfig
from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.engines.other_python import ask, program, versions_of, what_it_lacks

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
    python: str | None = None
    """The program of the Python that runs it; None: ours."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what another Python answers with."""
    keep: bool = True
    """Whether a process that can take new weights stays from one stage to the next."""

    def __str__(self) -> str:
        """As scores and reports record it. Where the other Python lies is no part."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        arguments = (f"{key}={self.args[key]}" for key in sorted(self.args))
        return " ".join([self.name, *arguments, *([f"({packages})"] if packages else [])])

    @property
    def in_memory(self) -> bool:
        """Whether it answers with the model that was trained, in this process."""
        return self.name == "cl-bench" or (self.name == "hf" and not self.args.get("subprocess"))

    @property
    def arguments(self) -> dict[str, Any]:
        """What its class is given."""
        return {key: value for key, value in self.args.items() if key != "subprocess"}


def engine_asked(
    config: EngineConfig, name: str | None, args: str | None, python: str | None
) -> Engine:
    """The config's engine, or what the options of a command say instead.

    Another engine takes neither arguments nor Python from the config: they are for that one.
    """
    if name is not None:
        config = EngineConfig(name=name, keep=config.keep)
    given = config.args if args is None else args
    return replace(choose_engine(config.name, given, python or config.python), keep=config.keep)


def recorded_engine(experiment: Mapping[str, Any]) -> EngineConfig:
    """The `engine:` of a config that an `experiment.json` holds."""
    try:
        return EngineConfig.model_validate(experiment["config"].get("engine", {}))
    except ValidationError:
        raise UserError(
            "the experiment's engine: is none of this version: run its config again"
        ) from None


def choose_engine(
    name: str, args: str | Mapping[str, Any] | None = None, python: str | None = None
) -> Engine:
    """The engine with these arguments (as a text: lm-eval's syntax), in our Python or another.

    Raises UserError with every fault: an unknown name, one that loads no checkpoint, a package that
    is not installed, arguments that say which model answers, a Python that cannot run it.
    """
    if name == "cl-bench" and not args and python is None:
        return Engine(name, {})  # the default: lm-eval takes half a second to import
    from lm_eval.models import MODEL_MAPPING
    from lm_eval.utils import simple_parse_args_string

    if isinstance(args, str):
        words = args.split(",")
        if no_value := [part for part in words if part.strip() and "=" not in part]:
            raise UserError([f"--engine-args {part}: key=value is needed" for part in no_value])
    parsed = simple_parse_args_string(args) if isinstance(args, str) else dict(args or {})
    engine = Engine(ALIASES.get(name, name), parsed, python)
    usable = ["cl-bench", "hf", *CHECKPOINT_ENGINES]
    if engine.name not in usable:
        if engine.name in MODEL_MAPPING:
            raise UserError(
                f"--engine {name}: loads no Hugging Face folder, so it cannot answer for a stage's "
                f"model (those that do: {', '.join(usable)})"
            )
        raise UserError(f"--engine {name}: unknown{nearest(name, usable)}")
    faults = _argument_faults(engine)
    try:
        engine = _in_its_python(engine)
    except UserError as error:
        faults += error.faults
    if faults:
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


def _in_its_python(engine: Engine) -> Engine:
    """With the versions of another Python. Raises UserError where its Python cannot run it."""
    if engine.in_memory:
        if engine.python is None:
            return engine
        way = ", or add --engine-args subprocess=true" if engine.name == "hf" else ""
        raise UserError(
            f"--engine-python: --engine {engine} answers with the model in memory, which is in "
            f"this process: leave it out{way}"
        )
    if sys.platform == "win32":
        raise UserError(f"--engine {engine}: engines in a subprocess need Linux or macOS")
    module, package = CHECKPOINT_ENGINES.get(engine.name, ("transformers", "transformers"))
    if engine.python is not None:
        path = program(engine.python)
        found = ask(path, ["lm_eval", "torch", "transformers", module])
        if faults := list(what_it_lacks(path, found, module, package)):
            raise UserError(faults)
        return replace(engine, python=str(path), versions=versions_of(found, module))
    if _installed(module):
        return engine
    raise UserError(
        f"--engine {engine.name}: needs the package {module}: pip install '{package}', or name "
        "another Python that has it and lm-eval: --engine-python PATH"
    )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False
