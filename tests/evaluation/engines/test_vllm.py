"""The real vLLM, in the Python that `CL_BENCH_VLLM_PYTHON` names, against our engine in float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

import psutil
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForCausalLM

from cl_bench.errors import RunError
from cl_bench.evaluation.engines.choice import Engine, choose_engine
from cl_bench.evaluation.engines.kept import Kept
from cl_bench.evaluation.engines.opened import Subject, counted, opened, requests_of
from cl_bench.evaluation.whole_prompt import REQUEST, whole_prompts
from tests.helpers.tiny import BYTE_VOCAB_SIZE, byte_tokenizer

PYTHON = os.environ.get("CL_BENCH_VLLM_PYTHON")
WINDOW = 128

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="CL_BENCH_VLLM_PYTHON names no Python with vLLM"),
]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    """Two sets of weights of a model whose output layer is its embeddings."""
    found = []
    for seed in (0, 1):
        config = LlamaConfig(
            vocab_size=BYTE_VOCAB_SIZE,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4.0 if parameter.dim() == 2 else 1.0)  # texts that are not one byte
            letters = byte_tokenizer().convert_tokens_to_ids(list(ascii_lowercase))
            others = torch.ones(BYTE_VOCAB_SIZE, dtype=torch.bool)
            others[letters] = False
            model.get_input_embeddings().weight[others] = 0.0  # of letters, which are whole bytes
        folder = tmp_path_factory.mktemp(f"stage-{seed}")
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        found.append(Subject(model, byte_tokenizer(), folder))
    return found


@pytest.fixture(scope="module")
def vllm() -> Engine:
    return choose_engine("vllm", f"enforce_eager=true,max_length={WINDOW}", PYTHON)


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with Kept() as found:
        yield found


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def prompts(until: list[str], **more: Any) -> list[Instance]:
    kwargs = {"until": until, "max_gen_toks": 24, **more}
    texts = ["Once upon a time", "x" * 3 * WINDOW, "It was", "The end of"]
    return asked("generate_until", *((text, kwargs) for text in texts))


def answers(lm: Any) -> dict[str, Any]:
    """Every kind of request; what is cut keeps the same tokens in both engines."""
    pairs = [("one", " two"), ("three", ""), ("", "x"), ("a" * 99, " b"), ("a" * 99, " c")]
    before = counted(lm)
    free = lm.generate_until(prompts([]))
    # A stop string of several tokens, from the middle of what is generated.
    stop = free[0][5:9]
    with whole_prompts(lm):
        whole = getattr(lm, REQUEST)(asked(REQUEST, ("whole prompt A", (0,), 64)))
    return {
        "texts": free,
        "stopped": lm.generate_until(prompts([stop])),
        "scores": lm.loglikelihood(asked("loglikelihood", *pairs)),
        "rolling": lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("a text",))),
        "whole": whole,
        "counts": requests_of(lm, before),
    }


@pytest.mark.parametrize("number", [0, 1, 0])
def test_it_answers_as_ours_does_with_the_weights_of_every_stage(
    number: int, stages: list[Subject], vllm: Engine, kept: Kept
) -> None:
    """One process for all three: the second and third time it is given weights."""
    subject = stages[number]
    with opened(Engine("cl-bench", {"max_length": WINDOW}), subject) as lm:
        ours = answers(lm)
    with opened(vllm, subject, kept=kept) as lm:
        theirs = answers(lm)
        process = lm._process.pid
    assert theirs["texts"] == ours["texts"] and theirs["stopped"] == ours["stopped"]
    assert all(len(text) > 4 for text in ours["texts"])
    assert 0 < len(ours["stopped"][0]) < len(ours["texts"][0])
    for kind in ("scores", "rolling", "whole"):
        mine = [one[0] if isinstance(one, tuple) else one for one in ours[kind]]
        other = [one[0] if isinstance(one, tuple) else one for one in theirs[kind]]
        assert other == pytest.approx(mine, abs=2e-3), kind
    assert theirs["counts"]["truncated"] == ours["counts"]["truncated"] == 2
    assert theirs["counts"]["empty"] == ours["counts"]["empty"] == 1
    again = kept._idle
    assert again is not None and again._process.pid == process


def test_what_dies_in_a_unit_is_told_and_leaves_nothing(
    stages: list[Subject], vllm: Engine, kept: Kept
) -> None:
    """The part of vLLM that computes is killed, and so is all of it by the end."""
    with (
        pytest.raises(RunError, match=r"(?s)--engine vllm .* exit code 1.*has ended"),
        opened(vllm, stages[0], kept=kept) as lm,
    ):
        below = psutil.Process(lm._process.pid).children(recursive=True)
        next(each for each in below if "EngineCore" in each.name()).kill()
        lm.generate_until(prompts([]))
    psutil.wait_procs(below, timeout=10)
    assert not [each for each in below if each.is_running() and each.status() != "zombie"]


def test_the_process_is_gone_with_its_keeper(stages: list[Subject], vllm: Engine) -> None:
    with Kept() as keeper:
        with opened(vllm, stages[1], kept=keeper) as lm:
            below = psutil.Process(lm._process.pid).children(recursive=True)
        assert below and all(each.is_running() for each in below)
    psutil.wait_procs(below, timeout=10)
    assert not [each for each in below if each.is_running() and each.status() != "zombie"]


def test_new_weights_do_not_come_from_what_it_read_before(
    stages: list[Subject], vllm: Engine
) -> None:
    """The same prompt under other weights, which a prefix cache would answer with the old ones."""
    long = [("y" * 100 + end, " z") for end in "abc"]
    found = []
    with Kept() as keeper:
        for subject in (*stages, stages[0]):
            with opened(vllm, subject, kept=keeper) as lm:
                found.append(lm.loglikelihood(asked("loglikelihood", *long)))
    for subject, scores in zip((*stages, stages[0]), found, strict=True):
        with opened(Engine(), subject) as lm:
            ours = lm.loglikelihood(asked("loglikelihood", *long))
        assert [s for s, _ in scores] == pytest.approx([s for s, _ in ours], abs=2e-3)
