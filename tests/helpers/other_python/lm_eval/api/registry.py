def get_model(name):
    from vllm import VLLM

    assert name == "vllm"
    return VLLM
