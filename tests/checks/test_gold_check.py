"""Gold answers on their way through tokens, delimiter, stop strings, limit, filter and metric."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.checks.found import Preflight
from cl_bench.checks.gold_answers import check_answers
from cl_bench.checks.perfect_generation import generated_text, generator, model_eos
from cl_bench.checks.reachable import gold_of, reach
from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.examples import training_examples
from cl_bench.data.loading import load_tasks
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.shared_prefix.stopping import StopRule
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.resolve import resolve
from tests.helpers.gold_tasks import WORDS, task_of
from tests.helpers.tiny import appending, byte_tokenizer

EOS = 2
STRIP = [{"name": "s", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]


def checked(task: Any, tokenizer: Any = None, engine: str = "cl-bench", **config: Any):
    """Faults and notes of a run that has this task as its one stage."""
    stage = {"task": "compass"} | config.pop("stage", {})
    full = {"name": "n", "model": {"path": "m"}, "methods": ["sft"], "stages": [stage]}
    read = ExperimentConfig.model_validate(
        full | {"train": {"max_answer_tokens": 8, "max_prompt_tokens": 40}} | config
    )
    suite = Suite({"compass": task}, {}, {"compass": range(3)}, {}, Engine(engine, {}))
    if not read.stages[0].score:
        suite = Suite({"compass": task}, {}, {}, {}, Engine(engine, {}))
    examples = {("compass", None, 42): training_examples(task, None, 42)}
    tokenizer = tokenizer or byte_tokenizer()
    said: list[str] = []
    found = Preflight(resolve(read), suite, examples, "m", tokenizer, said.append)
    faults = list(check_answers(found))
    assert said == found.notes
    return faults, found.notes


def test_answers_that_come_back_are_no_news():
    assert checked(task_of(WORDS)) == ([], [])
    assert checked(task_of(WORDS, target_delimiter=" ", filter_list=STRIP)) == ([], [])
    assert checked(task_of(WORDS), byte_tokenizer(bos=True)) == ([], [])


LOST = {
    "delimiter": (
        task_of(WORDS, target_delimiter=" "),
        ["target_delimiter ' '", "'north' becomes ' north'", 'target_delimiter: ""'],
    ),
    "line as delimiter": (
        task_of(WORDS, target_delimiter="\n", generation_kwargs={"until": ["."]}),
        ["target_delimiter '\\n'"],
    ),
    "until": (
        task_of(["due north", "due west"], generation_kwargs={"until": [" ", "."]}),
        ["stop string ' '", "'due north' becomes 'due'", "generation_kwargs.until"],
    ),
    "token": (
        task_of(["no</s>rth", "so<pad>uth"]),
        ["special token `</s>`", "'no</s>rth' becomes 'no'"],
    ),
    "token at the end": (task_of(["north</s>"]), ["`</s>`", "'north</s>' becomes 'north'"]),
    "limit": (
        task_of(["north by northwest"]),
        ["18 tokens, limit 8", "becomes 'north by'", "train.max_answer_tokens"],
    ),
    "limit of the YAML": (
        task_of(WORDS, generation_kwargs={"until": [], "max_gen_toks": 2}),
        ["5 tokens, limit 2", "max_gen_toks"],
    ),
    "filter": (
        task_of(
            WORDS,
            filter_list=[
                {
                    "name": "digits",
                    "filter": [
                        {"function": "regex", "regex_pattern": "([0-9]+)"},
                        {"function": "take_first"},
                    ],
                }
            ],
        ),
        ["filter 'digits'", "'north' becomes '[invalid]'", "filter_list"],
    ),
    "metric": (
        task_of(WORDS, process_results=lambda doc, results: {"acc": 0.0}, metric_list=[]),
        ["metric acc gives 0 to every gold answer"],
    ),
    "broken metric": (
        task_of(WORDS, process_results=lambda doc, results: doc["missing"], metric_list=[]),
        ["its metric fails on gold answers (KeyError"],
    ),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_cannot_be_scored_is_refused_by_cause(kind):
    task, said = LOST[kind]
    (fault,), _ = checked(task)
    assert fault.startswith("compass: ") and "`allow_unreachable: true`" in fault
    for text in said:
        assert text in fault, fault


@pytest.mark.parametrize(
    "where", [{"stage": {"allow_unreachable": True}}, {"allow_unreachable": True}]
)
def test_it_can_be_accepted_and_is_said(where):
    faults, notes = checked(task_of(WORDS, target_delimiter=" "), **where)
    assert faults == []
    assert any("target_delimiter" in note and "accepted" in note for note in notes)


def test_stages_that_are_not_scored_may_lose_what_they_like():
    task = task_of(WORDS, target_delimiter=" ")
    assert checked(task, stage={"score": False}) == ([], [])
    assert checked(task, eval={"trace": {"after": "never"}}) == ([], [])


def test_a_few_rows_are_counted_and_do_not_stop_a_run():
    faults, notes = checked(task_of([*(WORDS * 5), "x</s>y"], train=WORDS))
    assert faults == []
    (note,) = notes
    assert note.startswith("compass: 3 of 63 gold answers of test documents lose score")
    assert "95.2% of exact_match" in note and "test document 20" in note and "`</s>`" in note


def test_a_cut_text_is_refused_where_less_than_half_is_left():
    """A share of the words: 3 of 4 are left, then 1 of 4."""
    found = lambda doc, results: {"m": len(results[0].split()) / len(doc["a"].split())}  # noqa: E731
    task = task_of(["on and on so"], process_results=found, metric_list=[])
    faults, (end, note, _) = checked(task, train={"max_answer_tokens": 9})
    assert faults == [] and "lose their end: max_answer_tokens 9" in end
    assert "3 of 3 gold answers of test documents lose score, so that 75.0% of m" in note
    (fault,), _ = checked(task, train={"max_answer_tokens": 2})
    assert "so that 25.0% of m" in fault and "12 tokens, limit 2" in fault


def test_training_answers_are_looked_at_too():
    (fault,), notes = checked(task_of(WORDS, train=["up\neast"]))
    assert "gold answers of training documents" in fault and "stop string '\\n'" in fault
    assert notes == []
    faults, notes = checked(task_of(WORDS, train=["north</s>", "", " ", "ninety north"]))
    text = "\n".join([*faults, *notes])
    assert "3 of 12 training answers lose their end: max_answer_tokens 8" in text
    assert "3 of 12 training answers are empty" in text
    assert "3 of 12 training answers are blank" in text
    assert "3 of 12 training answers hold special tokens (`</s>`)" in text


def test_prompts_with_special_tokens_and_without_their_bos_are_counted():
    task = task_of(WORDS, doc_to_text="<s>{{q}} </s> " + "more " * 9)
    _, notes = checked(task, byte_tokenizer(bos=True))
    assert notes == [
        "compass: 12 of 12 training prompts hold special tokens (`</s>`), which the model reads "
        "as such",
        "compass: 12 of 12 training prompts are longer than max_prompt_tokens 40 and lose their "
        "BOS with their beginning, as in lm-eval",
    ]
    task = task_of(WORDS, doc_to_text="<s>{{q}}")
    _, notes = checked(task, byte_tokenizer(bos=True), train={"truncation": "trace"})
    assert notes == [
        "compass: 12 of 12 training prompts begin with BOS twice: their own, and that of "
        "truncation: trace (as TRACE's collator has it)"
    ]


def test_the_smallest_limit_of_what_is_scored_later_counts():
    faults, _ = checked(task_of(WORDS), train={"max_answer_tokens": 5})
    assert faults == []
    (fault,), _ = checked(task_of(WORDS), stage={"max_answer_tokens": 4})
    assert "5 tokens, limit 4" in fault


def test_metrics_below_one_count_only_what_is_lost():
    """BLEU of a short text; an error rate is no score at all, which another check says."""
    half = {"process_results": lambda doc, results: {"m": 0.5 * (results[0] == doc["a"])}}
    assert checked(task_of(WORDS, metric_list=[], **half)) == ([], [])
    limit = {"train": {"max_answer_tokens": 20}}
    for metric in ("bleu", "chrf"):
        listed = [{"metric": metric}]
        assert checked(task_of(["a b c d e"], metric_list=listed), **limit) == ([], [])
        (fault,), _ = checked(task_of(["a b\nc d e"], metric_list=listed), **limit)
        assert "stop string '\\n'" in fault
    ter = task_of(["a b\nc d e"], metric_list=[{"metric": "ter"}])
    assert checked(ter, **limit) == ([], [])
    (fault,), _ = checked(task_of(WORDS, metric_list=[{"metric": "bleu"}]))
    assert "metric bleu gives 0 to every gold answer" in fault, "no word has four in a row"


def test_an_engine_of_its_own_process_cannot_leave_out_an_appended_eos():
    (fault,), _ = checked(task_of(WORDS), appending("<s> $A </s>"), engine="vllm")
    assert "puts `</s>` behind every text" in fault and "--engine vllm" in fault
    assert checked(task_of(WORDS), appending("<s> $A </s>")) == ([], [])
    assert checked(task_of(WORDS), engine="vllm") == ([], [])


def test_a_generation_ends_where_the_engine_ends_it():
    tokenizer = byte_tokenizer()
    ids = tokenizer("ab.cd\nef", add_special_tokens=False)["input_ids"]
    for strings, limit, expected in [
        ((), 99, "ab.cd\nef"),
        (("d\n", "."), 99, "ab"),
        (("\n",), 99, "ab.cd"),
        (("\n",), 4, "ab.c"),
        (("</s>",), 99, "ab.cd\nef"),
    ]:
        rule = StopRule(strings, (9,) * len(strings), frozenset([EOS]), limit)
        assert generated_text(tokenizer, ids, rule) == expected
        whole = next(
            (ids[:n] for n in range(1, len(ids) + 1) if rule.ended(tokenizer, ids[:n])), ids
        )
        assert generated_text(tokenizer, whole, rule) == expected
    rule = StopRule(("<pad>",), (3,), frozenset([EOS, ids[3]]), 99)
    assert generated_text(tokenizer, ids, rule) == "ab.c"
    assert generated_text(tokenizer, [ids[0], 0, *ids[1:]], rule) == "a"


def test_eos_of_the_model_is_read_without_its_weights(tmp_path: Path):
    assert model_eos(tmp_path).eos_token_id is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    assert model_eos(tmp_path).eos_token_id == 7
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert model_eos(tmp_path).eos_token_id == [7, 9]


def test_the_shipped_tasks_give_real_answers_their_score(shared_dir: Path):
    """TRACE's rows: a handful of long answers lose a little; nothing is refused."""
    names = [
        "trace_fomc",
        "trace_meetingbank",
        "trace_py150",
        "trace_numglue_ds",
        "trace_20minuten",
    ]
    tokenizer, eos = byte_tokenizer(), SimpleNamespace(eos_token_id=EOS)
    shares = {}
    for name, task in load_tasks(names, shared_dir / "data").items():
        some = [gold_of(task, task.eval_docs[i], i) for i in range(60)]
        reached = reach(task, [gold for gold in some if gold], generator(task, tokenizer, eos, 512))
        assert set(reached.causes) <= {"limit"}
        shares[name] = reached.share
    assert min(shares.values()) > 0.9
    assert shares["trace_fomc"] == shares["trace_py150"] == shares["trace_numglue_ds"] == 1
