"""The plain script that pipeline.py compares with: transformers' Trainer, then lm-eval.

    python benchmarks/pipeline_script.py FOLDER --engine hf|vllm [--engine-python PATH]

`FOLDER/config.yaml` says what is trained and scored, as for `cl-bench run`. Examples, their order,
tokens and documents are cl-bench's; everything else is as users of Trainer and lm-eval have it.
`events.jsonl` there tells what it is at, `scores.json` what it found.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HF_BATCH = 16


@contextmanager
def part(name: str, events: Path) -> Iterator[None]:
    """Write down that it begins and ends."""
    note(events, name)
    yield
    note(events, "other")


def note(events: Path, name: str) -> None:
    with events.open("a") as file:
        file.write(json.dumps([time.time(), name]) + "\n")


def script(folder: Path, engine: str, engine_python: str | None) -> None:
    """Trainer for every task, lm-eval after each; what it finds goes to `scores.json`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cl_bench.checks.preflight import preflight
    from cl_bench.evaluation.engines.choice import Engine
    from cl_bench.experiment.resolve import resolve_file

    experiment = resolve_file(str(folder / "config.yaml"))
    found = preflight(experiment, Engine(), say=lambda line: None)  # tasks, rows, documents
    (run,) = experiment.runs
    events, saved = folder / "events.jsonl", Path(found.model_path)
    dtype = getattr(torch, experiment.config.model.dtype)
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(saved)

    def scored(columns: Sequence[str]) -> Found:
        units = found.suite.units(columns, True, experiment.config.train)
        return lm_eval_scores(engine, engine_python, (model, tokenizer, saved), units)

    with part("score", events):
        seen = [scored(experiment.base_columns)]
    for stage in run.stages:
        with part("train", events):
            examples = found.trained_on(stage.name, run.seed)
            rows = rows_of(examples, tokenizer, stage, run.seed)
            train(model.float(), tokenizer, rows, stage, folder, bf16=dtype == torch.bfloat16)
        with part("save", events):
            saved = folder / f"stage-{stage.index}"
            model.to(dtype).save_pretrained(saved)
            tokenizer.save_pretrained(saved)
        with part("score", events):
            seen.append(scored(stage.scored.columns))
    (folder / "scores.json").write_text(json.dumps([vars(each) for each in seen]))


def rows_of(examples: Any, tokenizer: Any, stage: Any, seed: int) -> list[dict[str, list[int]]]:
    """What Trainer gets: the examples of all epochs as tokens, in cl-bench's order."""
    from cl_bench.data.batches import epoch_batches
    from cl_bench.data.tokens import encode_examples

    given, rows = stage.train, []
    cut = (given.max_prompt_tokens, given.max_answer_tokens, given.truncation)
    encoded = encode_examples(examples, tokenizer, *cut)
    lengths = [len(each) for each in encoded]
    for epoch in range(stage.epochs):
        of_epoch = {"seed": seed, "stage": stage.index, "epoch": epoch}
        batches = epoch_batches(lengths, batch_size=given.batch_size, **of_epoch)
        for each in (encoded[i] for batch in batches for i in batch):
            labels = [-100] * each.prompt_length + each.input_ids[each.prompt_length :]
            rows.append({"input_ids": each.input_ids, "labels": labels})
    return rows


def train(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    stage: Any,
    out: Path,
    bf16: bool,
) -> None:
    """One stage of full fine-tuning, as a user of Trainer sets it up."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(rows)

    options = TrainingArguments(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=stage.train.batch_size,
        num_train_epochs=1,  # `rows` has all of them
        learning_rate=stage.train.lr,
        lr_scheduler_type=stage.train.schedule,
        adam_beta2=0.95,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
    )
    collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
    InOrder(model, options, train_dataset=rows, data_collator=collate).train()


@dataclass
class Found:
    """Scores by column, and those of documents: `task/number`, in one scoring."""

    scores: dict[str, float] = field(default_factory=dict)
    documents: dict[str, float] = field(default_factory=dict)

    def add(self, task: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Documents of one task as cl-bench records them."""
        marks = {f"{task}/{record['doc_id']}": record["score"] for record in records}
        self.documents.update(marks)


def lm_eval_scores(engine: str, engine_python: str | None, subject: Any, units: Any) -> Found:
    """The same documents as `cl-bench run` scores, through lm-eval's own `evaluate` and engine.

    `subject`: model, tokenizer, and where they are saved, which vLLM loads.
    """
    from cl_bench.evaluation.engines.choice import Engine, choose_engine
    from cl_bench.evaluation.engines.opened import Subject
    from cl_bench.evaluation.units import answering

    chosen = Engine("hf", {"batch_size": HF_BATCH})
    if engine == "vllm":
        chosen = choose_engine("vllm", {"max_length": 2048}, engine_python)
    found = Found()
    with answering(chosen, Subject(*subject)) as answer:
        for unit in units:
            answers = answer(unit)
            found.scores[unit.name] = unit.entry(answers)["score"]
            for task, result in answers.results.items():
                found.add(task, result.records)
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--engine-python", help="a Python with lm-eval and vLLM")
    args = parser.parse_args()
    script(args.folder, args.engine, args.engine_python)
    os._exit(0)  # the time of a contestant ends with its work


if __name__ == "__main__":
    main()
