"""Texts of options that several commands have."""

ENGINE_HELP = (
    "Evaluation engine: cl-bench, hf (lm-eval's HFLM), or a model class of lm-eval's registry that "
    "loads the stage's checkpoint in a process of its own: vllm, sglang, openvino, ..."
)
ENGINE_ARGS_HELP = "key=value,... for the engine, for example batch_size=8."
ALLOW_CODE_HELP = (
    "Run programs that the model writes (HumanEval), in a sandbox that is no protection from "
    "attacks: docs/code-execution.md."
)
