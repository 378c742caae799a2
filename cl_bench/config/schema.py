"""The experiment file: what a YAML may say, with every default.

Reading a file, `extends:` and `-o` are in `file.py`; who wins when several places give the same
value is in `experiment/resolve.py`. Nothing here imports torch: a wrong config must fail at once.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from cl_bench.config.dtypes import Dtype
from cl_bench.config.evaluation import EvalConfig
from cl_bench.config.expected import Expected
from cl_bench.config.intervals import Interval
from cl_bench.config.stages import StageConfig
from cl_bench.config.strict import PositiveInt, Section, Strict

PositiveFloat = Annotated[float, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Offloaded = Literal["optimiser", "method", "weights"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
QUICKSTART_MODEL = "smollm2-135m"
METHOD_KEYS = {"name", "compose", "file", "label"}


WINDOWS_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789"),
}
"""Names that no file or folder can have on Windows, whatever comes after a dot."""
LONGEST_NAME = 200
"""Characters of a name or label that becomes a folder; file systems allow 255 bytes."""


class ModelConfig(Section):
    """Which model is trained and in which precision its weights are kept."""

    path: str = Field(description="hub id, local folder, or smollm2-135m (the quickstart model)")
    dtype: Dtype = Field(
        "bfloat16", description="of the weights; float16 is for scoring only (methods: [ori])"
    )
    revision: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="commit or tag of a hub model"
    )
    chat_template: str = Field(
        "off",
        description="auto: ask in the tokenizer's template, if it has one; off: in plain text; or "
        "a file with a template; docs/chat.md",
    )
    system: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the system's turn of every conversation"
    )
    fewshot_as_multiturn: bool = Field(
        True, description="worked examples in a chat template: turns of their own, or one text"
    )

    @field_validator("chat_template", mode="before")
    @classmethod
    def _word_of_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads `off` as false

    @field_validator("chat_template")
    @classmethod
    def _known_template(cls, value: str) -> str:
        if value not in ("auto", "off") and "{" not in value:
            raise ValueError(
                f"'{value}' is no template: give auto, off or a file with a Jinja template"
            )
        return value

    start: str | None = Field(
        None,
        alias="from",
        description="in place of path: the model after a stage of another run, NAME/method@stage",
    )

    @property
    def source(self) -> str:
        """The path, with the revision behind an `@` where one is given."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


class TrainConfig(Section):
    """How a stage is trained. Every key can also stand in a method's entry or in a stage."""

    lr: PositiveFloat = Field(1e-5, description="peak learning rate")
    schedule: Literal["linear", "constant", "cosine"] = Field(
        "linear", description="linear and cosine fall to 0 over each stage (FGGM); TRACE: constant"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="updates of each stage in which the rate rises from 0 to its peak"
    )
    batch_size: PositiveInt = Field(128, description="examples per update, over all processes")
    micro_batch_size: PositiveInt | Literal["auto"] = Field(
        "auto", description="examples per forward pass; auto fills micro_batch_tokens"
    )
    micro_batch_tokens: PositiveInt = Field(
        2048, description="padded tokens per forward pass when micro_batch_size is auto"
    )
    max_prompt_tokens: PositiveInt = Field(1024, description="longer prompts are truncated")
    max_answer_tokens: PositiveInt = Field(512, description="also caps generation")
    truncation: Literal["left", "keep_instruction", "trace"] = Field(
        "left",
        description="what a long prompt loses: its beginning, its middle, or as TRACE's code does",
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="clipped after masking, before the step")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW; weight decay is always 0")
    gradient_checkpointing: bool = Field(
        False, description="true: less memory for activations, one more forward pass"
    )
    shard: bool = Field(
        False,
        description="true: weights, gradients and optimiser are split over the processes (FSDP2; "
        "docs/processes.md)",
    )
    offload: list[Offloaded] = Field(
        default_factory=list,
        description="what is kept in main memory in place of the card: optimiser (gradients, "
        "masters, moments), method (its tensors), weights (fetched layer by layer)",
    )

    @field_validator("offload")
    @classmethod
    def _distinct_parts(cls, value: list[Offloaded]) -> list[Offloaded]:
        if len(set(value)) != len(value):
            raise ValueError("a part is listed twice")
        return value

    @property
    def splitting(self) -> bool:
        """Whether some number of processes would hold the weights by rows."""
        return self.shard or "weights" in self.offload

    def splits(self, processes: int) -> bool:
        """Whether each of so many processes holds its rows of the weights (by FSDP2).

        One process alone does where it fetches them from main memory.
        """
        return "weights" in self.offload or (self.shard and processes > 1)


class EngineConfig(Section):
    """Which program answers the requests of scoring; `--engine` and its like say otherwise."""

    name: str = Field(
        "cl-bench", description="cl-bench, hf, or a class of lm-eval that loads checkpoints: vllm"
    )
    args: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="arguments of its class"
    )
    python: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="another Python that has lm-eval and the engine; default: this one"
    )
    keep: bool = Field(
        True, description="one vLLM for all stages, given their weights; false: one for each"
    )


class MethodEntry(Strict):
    """One entry of `methods:`; keys beyond these are options or keys of `train:`."""

    model_config = ConfigDict(extra="allow")

    name: str | None = Field(None, description="one of `cl-bench methods`, or ori: the base model")
    compose: list[str | dict[str, Any]] | None = Field(
        None, min_length=1, description="several methods as one, each a name or an entry"
    )
    file: str | None = Field(None, description="a Python file with a method of your own")
    label: str | None = Field(None, description="its name in tables; default: the method's")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> MethodEntry:
        if sum(part is not None for part in (self.name, self.compose, self.file)) != 1:
            raise ValueError("a method is given by exactly one of: name, compose, file")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        """Keys for `train:` or for the method's options."""
        return dict(self.model_extra or {})


class InContext(Section):
    """Keys of an entry `{name: ori, shots: 6}`: the base model with worked examples in the prompt.

    A row of its own for every seed, on stage tasks alone; nothing is trained.
    """

    shots: PositiveInt = Field(description="examples of a prompt; a list: a row for each number")
    layout: Literal["trace", "plain"] = Field(
        "trace", description="of the prompt: TRACE's, or whole prompts one after another (lm-eval)"
    )
    balanced: bool = Field(
        True, description="of a closed set of labels, each as often as the others (TRACE)"
    )
    max_prompt_tokens: PositiveInt | None = Field(
        None,
        description="of a prompt with its examples, of which some are left out where it is longer; "
        "default: what the model's window leaves beside max_answer_tokens",
    )


class ExperimentConfig(Section):
    """The whole file."""

    name: str = Field(description="of the experiment, and of its folder under results/")
    model: ModelConfig = Field(description="what is fine-tuned")
    seeds: list[Seed] = Field(
        default_factory=lambda: [42], min_length=1, description="one run of every method for each"
    )
    task_paths: list[str] = Field(
        default_factory=list, description="more folders of lm-evaluation-harness YAMLs"
    )
    data_root: str | None = Field(
        None, description="folder with trace/<Task>/*.json and general/<name>/*.jsonl"
    )
    methods: list[MethodEntry] | None = Field(
        None, min_length=1, description="one run for each; or give every stage its own method:"
    )
    stages: list[StageConfig] = Field(min_length=1, description="the tasks, in order")
    train: TrainConfig = Field(TrainConfig(), description="for every stage of every method")
    eval: EvalConfig = Field(EvalConfig(), description="what is scored, and when")
    engine: EngineConfig = Field(
        EngineConfig(), description="who answers; a name, or {name:, args:, python:}"
    )
    save_every: Interval = Field(
        "10 s",
        description="in the middle of stages: a time, `500 updates`, or never; docs/runs.md",
    )
    keep: Literal["all", "last", "scores"] = Field(
        "all",
        description="checkpoints: of all stages, of the newest, or none once a run is scored; what "
        "is needed to go on always stays; docs/runs.md",
    )
    checkpoints: Literal["full", "delta"] = Field(
        "full",
        description="full: folders that plain transformers loads; delta: only what differs from "
        "where the stage began (with keep: last or scores, from the base model)",
    )
    track: list[TrackerName] = Field(
        default_factory=list,
        description="told of every run: tensorboard, wandb, mlflow, trackio; docs/live.md",
    )
    allow_unreachable: bool = Field(False, description="as in a stage, for all of them")
    expected: list[Expected] = Field(
        default_factory=list, description="numbers to compare with; reports show them apart"
    )

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(f"'{value}' names a folder: use letters, digits, '.', '_' and '-'")
        if fault := folder_fault(value):
            raise ValueError(fault)
        return value

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("a seed is listed twice")
        return value

    @field_validator("track")
    @classmethod
    def _distinct_trackers(cls, value: list[TrackerName]) -> list[TrackerName]:
        if len(set(value)) != len(value):
            raise ValueError("a tracker is listed twice")
        return value

    @model_validator(mode="after")
    def _methods_or_stage_methods(self) -> ExperimentConfig:
        own = [stage.method is not None for stage in self.stages]
        if self.methods is not None and any(own):
            raise ValueError("give either methods: (one run each) or a method: in every stage")
        if self.methods is None and not all(own):
            raise ValueError("methods: is missing (or give every stage its own method:)")
        return self


def slug(label: str) -> str:
    """A folder name for a label: `FGGM w/o IA` becomes `fggm-w-o-ia`.

    Labels with letters or signs beyond ASCII, and labels of signs alone, carry a checksum behind
    what is left of them, so that two of them never share a folder.
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")
    if plain and label.isascii():
        return plain
    return f"{plain or 'method'}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def folder_fault(name: str) -> str | None:
    """Why a name cannot be a folder on some file system; None when it can be one on all."""
    if len(name.encode()) > LONGEST_NAME:
        return f"{len(name)} characters name a folder: at most {LONGEST_NAME}"
    if name.lower().partition(".")[0] in WINDOWS_DEVICES:
        return f"'{name}' cannot be a folder on Windows: use another name"
    return f"'{name}' names a folder and ends in a dot" if name.endswith(".") else None
