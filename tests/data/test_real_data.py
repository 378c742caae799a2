"""The real TRACE, PIQA and BoolQ files, where they are beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_bench.data.examples import training_examples
from cl_bench.data.loading import load_tasks
from cl_bench.data.tokens import encode_examples, encode_prompts
from tests.helpers.tiny import byte_tokenizer
from tests.helpers.trace_names import TRACE

HEAD_AND_CUE = {
    "trace_cstance": ("文本：\n", "\n态度："),
    "trace_fomc": ("Text:\n", "\nStance:"),
    "trace_meetingbank": ("Meeting transcripts:\n", "\nSummary:"),
    "trace_scienceqa": ("Question:\n", "\nAnswer:"),
    "trace_numglue_cm": ("Question:\n", "\nAnswer:"),
    "trace_numglue_ds": ("Question:\n", "\nAnswer:"),
    "trace_20minuten": ("Paragraph:\n", "\nSimplification:"),
}


@pytest.fixture(scope="module")
def tasks(shared_dir: Path):
    names = [*TRACE.values(), "general_piqa", "general_boolq"]
    return load_tasks(names, shared_dir / "data", require_training=TRACE)


def test_every_row_is_read_unchanged(tasks, shared_dir):
    for theirs, ours in TRACE.items():
        for split in ("train", "eval", "test"):
            path = shared_dir / "data" / "trace" / theirs / f"{split}.json"
            rows = json.loads(path.read_text(encoding="utf-8"))
            read = tasks[ours].dataset[split].to_list()
            assert read == [{"prompt": r["prompt"], "answer": r["answer"]} for r in rows]


def test_the_general_sets_have_their_sizes_and_labels(tasks):
    assert len(tasks["general_piqa"].eval_docs) == 1838
    labels = tasks["general_boolq"].eval_docs["label"]
    assert (len(labels), sum(labels)) == (3270, 2033)


def test_training_pairs_are_prompt_and_answer(tasks):
    for name in TRACE.values():
        rows = tasks[name].dataset["train"]
        for example in training_examples(tasks[name], 50, seed=3):
            row = rows[example.doc_id]
            assert (example.prompt, example.answer) == (row["prompt"], row["answer"])


@pytest.mark.parametrize("name", HEAD_AND_CUE)
def test_keep_instruction_keeps_the_instruction_of_every_task(tasks, name):
    tokenizer = byte_tokenizer()
    prompts = [doc["prompt"] for doc in tasks[name].eval_docs.select(range(60))]
    head_end, cue = HEAD_AND_CUE[name]
    for prompt in prompts:
        head = prompt[: prompt.index(head_end) + len(head_end)]
        most = max(len((head + cue).encode()) + 20, len(prompt.encode()) * 2 // 3)
        if most >= len(prompt.encode()) or 2 * len(head.encode()) > len(prompt.encode()):
            continue
        (cut,) = encode_prompts(tokenizer, [prompt], most, "keep_instruction")
        text = tokenizer.decode(cut.ids)
        assert text.startswith(head)
        assert text.endswith(cue)
        assert len(cut.ids) == most


def test_answers_survive_any_prompt(tasks):
    tokenizer = byte_tokenizer()
    for name in TRACE.values():
        examples = training_examples(tasks[name], 20, seed=0)
        for example, encoded in zip(
            examples, encode_examples(examples, tokenizer, 64, 4096, "left"), strict=True
        ):
            answer = encoded.input_ids[encoded.prompt_length : -1]
            assert tokenizer.decode(answer) == example.answer
            assert encoded.input_ids[-1] == tokenizer.eos_token_id
            assert encoded.prompt_length <= 64
