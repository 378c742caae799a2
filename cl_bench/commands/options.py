"""Texts of options that several commands have."""

ENGINE_HELP = (
    "Evaluation engine instead of the config's: cl-bench, hf (lm-eval's HFLM), or a model class of "
    "lm-eval's registry that loads the stage's checkpoint in a process of its own: vllm, sglang, "
    "openvino, ..."
)
ENGINE_ARGS_HELP = "key=value,... for the engine, for example batch_size=8."
ENGINE_PYTHON_HELP = (
    "Another Python for an engine in a process of its own, such as a venv's bin/python: it needs "
    "lm-eval and the engine, not cl-bench."
)
ALLOW_CODE_HELP = (
    "Run programs that the model writes (HumanEval), in a sandbox that is no protection from "
    "attacks: docs/code-execution.md."
)
