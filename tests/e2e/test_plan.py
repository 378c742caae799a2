"""`cl-bench plan`: memory, work and disk, then what would run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.trained import everything, masked
from cl_bench.data.examples import Example
from cl_bench.data.tokens import encode_examples
from tests.e2e.conftest import Bench
from tests.helpers.rendered import must_render
from tests.helpers.tiny import byte_tokenizer, tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
TRACE = str(REPOSITORY / "configs" / "trace.yaml")


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The cells of the table below a line that begins with `heading`, by their first."""
    lines = text[text.index(f"\n{heading}") :].splitlines()[3:]
    found = {}
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name] = cells
    return found


def test_plan_needs_no_torch_and_no_hub() -> None:
    code = (
        "import sys; from cl_bench.cli import run_command; "
        f"code = run_command(['plan', {TRACE!r}]); "
        "sys.exit(code or 10 * ('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1.544 B parameters (shapes from cl-bench's table of known models)" in done.stdout


def test_memory_of_every_method_and_the_cards_it_fits(bench: Bench) -> None:
    code, out, _ = bench.run(
        "plan", TRACE, "-o", "model.path=Qwen/Qwen2-7B", "--card", "80", "--card", "160"
    )
    assert code == 0
    memory = rows(out, "Memory")
    assert list(memory) == [
        *("sft", "ewc", "replay", "lora", "migu", "fggm"),
        *("FGGM w/o IA", "FGGM OA", "FGGM + replay"),
    ]
    weights, gradients, optimiser, own, activations, total, fits = memory["fggm"]
    assert (weights, gradients, optimiser, own) == ("15.23", "7.83", "23.49", "<0.01")
    parts = float(weights) + float(gradients) + float(optimiser) + float(activations)
    assert float(total) == pytest.approx(parts, abs=0.03)
    assert fits == "80 160" and memory["sft"][-1] == "160" and memory["ewc"][-1] == "none"
    assert float(memory["ewc"][3]) == pytest.approx(6 * 7.6156, abs=0.01)
    work = rows(out, "Work and disk")
    assert work["fggm"][2] == "0.77x" and work["FGGM w/o IA"][2] == "1.00x"
    assert work["FGGM + replay"][4] == "10 %"
    assert float(work["sft"][-1]) == pytest.approx(8 * 15.23, abs=0.1)
    scores = 0.02  # what is kept of the Fisher for `inspect`
    assert float(work["ewc"][-1]) == pytest.approx(8 * (15.23 + 30.46 + scores), abs=0.1)
    assert (work["sft"][-2], work["fggm"][-2], work["lora"][-2]) == ("-", "-", "-")
    assert float(work["ewc"][-2]) == pytest.approx(4 * 7.6156, abs=0.01)  # the Fisher
    assert float(work["ewc"][-3]) == pytest.approx(15.23 + 30.46 + scores, abs=0.01)


def test_gradient_checkpointing_is_counted_and_offered(bench: Bench) -> None:
    _, kept, _ = bench.run("plan", TRACE, "--method", "sft")
    _, made, _ = bench.run("plan", TRACE, "--method", "sft", "-o", "train.gradient_checkpointing=1")
    whole, small = (rows(text, "Memory")["sft"][4] for text in (kept, made))
    assert float(small) < 0.2 * float(whole)
    offer = f"gradient_checkpointing: true would take the largest from {whole} to {small} GB."
    assert offer in kept and "would take" not in made


@pytest.mark.parametrize("config", sorted(p.name for p in REPOSITORY.glob("configs/*.yaml")))
def test_tables_fit_a_terminal(bench: Bench, config: str) -> None:
    """And the shipped configs are valid."""
    out = bench.must("plan", f"configs/{config}")
    assert all(len(line) <= 100 for line in out.splitlines() if line.startswith("|"))
    assert len(must_render(out)) in (0, 2)  # none where the shapes are not known


def test_generals_protocol_and_limits_are_shown(bench: Bench) -> None:
    general = {"tasks": ["piqa", "boolq"], "limit": {"piqa": 7}, "protocol": "opencompass-2023"}
    bench.write_config(eval={"general": general})
    _, out, _ = bench.run("plan", str(bench.config))
    assert (
        "General after every, protocol opencompass-2023 [documents]: piqa (7), boolq (all)" in out
    )


def test_a_budget_is_named_beside_its_documents(bench: Bench) -> None:
    bench.write_config(eval={"general": {"tasks": ["mmlu", "gsm8k"], "budget": "quick"}})
    _, out, _ = bench.run("plan", str(bench.config))
    line = (
        "General after every, protocol lm-eval, budget quick [documents]: mmlu (285), gsm8k (100)"
    )
    assert line in out


def test_what_is_kept_of_the_base_model_is_shown(bench: Bench) -> None:
    command = ("plan", TRACE, "--method", "sft", "-o")
    text = 4 * 151936 * 8 / 1e9  # float32, Qwen2's vocabulary, 8 positions
    for change, texts in {
        "eval.probes=true": 64 + 8 * 16,  # of General, of eight stage tasks
        "eval.probes.kl_texts=640": 640 + 8 * 16,
        "eval.probes.kl_task_texts=1": 64 + 8,
        "eval.general.after=never": 8 * 16,
    }.items():
        _, out, _ = bench.run(*command, change)
        assert f"base/kl/: at most {texts * text:.2f} GB once" in out, change
    _, out, _ = bench.run(*command, "eval.probes=false")
    assert "base/kl/" not in out


def test_an_unknown_model_is_said_and_the_rest_goes_on(bench: Bench) -> None:
    bench.write_config(model={"path": "./nowhere"})
    code, out, err = bench.run("plan", str(bench.config))
    assert code == 2 and "model.path: there is no folder" in err
    assert "memory, work and disk: not known: model.path: there is no folder" in out
    assert "stage 2: trace_numglue_ds, 2 epochs" in out and "\n| " not in out


def test_kinds_without_known_activations_leave_them_open(bench: Bench) -> None:
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30}
    (bench.root / "gpt").mkdir()
    (bench.root / "gpt" / "config.json").write_text(json.dumps(config))
    code, out, _ = bench.run("plan", str(bench.config), "-o", "model.path=./gpt")
    assert code == 0
    assert rows(out, "Memory")["sft"][4:] == ["?", "<0.01 + ?", "?"]
    assert "activations: not known for this kind of model." in out


def tokens(bench: Bench, task: str, limit: int) -> float:
    """Tokens of the training examples as training encodes them."""
    data = json.loads((bench.root / "data" / "trace" / task / "train.json").read_text())
    pairs = [Example(row["prompt"], row["answer"], 0, task, "generate") for row in data]
    encoded = encode_examples(pairs, byte_tokenizer(), 64, 4, "left")
    return limit * sum(len(item.input_ids) for item in encoded) / len(data)


def test_flops_of_stages_whose_data_is_there(bench: Bench) -> None:
    bench.write_config(methods=["sft", {"name": "replay", "ratio": 0.5}, "fggm"])
    code, out, _ = bench.run("plan", str(bench.config), "--tflops", "0.001")
    assert code == 0
    shapes = shapes_of(tiny_model())
    fomc, numbers = tokens(bench, "FOMC", 8), tokens(bench, "NumGLUE-ds", 12)
    full = everything(shapes).flops_per_token
    sft, replay, fggm = (part for part in out.split("\n\n") if ", seed 1\n" in part)
    first, second = full * fomc, 2 * full * numbers
    hours = (first + second) / 3.6e12
    assert f"    {first / 1e6:.3g} MFLOP training, 1.00x sft" in sft
    assert f"    {second / 1e6:.3g} MFLOP training, 1.00x sft" in sft
    assert f"  all stages: {(first + second) / 1e6:.3g} MFLOP training, 1.00x sft, " in sft
    assert f", {hours:.2g} h at 0.001 TFLOP/s" in sft
    again = 2 * full * (numbers + fomc / 2)
    assert f"    {again / 1e6:.3g} MFLOP training, {again / second:.2f}x sft" in replay
    rows_only = masked(shapes, 0.7, "rows", embeddings=False).flops_per_token * fomc
    assert f"    {rows_only / 1e6:.3g} MFLOP training + " in fggm


def test_without_tokenizer_or_data_flops_are_an_upper_bound_or_missing(bench: Bench) -> None:
    (bench.root / "model" / "tokenizer.json").unlink()
    _, out, _ = bench.run("plan", str(bench.config), "--method", "sft")
    most = everything(shapes_of(tiny_model())).flops_per_token * 8 * (64 + 4 + 1)
    assert f"    at most {most / 1e6:.3g} MFLOP training" in out and "all stages: at most" in out
    _, out, _ = bench.run("plan", str(bench.config), "--method", "sft", "-o", "data_root=empty")
    assert f"    at most {most / 1e6:.3g} MFLOP training" in out  # limit: 8
    assert out.count("FLOP training") == 1 and "all stages" not in out


def test_a_broken_data_file_is_named(bench: Bench) -> None:
    path = bench.root / "data" / "trace" / "FOMC" / "train.json"
    path.write_text('[{"prompt": 1}]')
    code, _, err = bench.run("plan", str(bench.config))
    assert code == 2 and f"{path}: row 1: field 'prompt': a number, not a string" in err


def test_a_method_of_the_users_own_is_counted_as_it_says(bench: Bench) -> None:
    (bench.root / "mine.py").write_text(
        "from cl_bench.methods.base import Method\n"
        "class Mine(Method):\n"
        "    name = 'mine'\n"
        "    def adds(self, shapes):\n"
        "        from cl_bench.costs.added import Cost, Work, kept\n"
        "        work = Work(earlier=0.5, examples=4, generated=1000)\n"
        "        return kept(7_000_000_000) + Cost(work=work)\n"
    )
    bench.write_config(methods=[{"file": "mine.py"}, "sft"])
    code, out, _ = bench.run("plan", str(bench.config))
    memory = rows(out, "Memory")
    assert code == 0 and memory["mine"][3] == "7.00" and memory["sft"][3] == "-"
    assert rows(out, "Work")["mine"][4] == "50 % + 4"
    shapes = shapes_of(tiny_model())
    first = 12 / 8 * everything(shapes).flops_per_token * tokens(bench, "FOMC", 8)
    texts = f"{2000 * shapes.products / 1e6:.3g} MFLOP generation"
    assert f"    {first / 1e6:.3g} MFLOP training + {texts}" in out


@pytest.mark.parametrize("arguments", [("--card", "0"), ("--tflops", "-1"), ("--card", "big")])
def test_impossible_sizes_are_refused(bench: Bench, arguments: tuple[str, str]) -> None:
    code, _, err = bench.run("plan", str(bench.config), *arguments)
    assert code == 2 and arguments[0] in err


def test_hours_that_cannot_be_known_are_explained(bench: Bench) -> None:
    _, out, _ = bench.run("plan", TRACE, "--method", "sft", "--tflops", "200", "-o", "data_root=x")
    assert "--tflops: no hours for all stages" in out
