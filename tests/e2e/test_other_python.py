"""`--engine-python`: an engine that runs in another Python, as a user has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.other_python import asked, make_python, starts, without
from tests.helpers.read import scores_of

VERSIONS = "(vllm 0.32.0, lm_eval 0.4.13, torch 2.99.0, transformers 5.19.0)"
STAGES = ("stage-1-trace_fomc", "stage-2-trace_numglue_ds")


def kinds(folder: Path) -> list[str]:
    return [line.split()[0] for line in starts(folder)]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_cannot_run_it_is_refused_by_plan_and_run_alike(bench: Bench, command: str) -> None:
    python = make_python(bench.root / "other", lm_eval="0.3.0")
    without(bench.root / "other", "vllm")
    other = ["--engine", "vllm", "--engine-python", str(python)]
    code, _, err = bench.run(command, "tiny.yaml", *other)
    assert code == 2 and "lm-eval 0.3.0: cl-bench needs lm-eval" in err and "vllm is missing" in err
    code, _, err = bench.run(command, "tiny.yaml", "-o", "engine={name: vllm, python: ./nothing}")
    assert code == 2 and "nothing: no such file" in err
    code, _, err = bench.run(command, "tiny.yaml", "--engine-python", str(python))
    assert code == 2 and "answers with the model in memory" in err
    assert not bench.results.exists()


def test_the_config_names_it_and_every_command_heeds_it(bench: Bench) -> None:
    """The path is beside the config; one process serves the base model and both stages."""
    other = bench.root / "other"
    make_python(other)
    bench.write_config(engine={"name": "vllm", "python": "other/bin/python"}, methods=["sft"])
    assert f"engine: vllm {VERSIONS}" in bench.must("plan", "tiny.yaml")
    bench.must("run", "tiny.yaml")
    assert kinds(other) == ["start", "reload", "reload"]
    assert len({line.split()[1] for line in starts(other)}) == 3  # weights of three models
    places = [Path("base"), *(Path("sft/seed-1") / stage for stage in STAGES)]
    for place in places:
        found = scores_of(bench.results / place)
        assert found["engine"] == f"vllm {VERSIONS}"
        assert found["general"]["piqa"]["requests"]["requests"] == 8
    assert f"engine `vllm {VERSIONS}`" in bench.report()
    bench.must("eval", "tiny", "--stage", "1", "--task", "piqa", "--limit", "2")
    assert kinds(other)[3:] == ["start"]
    (scores,) = (bench.results / places[1]).glob("evals/*/scores.json")
    assert scores_of(scores.parent)["settings"]["engine"] == f"vllm {VERSIONS}"
    bench.must("eval", "tiny", "--stage", "1", "--limit", "3", "--engine", "cl-bench")
    assert kinds(other)[4:] == []


def test_one_that_is_killed_in_a_unit_loses_nothing_that_is_complete(bench: Bench) -> None:
    other, args = bench.root / "other", ["run", "tiny.yaml", "--method", "sft", "--engine", "vllm"]
    args += ["--engine-python", str(make_python(other))]
    bench.must(*args, "-o", "name=whole")
    whole, needed = fingerprints(bench.root / "results" / "whole"), asked(other)
    (other / "site" / "asked").unlink()
    (other / "site" / "dies_after").write_text("7")
    code, _, err = bench.run(*args)
    assert code == 1 and "SIGKILL" in err and "run the same command again" in err
    assert not (bench.results / "base" / "scores.json").exists()
    done = asked(other)
    (other / "site" / "dies_after").unlink()
    bench.must(*args)
    # The second task was asked again, the first was not.
    assert asked(other) - done == needed - 6
    assert [name for name in whole if name.endswith("scores.json")]
    found = fingerprints(bench.results)
    assert {name: found[name] for name in whole if "predictions" in name} == {
        name: value for name, value in whole.items() if "predictions" in name
    }
    for place in (Path("base"), *(Path("sft/seed-1") / stage for stage in STAGES)):
        first = scores_of(bench.root / "results" / "whole" / place)
        second = scores_of(bench.results / place)
        assert [first[part] for part in ("trace", "general")] == [
            second[part] for part in ("trace", "general")
        ]
