"""Only what the engine's process asks of it."""


def register_pickle_by_value(module):
    assert module.__name__ == "cl_bench.evaluation.engines.running_vllm"
