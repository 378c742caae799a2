"""What is asked in another form than a reader expects is said by plan, run and report."""

from __future__ import annotations

import json

import yaml

from tests.e2e.conftest import Bench
from tests.helpers.tiny import byte_tokenizer


def test_templates_shots_and_other_cuts_are_said(bench: Bench) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "[{{ messages[0].content }}]"
    tokenizer.save_pretrained(bench.root / "model")
    folder = bench.root / "own"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"q": f"{split} {i}?", "a": f"{i}"} for i in range(6)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "counted",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {s: str(folder / f"{s}.jsonl") for s in ("train", "test")}
        },
        "training_split": "train",
        "test_split": "test",
        "fewshot_split": "train",
        "num_fewshot": 2,
        "output_type": "generate_until",
        "doc_to_text": "{{q}}\nA:",
        "doc_to_target": "{{a}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "counted.yaml").write_text(yaml.safe_dump(task))
    bench.write_config(
        methods=["sft"],
        task_paths=["own"],
        stages=[{"task": "counted", "truncation": "keep_instruction", "max_prompt_tokens": 20}],
        eval={"trace": {"limit": 3}, "general": {"after": "never"}, "probes": False},
    )
    planned = bench.must("plan", "tiny.yaml")
    bench.must("run", "tiny.yaml")
    reported = bench.report()
    for text in (planned, reported):
        flat = " ".join(text.split())
        assert "the tokenizer has a chat template, which is not used" in flat
        assert "counted: scored with 2 worked examples in the prompt" in flat
        assert "3 of 3 prompts with their worked examples have more than" in flat
        assert "max_prompt_tokens 20 (the base model: 64)" in flat
        assert "truncation keep_instruction (the base model: left)" in flat
