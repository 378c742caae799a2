"""Loading tasks: aliases, groups, packaged tasks, and all faults in one message."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from lm_eval import evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from cl_bench.data.loading import load_task_set, load_tasks
from cl_bench.data.sources import json_splits
from cl_bench.data.tasks import packaged_files
from cl_bench.errors import UserError
from cl_bench.metrics.trace import score_corpus
from cl_bench.resources import resource
from tests.helpers.trace_names import TRACE

ROW = {"prompt": "Q", "answer": "A"}
MINE = """
task: {name}
custom_dataset: !function cl_bench.data.sources.json_splits
dataset_kwargs: {{folder: mine}}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: answer
generation_kwargs: {{until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Two rows for each of the eight tasks and for a folder `mine`."""
    for folder in [*(f"trace/{name}" for name in TRACE), "mine"]:
        (tmp_path / "data" / folder).mkdir(parents=True)
        for split in ("train", "eval", "test"):
            (tmp_path / "data" / folder / f"{split}.json").write_text(json.dumps([ROW, ROW]))
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the user's with two tasks and a group of them."""
    mine = tmp_path / "tasks"
    mine.mkdir()
    for name in ("mine_a", "mine_b"):
        (mine / f"{name}.yaml").write_text(MINE.format(name=name))
    (mine / "group.yaml").write_text("group: mine\ntask:\n  - mine_a\n  - {task: mine_b}\n")
    return mine


def faults(*arguments, **options) -> list[str]:
    with pytest.raises(UserError) as error:
        load_tasks(*arguments, **options)
    return error.value.faults


def test_lm_eval_sees_every_yaml_of_ours():
    """It leaves out one that does not resolve, without a word."""
    manager = TaskManager(include_path=str(resource("tasks")), include_defaults=False)
    for suite in ("trace", "general"):
        files = sorted((resource("tasks") / suite).rglob("*.yaml"))
        assert files
        for path in files:
            text = load_yaml(path, resolve_func=True)
            assert (text.get("group") or text["task"]) in manager.all_tasks, path


def test_all_eight_load_by_either_name_and_can_be_trained_on(data_root):
    tasks = load_tasks([], data_root, require_training=TRACE)
    assert set(tasks) == set(TRACE.values())
    for theirs, ours in TRACE.items():
        assert list(load_tasks([theirs], data_root)) == [ours]
        config = tasks[ours].config
        assert config.generation_kwargs == {"until": [], "do_sample": False, "max_gen_toks": 512}
        assert config.dataset_kwargs["folder"] == f"trace/{theirs}"
        context = tasks[ours].fewshot_context(doc=ROW, num_fewshot=0)
        assert (context, tasks[ours].doc_to_target(ROW)) == ("Q", "A")
        assert config.target_delimiter == ""


def test_a_relative_data_root_and_the_environment(data_root, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert len(load_tasks(["FOMC"], "../data")["trace_fomc"].eval_docs) == 2
    monkeypatch.setenv("CL_BENCH_DATA_ROOT", "../data")
    assert len(load_tasks(["FOMC"])["trace_fomc"].eval_docs) == 2


def test_groups_give_their_tasks(data_root, folder):
    suite = load_task_set(["mine", "trace_fomc"], data_root, [folder])
    assert suite.members == {"mine": ["mine_a", "mine_b"], "trace_fomc": ["trace_fomc"]}
    assert set(suite.tasks) == {"mine_a", "mine_b", "trace_fomc"}
    assert list(suite.groups) == ["mine"]


def test_packaged_tasks_and_members_are_found(data_root, folder, monkeypatch):
    """A group may name a task that lm-evaluation-harness packages, with other data."""
    rows = json_splits(folder="mine", data_root=data_root)
    monkeypatch.setattr("datasets.load_dataset", lambda **_: rows)
    (folder / "outer.yaml").write_text(
        "group: outer\n"
        "task:\n"
        "  - mine\n"
        "  - {task: triviaqa, custom_dataset: !function cl_bench.data.sources.json_splits, "
        "dataset_kwargs: {folder: mine}, doc_to_text: prompt, doc_to_target: answer, "
        "training_split: train, validation_split: test, doc_to_decontamination_query: prompt}\n"
    )
    suite = load_task_set(["outer"], data_root, [folder])
    assert suite.members["outer"] == ["mine_a", "mine_b", "triviaqa"]


def test_piqa_and_boolq_ask_what_lm_eval_asks(tmp_path):
    piqa = {"goal": "Dry {{a}} mug?", "sol1": "towel [1]", "sol2": " wind ", "label": 1}
    boolq = {"question": "is it so", "passage": "So it is: {x}", "label": "false", "idx": 7}
    for name, row in {"piqa": piqa, "boolq": boolq}.items():
        (tmp_path / "general" / name).mkdir(parents=True)
        text = json.dumps(row) + "\n" + json.dumps(row | {"label": boolq and row["label"]})
        (tmp_path / "general" / name / "test.jsonl").write_text(text)
    ours = load_tasks(["general_piqa", "general_boolq"], tmp_path)
    for name, row in {"piqa": piqa, "boolq": boolq | {"label": 0}}.items():
        theirs = packaged(name, row)
        mine = ours[f"general_{name}"]
        doc = mine.eval_docs[0]
        assert mine.config.num_fewshot == 0
        assert requests(mine, doc) == requests(theirs, theirs.eval_docs[0])
        assert mine.config.target_delimiter == theirs.config.target_delimiter
        for scores in ([(-1.0, False), (-2.0, False)], [(-9.0, False), (-8.0, True)]):
            assert mine.process_results(doc, scores) == theirs.process_results(row, scores)
        assert mine.aggregation() == theirs.aggregation()


def packaged(name: str, row: dict[str, object]):
    """lm-eval's own task, on one row in the form of its dataset."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    config = load_yaml(packaged_files([name])[name])
    data = Dataset.from_list([row])
    config |= {"custom_dataset": lambda **_: {"train": data, "validation": data}}
    config.pop("tag", None)
    return ConfigurableTask(config=config)


def requests(task, doc) -> list[tuple[str, str]]:
    context = task.fewshot_context(doc=doc, num_fewshot=0)
    made = task.construct_requests(doc=doc, ctx=context, metadata=("", 0, 1))
    return [request.args for request in made]


def test_a_general_file_with_faults_is_not_replaced_by_the_hub(tmp_path):
    folder = tmp_path / "general" / "boolq"
    folder.mkdir(parents=True)
    row = {"question": "q", "passage": "p", "label": True}
    (folder / "test.jsonl").write_text(json.dumps(row))
    (fault,) = faults(["general_boolq"], tmp_path)
    assert fault == (
        f"general_boolq: {folder / 'test.jsonl'}: line 1: field 'label': not one of 'true', 'false'"
    )


def test_without_file_the_pinned_hub_dataset_is_read(tmp_path, monkeypatch):
    from datasets import Dataset

    asked = []

    def from_hub(**options):
        asked.append(options)
        return (
            Dataset.from_list(
                [{"idx": 0, "label": 1, "passage": "p", "question": "q", "goal": "g"}]
            )
            .add_column("sol1", ["a"])
            .add_column("sol2", ["b"])
        )

    monkeypatch.setattr("datasets.load_dataset", from_hub)
    tasks = load_tasks(["general_piqa", "general_boolq"], tmp_path)
    assert [set(options) for options in asked] == [
        {"path", "split", "revision"},
        {"path", "name", "split", "revision"},
    ]
    assert all(len(options["revision"]) == 40 for options in asked)
    assert tasks["general_boolq"].eval_docs.column_names == ["question", "passage", "label"]

    def unreachable(**options):
        raise ConnectionError("no route\nto the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    (fault,) = faults(["general_piqa"], tmp_path)
    assert "test.jsonl: not found, and the Hub's baber/piqa could not be read" in fault
    assert "(ConnectionError: no route)" in fault
    assert "cl-bench data get general" in fault


def test_the_faults_of_all_tasks_are_in_one_message(data_root, folder):
    (data_root / "trace" / "FOMC" / "train.json").write_text("[]")
    (data_root / "trace" / "Py150" / "test.json").unlink()
    (folder / "broken.yaml").write_text("task: mine_broken\ninclude: nowhere.yaml\n")
    (folder / "untrainable.yaml").write_text(
        MINE.format(name="mine_untrainable").replace("training_split: train\n", "")
    )
    (folder / "mistaken.yaml").write_text(
        MINE.format(name="mine_mistaken").replace("doc_to_text: prompt", "doc_to_text: '{{x}}'")
    )
    (folder / "lost.yaml").write_text("group: mine_lost\ntask: [mine_a, mine_gone]\n")
    found = faults(
        ["trace_fomk", "Py150", "mine_broken", "mine_mistaken", "mine_lost"],
        data_root,
        [folder, folder / "none"],
        require_training=["FOMC", "mine_untrainable", "mine"],
    )
    text = "\n".join(found)
    assert f"task_paths: {folder / 'none'} is not a folder" in text
    assert "unknown task 'trace_fomk' (did you mean 'trace_fomc'?)" in text
    assert f"trace_py150: {data_root / 'trace' / 'Py150' / 'test.json'}: not found" in text
    assert f"{folder / 'broken.yaml'}: cannot be read (FileNotFoundError" in text
    assert "mine_mistaken: could not be loaded (UndefinedError: 'x' is undefined)" in text
    assert "unknown task 'mine_gone'" in text
    assert f"{data_root / 'trace' / 'FOMC' / 'train.json'}: has no rows" in text
    assert "mine_untrainable: cannot be trained on: its YAML names no training_split" in text
    assert "mine: cannot be trained on: it is a group of tasks" in text


def test_loading_is_quiet_and_leaves_loggers_as_they_were(data_root, capsys, caplog):
    logger = logging.getLogger("lm_eval")
    before = logger.level
    load_tasks(["FOMC"], data_root)
    assert logger.level == before
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


class Parrot(LM):
    """Answers every request with the same text."""

    def generate_until(self, requests, disable_tqdm=False):
        return ["A b. C" for _ in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        return [(-float(len(request.args[1])), False) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise AssertionError("no task of ours asks for this")


def test_lm_eval_scores_our_tasks_with_traces_metrics(data_root):
    rows = [{"prompt": "a b c", "answer": answer} for answer in ("A b. C", "B", "A x", "", "A b.")]
    for theirs in TRACE:
        (data_root / "trace" / theirs / "test.json").write_text(json.dumps(rows))
    tasks = load_tasks(TRACE, data_root)
    ids = [0, 2, 3, 4]
    samples = dict.fromkeys(tasks, ids)
    found = evaluate(Parrot(), task_dict=dict(tasks), samples=samples, bootstrap_iters=0)
    for name in tasks:
        expected = score_corpus(
            name, ["A b. C"] * 4, [rows[i]["answer"] for i in ids], ["a b c"] * 4
        )
        scores = found["results"][name]
        measured = {key.removesuffix(",none"): value for key, value in scores.items()}
        assert measured["score"] == pytest.approx(expected.score, abs=1e-12)
        assert measured["unscorable"] == expected.n_unscorable / 4
        assert {key: measured[key] for key in expected.metrics} == pytest.approx(expected.metrics)
        assert [sample["doc_id"] for sample in found["samples"][name]] == ids
