"""Engines by name: what is refused, what a subprocess answers, what is counted."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import torch
from lm_eval.api.instance import Instance

from cl_bench.errors import RunError, UserError
from cl_bench.evaluation.engines.choice import Engine, choose_engine
from cl_bench.evaluation.engines.opened import (
    Subject,
    _parked,
    _whole_model,
    counted,
    engine_faults,
    opened,
    requests_of,
    scored_form,
)
from cl_bench.evaluation.engines.remote import RemoteLM
from cl_bench.evaluation.whole_prompt import REQUEST, whole_prompts
from cl_bench.methods.lora import LoRAOptions
from cl_bench.methods.targets import adapted
from cl_bench.models.checkpoints import save_checkpoint
from cl_bench.models.load import load_model
from tests.helpers.forked import fork_workers, watched
from tests.helpers.tiny import byte_tokenizer, tiny_model

IN_SUBPROCESS = Engine("hf", {"subprocess": True})


def saved(folder: Path, dtype: Literal["float32", "bfloat16"]) -> Subject:
    """Loaded again, as models of a run are (frequencies of the positions stay float32)."""
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return Subject(*load_model(folder, dtype, "cpu"), folder)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return saved(tmp_path_factory.mktemp("model"), "float32")


def ended(process: int) -> bool:
    """Also where nobody has asked for its exit code yet."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


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
        ("hf", "subprocess=maybe", "subprocess=maybe: true or false"),
        ("hf", "batch_size", "batch_size: key=value is needed"),
        ("hf", "subfolder=x", "subfolder: the run says which model answers"),
        ("openvino", None, r"needs the package optimum.intel: pip install 'lm_eval\[optimum\]'"),
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


def test_what_hf_cannot_heed_is_a_fault() -> None:
    unknown, loading = engine_faults(Engine("hf", {"batchsize": 3, "dtype": "float16"}))
    assert "batchsize: unknown (did you mean 'batch_size'?)" in unknown
    assert "dtype: says how a checkpoint is loaded" in loading
    assert engine_faults(Engine("hf", {"batch_size": 3, "max_length": 9})) == []
    assert engine_faults(Engine("hf", {"subprocess": True, "dtype": "float16"})) == []


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


REQUESTS = {
    "loglikelihood": asked("loglikelihood", ("one", " two"), ("three", ""), ("", "x")),
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_subprocess_answers_as_the_model_in_memory(
    dtype: Literal["float32", "bfloat16"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with prompts cut to their last 9 tokens, and in bf16 with the same float32 softmax.

    The first is a process of its own from its beginning, as a user's is; all others are forks.
    """
    if dtype == "bfloat16":
        fork_workers(monkeypatch)
    subject = saved(tmp_path, dtype)
    here = answers(Engine("hf"), subject)
    assert answers(IN_SUBPROCESS, subject) == here
    if dtype == "bfloat16":
        return
    ours = answers(Engine(), subject)
    assert ours["generate_until"] == here["generate_until"]
    assert [score for score, _ in ours["loglikelihood"]] == pytest.approx(
        [score for score, _ in here["loglikelihood"]], abs=1e-4
    )


def test_a_worker_that_fails_is_quoted(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)
    broken = Subject(subject.model, subject.tokenizer, Path("nowhere/at/all"))
    with (
        pytest.raises(RunError, match=r"(?s)exit code 1.*nowhere/at/all"),
        opened(IN_SUBPROCESS, broken),
    ):
        pass


def test_what_a_dead_worker_started_is_ended_too(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that inherits the worker's socket must not keep us waiting."""
    (tmp_path / "vllm.py").write_text(
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(600)\n"
        "print('child', child, file=sys.stderr, flush=True)\n"
        "os._exit(7)\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with (
        pytest.raises(RunError, match="exit code 7") as error,
        opened(Engine("vllm"), subject),
    ):
        pass
    child = re.search(r"child (\d+)", str(error.value))
    assert child is not None
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == int(child[1])], timeout=5)
    assert ended(int(child[1]))


def test_a_worker_ends_with_a_parent_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at work, where it does not see that the socket is closed."""
    (tmp_path / "vllm.py").write_text(
        "import os, time\nprint('worker', os.getpid(), flush=True)\ntime.sleep(600)\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    log = tmp_path / "log"

    def work() -> int:
        with log.open("w+b") as file:
            RemoteLM(Engine("vllm"), Path("any"), {}, None, file)
        return 0

    parent, said = watched(work)
    try:
        for _ in range(600):
            worker = re.search(r"worker (\d+)", log.read_text() if log.exists() else "")
            if worker:
                break
            time.sleep(0.1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        said.close()
    assert worker is not None
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == int(worker[1])], timeout=10)
    assert ended(int(worker[1]))


@pytest.mark.parametrize("kind", ["cuda", "xpu", "meta"])
def test_a_model_leaves_its_accelerator_and_comes_back(kind: str) -> None:
    """No accelerator is needed: one without memory of its own to free must not fail either."""

    class Somewhere:
        device = torch.device(kind, 0)

        def to(self, device: torch.device | str) -> None:
            self.device = torch.device(device)

    model = Somewhere()
    with pytest.raises(RunError), _parked(model):
        assert model.device == torch.device("cpu")
        raise RunError("a worker failed")
    assert model.device == torch.device(kind, 0)


def test_no_worker_outlives_an_error(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)
    with pytest.raises(KeyboardInterrupt), opened(IN_SUBPROCESS, subject) as lm:
        worker = lm._process.pid
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize(
    "engine",
    [
        Engine("cl-bench", {"max_length": 12}),
        Engine("hf", {"max_length": 12}),
        Engine("hf", {"max_length": 12, "subprocess": True}),
    ],
    ids=str,
)
def test_what_is_cut_or_empty_is_counted(
    engine: Engine, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    with opened(engine, subject) as lm, whole_prompts(lm):
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
        getattr(lm, REQUEST)(asked(REQUEST, ("much longer than it", (0,), 64), ("A", (0,), 64)))
        # "A" is one token, about which there is nothing to ask.
        expected = {"requests": 6, "truncated": 3, "empty": 1}
        assert requests_of(lm, before) == expected
        before = counted(lm)
        lm.loglikelihood(asked("loglikelihood", ("short", " x")))
        assert requests_of(lm, before) == {"requests": 1, "truncated": 0, "empty": 0}


def test_what_a_subprocess_loads_of_an_adapter_is_the_merged_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = saved(tmp_path / "base", "float32")
    options = LoRAOptions(target_modules=["q_proj", "down_proj"], dropout=0)
    wrapped = adapted(base.model, options, ["q_proj", "down_proj"]).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    ids = torch.tensor([[5, 6, 7]])
    save_checkpoint(wrapped, base.tokenizer, tmp_path / "adapter", str(tmp_path / "base"))
    with _whole_model(Subject(wrapped, base.tokenizer, tmp_path / "adapter")) as folder:
        merged = AutoModelForCausalLM.from_pretrained(folder)
        assert not list(folder.glob("adapter*"))
    assert not folder.exists()
    with torch.no_grad(), wrapped.disable_adapter():
        plain = wrapped(ids).logits
    torch.testing.assert_close(merged(ids).logits, wrapped(ids).logits)
    assert not torch.allclose(merged(ids).logits, plain, atol=1e-3)
    forms = [scored_form(wrapped, e) for e in (IN_SUBPROCESS, Engine("hf", {}))]
    assert forms == [{"form": "merged"}, {"form": "adapter"}]
    assert scored_form(merged, IN_SUBPROCESS) == {}
