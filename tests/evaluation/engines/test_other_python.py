"""Engines in another Python: what is refused, what it needs, how it gets new weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from cl_bench.config.schema import EngineConfig
from cl_bench.errors import RunError, UserError
from cl_bench.evaluation.engines.choice import Engine, choose_engine, engine_asked
from cl_bench.evaluation.engines.kept import Kept, keeps, vllm_defaults
from cl_bench.evaluation.engines.opened import Subject, opened
from tests.helpers.other_python import make_python, starts, without, write_program
from tests.helpers.tiny import byte_tokenizer, tiny_model


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    """The same model with two sets of weights."""
    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"stage-{seed}")
        torch.manual_seed(seed)
        model = tiny_model()
        with torch.no_grad():
            model.get_input_embeddings().weight.add_(seed)
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        found.append(Subject(model, byte_tokenizer(), folder))
    return found


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def texts(lm: Any) -> list[str]:
    return lm.generate_until(
        asked("generate_until", ("one", {"until": ["z"], "max_gen_toks": 4}), ("two", {}))
    )


def test_it_needs_neither_cl_bench_nor_its_packages(tmp_path: Path, stages: list[Subject]) -> None:
    """The stand-in's program starts without any site-packages; `torch` raises on import."""
    engine = choose_engine("vllm", "max_length=8", str(make_python(tmp_path)))
    with opened(engine, stages[0]) as lm:
        scores = lm.loglikelihood(asked("loglikelihood", ("a", "bc"), ("too long for it", "x")))
        assert len(set(texts(lm))) == 1
        assert lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("four",))) == [-4.0]
        assert lm.max_length == 8 and lm.tok_encode("ab") == [97, 98]
    assert all(score < 0 for score, _ in scores)
    assert (lm.counters.requests, lm.counters.truncated) == (4, 2)
    assert str(engine) == (
        "vllm max_length=8 (vllm 0.32.0, lm_eval 0.4.13, torch 2.99.0, transformers 5.19.0)"
    )


@pytest.mark.parametrize(
    ("versions", "missing", "message"),
    [
        (
            {"lm_eval": None},
            ["lm_eval"],
            r"lm-eval is missing: .*python -m pip install 'lm-eval",
        ),
        ({"lm_eval": "0.3.0"}, [], r"lm-eval 0\.3\.0: cl-bench needs lm-eval"),
        ({"lm_eval": "0.6.1"}, [], r"lm-eval 0\.6\.1: cl-bench needs lm-eval"),
        ({"vllm": None}, ["vllm"], r"vllm is missing: .* install 'lm_eval\[vllm\]'"),
        ({"vllm": None}, [], r"no distribution of that name.*METADATA"),
    ],
)
def test_what_it_lacks_is_named(
    versions: dict[str, str | None], missing: list[str], message: str, tmp_path: Path
) -> None:
    python = make_python(tmp_path, **versions)
    without(tmp_path, *missing)
    with pytest.raises(UserError, match=message) as error:
        choose_engine("vllm", None, str(python))
    assert len(error.value.faults) == 1


@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ("echo hello\n", "no Python: exit code 0; it said: hello"),
        ("echo no >&2; exit 3\n", "no Python: exit code 3; it said: no"),
        ("exit 0\n", "no Python: exit code 0$"),
        ('echo \'{"python": [3, 7, 9], "modules": {}, "versions": {}}\'\n', r"is Python 3\.7\.9"),
    ],
)
def test_what_is_no_python_is_refused(shell: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        choose_engine("vllm", None, str(write_program(tmp_path, shell)))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for path, message in (
        ("nowhere/python", "no such file"),
        ("no-such-python-on-the-path", "no such file"),
        (str(tmp_path), "is a folder: name its Python, often bin/python"),
        (str(tmp_path / "text"), "cannot be executed"),
    ):
        with pytest.raises(UserError, match=message):
            choose_engine("vllm", None, path)


def test_every_fault_is_named_with_those_of_the_arguments(tmp_path: Path) -> None:
    python = make_python(tmp_path, lm_eval="0.3.0", vllm=None)
    with pytest.raises(UserError) as error:
        choose_engine("vllm", "pretrained=x", str(python))
    assert len(error.value.faults) == 3


@pytest.mark.parametrize("name", ["cl-bench", "hf"])
def test_an_engine_in_memory_has_no_other_python(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answers with the model in memory"):
        choose_engine(name, None, str(make_python(tmp_path)))


def test_options_of_a_command_stand_over_the_config(tmp_path: Path) -> None:
    python = str(make_python(tmp_path))
    config = EngineConfig(name="vllm", args={"max_length": 9}, python=python, keep=False)
    plain = engine_asked(config, None, None, None)
    assert (plain.name, plain.args, plain.python) == ("vllm", {"max_length": 9}, python)
    assert not plain.keep
    assert engine_asked(config, None, "max_length=5", None).args == {"max_length": 5}
    # What was said of vLLM is not for another engine.
    assert engine_asked(config, "hf", None, None) == Engine("hf", keep=False)


def generations(engine: Engine, stages: list[Subject], say: Any = None) -> list[list[str]]:
    found = []
    with Kept() as kept:
        for subject in stages:
            with opened(engine, subject, kept=kept, say=say) as lm:
                found.append(texts(lm))
                process = lm._process
    assert process.poll() is not None
    return found


def apart(engine: Engine, stages: list[Subject]) -> list[list[str]]:
    """Each stage in a process of its own."""
    return [generations(engine, [subject])[0] for subject in stages]


def kinds(folder: Path) -> list[str]:
    return [line.split()[0] for line in starts(folder)]


def test_one_process_takes_the_weights_of_every_stage(
    tmp_path: Path, stages: list[Subject]
) -> None:
    """What it remembers of the weights before is not answered with."""
    engine = choose_engine("vllm", None, str(make_python(tmp_path)))
    expected = apart(engine, stages)
    (tmp_path / "site" / "loaded").unlink()
    assert generations(engine, [*stages, stages[0]]) == [*expected, expected[0]]
    assert kinds(tmp_path) == ["start", "reload", "reload"] and expected[0] != expected[1]


def test_one_that_is_not_to_stay_is_started_for_every_stage(
    tmp_path: Path, stages: list[Subject]
) -> None:
    engine = replace(choose_engine("vllm", None, str(make_python(tmp_path))), keep=False)
    assert generations(engine, stages) == apart(engine, stages)
    assert kinds(tmp_path) == ["start"] * 4


def test_one_that_takes_no_weights_is_started_anew_and_it_is_said(
    tmp_path: Path, stages: list[Subject]
) -> None:
    engine = choose_engine("vllm", "reload=fails", str(make_python(tmp_path)))
    said: list[str] = []
    found = generations(engine, [*stages, stages[0]], said.append)
    assert found == [*apart(engine, stages), found[0]]
    assert kinds(tmp_path)[:3] == ["start", "start", "start"]
    assert len(said) == 1 and "Model reloading with `odd` format" in said[0]


def test_one_in_which_something_failed_is_not_kept(tmp_path: Path, stages: list[Subject]) -> None:
    """The second time too, when it has waited before."""
    engine = choose_engine("vllm", None, str(make_python(tmp_path)))
    with Kept() as kept:
        with opened(engine, stages[0], kept=kept):
            pass
        with pytest.raises(KeyboardInterrupt), opened(engine, stages[1], kept=kept) as lm:
            raise KeyboardInterrupt
        assert lm._process.poll() is not None
        with opened(engine, stages[1], kept=kept):
            pass
    assert kinds(tmp_path) == ["start", "reload", "start"]


def test_one_whose_computing_part_is_killed_is_not_waited_for(
    tmp_path: Path, stages: list[Subject]
) -> None:
    """vLLM goes on waiting for its answer."""
    engine = choose_engine("vllm", "hangs=true", str(make_python(tmp_path)))
    (tmp_path / "site" / "dies_after").write_text("1")
    with (
        pytest.raises(RunError, match=r"(?s)exit code 1.*that computes for this one has ended"),
        opened(engine, stages[0]) as lm,
    ):
        texts(lm)


def test_a_model_of_another_shape_is_started(tmp_path: Path, stages: list[Subject]) -> None:
    grown = tiny_model()
    grown.config.num_hidden_layers += 1
    engine = choose_engine("vllm", None, str(make_python(tmp_path)))
    generations(engine, [stages[0], replace(stages[0], model=grown)])
    assert kinds(tmp_path) == ["start", "start"]


def test_the_memory_of_an_accelerator_is_given_back_between_stages(
    tmp_path: Path, stages: list[Subject]
) -> None:
    """It sleeps while the model trains, and is not kept where it could not."""
    python = str(make_python(tmp_path))
    engine = choose_engine("vllm", "enable_sleep_mode=true", python)
    expected = apart(engine, stages)
    (tmp_path / "site" / "loaded").unlink()
    assert generations(engine, stages) == expected
    assert kinds(tmp_path) == ["start", "sleep", "reload", "sleep"]
    assert vllm_defaults(engine, "cuda") == {"enable_sleep_mode": True}
    assert keeps(engine, "cuda", sleeps=True) and not keeps(engine, "cuda", sleeps=False)
    assert not keeps(choose_engine("vllm", "data_parallel_size=2", python), "cpu", False)
    assert not keeps(Engine("hf", {"subprocess": True}), "cpu", False)


def test_vllm_leaves_memory_for_training_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = vllm_defaults(Engine("vllm"), "cpu")["kv_cache_memory_bytes"]
    assert 0 < asked_for <= 4 * 2**30
    assert vllm_defaults(Engine("vllm", {"gpu_memory_utilization": 0.5}), "cpu") == {}
    assert vllm_defaults(Engine("sglang"), "cpu") == {}
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert vllm_defaults(Engine("vllm"), "cpu") == {}
