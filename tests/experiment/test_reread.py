"""Questions that are read again are those that lm-evaluation-harness asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.loading import load_task_set
from cl_bench.evaluation.harness import evaluate_tasks
from cl_bench.experiment.reread import reread
from cl_bench.results.places import Place
from cl_bench.store.experiments import write_experiment
from tests.helpers.configs import MINIMAL
from tests.helpers.general_rows import rows
from tests.helpers.own_task import own_task

SCORED = [1, 2, 4]


class Noting(LM):  # type: ignore[misc]
    """Answers nothing of interest and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: dict[tuple[str, int], list[str]] = {}

    def _asked(self, requests: Any) -> None:
        for each in requests:
            document = SCORED[each.doc_id]  # lm-eval counts those that it is given
            self.prompts.setdefault((each.task_name, document), []).append(each.args[0])

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        self._asked(requests)
        return [(-1.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        self._asked(requests)
        return ["x"] * len(requests)


def scored(root: Path, name: str, members: int = 1) -> tuple[Place, Mapping[Any, list[str]]]:
    """`results/made/base` with records of a task, or of members of a group, and what was asked."""
    home = root / "results" / "made"
    (home / "base" / "predictions").mkdir(parents=True)
    loaded = load_task_set([name], root / "data", [root / "own"])
    tasks = dict(list(loaded.tasks.items())[:members])
    lm = Noting()
    found = evaluate_tasks(lm, tasks, dict.fromkeys(tasks, tuple(SCORED)), 4)
    for leaf, result in found.items():
        lines = "".join(json.dumps(record) + "\n" for record in result.records)
        (home / "base" / "predictions" / f"{leaf}.jsonl").write_text(lines)
    entry = {"members": {leaf: {"score": 0.0} for leaf in tasks}} if members > 1 else {}
    scores = {"trace": {}, "general": {name: entry}} if entry else {"trace": {name: {}}}
    (home / "base" / "scores.json").write_text(json.dumps({"general": {}, **scores}))
    where = {"data_root": str(root / "data"), "task_paths": [str(root / "own")]}
    config = ExperimentConfig.model_validate(MINIMAL | where)
    write_experiment(
        home, {"config": config.model_dump(mode="json", by_alias=True), "last_run": "2026"}
    )
    return Place(home / "base"), lm.prompts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "data").mkdir()
    return tmp_path


def test_members_of_a_group_have_its_data(root: Path) -> None:
    """MMLU's members are called as lm-eval's own, whose data would be the hub's."""
    for file, lines in rows().items():
        path = root / "data" / "general" / f"{file}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    place, asked = scored(root, "general_mmlu", members=2)
    leaf = "mmlu_anatomy"
    words, reasons = reread(place, {leaf: [4], "mmlu_abstract_algebra": [2]})
    assert reasons == {} and set(words) == {(leaf, 4), ("mmlu_abstract_algebra", 2)}
    wording = words[leaf, 4]
    head, _, asks = wording.question.partition("\n\n")
    assert wording.prompt == asked[leaf, 4][0]
    assert wording.prompt.startswith(head) and wording.prompt.endswith(asks)
    assert len(wording.question) < len(wording.prompt), "without its five examples"
    assert "anatomy 4?" in wording.question
    assert wording.choices == ("A", "B", "C", "D")
    assert (wording.gold, wording.gold_choice) == ("A", 0)


@pytest.mark.parametrize("sampler", ["default", "first_n"])
def test_drawn_shots_are_drawn_again(root: Path, sampler: str) -> None:
    """What a document's shots are depends on the documents before it."""
    data = [{"prompt": f"Q{i}:", "answer": f"a{i}"} for i in range(9)]
    shots = {"num_fewshot": 2, "fewshot_split": "train", "fewshot_config": {"sampler": sampler}}
    own_task(root / "own", data, "drawn", **shots)
    place, asked = scored(root, "drawn")
    words, reasons = reread(place, {"drawn": [4]})
    assert reasons == {} and list(words) == [("drawn", 4)]
    found = words["drawn", 4]
    assert found.prompt == asked["drawn", 4][0]
    assert (found.question, found.gold, found.choices) == ("Q4:", "a4", ())
    data[7]["prompt"] = data[8]["prompt"] = data[0]["prompt"] = data[3]["prompt"] = "Other:"
    data[4]["prompt"] = "Q4, but other:"
    own_task(root / "own", data, "drawn", **shots)
    words, reasons = reread(place, {"drawn": [4]})
    assert words == {} and "1 of 1 documents have another prompt" in reasons["drawn"]
    own_task(root / "own", data[:3], "drawn", **shots)
    words, reasons = reread(place, {"drawn": [4]})
    assert words == {} and "document 4 is not in the data any more" in reasons["drawn"]
