"""Engines by name: what is refused, what a subprocess answers, what is counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from cl_bench.errors import RunError, UserError
from cl_bench.evaluation.choice import Engine, choose_engine
from cl_bench.evaluation.engines import Subject, counted, opened, requests_of
from cl_bench.evaluation.whole_prompt import REQUEST, whole_prompts
from tests.tiny import byte_tokenizer, tiny_model

IN_SUBPROCESS = Engine("hf", {"subprocess": True, "batch_size": 1, "softmax_dtype": "float32"})


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_model(), byte_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Subject(model, tokenizer, folder)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("vlm", None, r"--engine vlm: unknown \(did you mean 'vllm'\?\)"),
        ("openai-completions", None, "loads no Hugging Face folder"),
        ("vllm", None, r"needs the package vllm: pip install 'lm_eval\[vllm\]'"),
        ("hf", "pretrained=gpt2", "pretrained: the run says which model answers"),
        ("cl-bench", "tokenbudget=5", r"tokenbudget: unknown \(did you mean 'token_budget'\?\)"),
        ("cl-bench", "token_budget=0", "a positive number of tokens"),
        ("vllm", "subprocess=true", "run in a subprocess anyway"),
    ],
)
def test_what_is_refused(name: str, args: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_engine(name, args)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        choose_engine("vllm", "pretrained=x,tokenizer=y")
    assert len(error.value.faults) == 3


def test_names_and_arguments() -> None:
    assert choose_engine("hf-auto", "batch_size=4,dtype=float32") == Engine(
        "hf", {"batch_size": 4, "dtype": "float32"}
    )
    assert str(choose_engine("cl-bench", "token_budget=64,max_length=9")) == (
        "cl-bench max_length=9 token_budget=64"
    )
    assert str(Engine()) == "cl-bench" and Engine().in_memory and Engine("hf").in_memory
    assert not IN_SUBPROCESS.in_memory and not Engine("vllm").in_memory


def test_an_unknown_argument_of_hf_is_the_users_fault(subject: Subject) -> None:
    with (
        pytest.raises(UserError, match=r"batchsize: unknown \(did you mean 'batch_size'\?\)"),
        opened(Engine("hf", {"batchsize": 3}), subject),
    ):
        pass


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


REQUESTS = {
    "loglikelihood": asked("loglikelihood", ("one", " two"), ("three", " four"), ("", "x")),
    "loglikelihood_rolling": asked("loglikelihood_rolling", ("a text",), ("another one",)),
    "generate_until": asked(
        "generate_until",
        ("Once upon a time", {"until": ["z"], "max_gen_toks": 5}),
        ("It was", {"until": ["\n"], "max_gen_toks": 7}),
    ),
    REQUEST: asked(REQUEST, ("whole prompt A", (0,), 64), ("whole prompt B", (0,), 6)),
}


def answers(engine: Engine, subject: Subject) -> dict[str, Any]:
    with opened(engine, subject) as lm, whole_prompts(lm):
        lm.encode_prompts = lambda texts: [subject.tokenizer.encode(text)[-9:] for text in texts]
        return {kind: getattr(lm, kind)(requests) for kind, requests in REQUESTS.items()}


def test_a_subprocess_answers_as_the_model_in_memory(subject: Subject) -> None:
    """Also with prompts cut to their last 9 tokens."""
    here = answers(Engine("hf", {"batch_size": 1}), subject)
    assert answers(IN_SUBPROCESS, subject) == here
    ours = answers(Engine(), subject)
    assert ours["generate_until"] == here["generate_until"]
    assert [score for score, _ in ours["loglikelihood"]] == pytest.approx(
        [score for score, _ in here["loglikelihood"]], abs=1e-4
    )


def test_a_worker_that_fails_is_quoted(subject: Subject) -> None:
    broken = Subject(subject.model, subject.tokenizer, Path("nowhere/at/all"))
    with (
        pytest.raises(RunError, match=r"(?s)exit code 1.*nowhere/at/all"),
        opened(IN_SUBPROCESS, broken),
    ):
        pass


def test_no_worker_outlives_an_error(subject: Subject) -> None:
    with pytest.raises(KeyboardInterrupt), opened(IN_SUBPROCESS, subject) as lm:
        worker = lm._process.pid
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("name", ["cl-bench", "hf"])
def test_what_is_cut_or_empty_is_counted(name: str, subject: Subject) -> None:
    with opened(Engine(name, {"max_length": 12}), subject) as lm:
        before = counted(lm)
        scores = lm.loglikelihood(
            asked("loglikelihood", ("short", " x"), ("much longer than it", " x"), ("short", ""))
        )
        assert scores[2] == (0.0, True)
        lm.generate_until(
            asked(
                "generate_until",
                ("much longer than it", {"until": [], "max_gen_toks": 4}),
                ("12345678", {"until": [], "max_gen_toks": 4}),
            )
        )
        expected = {"requests": 5, "truncated": 2, "empty": 1}
        assert requests_of(lm, before) == expected
        before = counted(lm)
        lm.loglikelihood(asked("loglikelihood", ("short", " x")))
        assert requests_of(lm, before) == {"requests": 1, "truncated": 0, "empty": 0}
