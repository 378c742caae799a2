"""Texts of options that several commands have."""

LIMIT_HELP = "Documents a task, a seeded sample; the run's own or all by default."
DTYPE_HELP = "Of a model's weights; default: bfloat16 on a GPU, else float32."
DATA_ROOT_HELP = "Look here for the data."
DEVICE_HELP = "cuda, cuda:1, cpu, mps, ...; default: the first GPU, or the CPU."
CHAT_TEMPLATE_HELP = (
    "auto: ask in the tokenizer's chat template, if it has one; off: in plain text; or a file with "
    "a template (docs/chat.md)."
)
PARALLEL_HELP = (
    "ray, or ray:HOST:PORT of a cluster: make the runs at once, each a task of Ray with its share "
    "of GPUs or cores (docs/clusters.md)."
)
PER_RUN_HELP = "What a run takes of a cluster, for example gpus=2 or cpus=4,gpus=0.5."
UNTIL_HELP = "Stop after this stage, by number or task; the same command without it goes on."
TASK_PATH_HELP = "More folders of task YAMLs (repeatable)."

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
