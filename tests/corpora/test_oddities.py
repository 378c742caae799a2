"""Odd rows are counted and said; none of them is refused."""

from __future__ import annotations

from pathlib import Path

from cl_bench.corpora.audit import audit_task, read_tasks
from cl_bench.corpora.oddities import Oddities, oddities
from cl_bench.corpora.tables import findings
from cl_bench.corpora.token_lengths import TokenBudget
from tests.e2e.conftest import write_task
from tests.helpers.tiny import byte_tokenizer

ROWS = [("", "A"), ("<s>Q", ""), ("Q<pad>", " "), ("Q", "x</s>"), ("Q", "</s></s>"), ("Q", "long")]


def test_odd_rows_are_counted(tmp_path: Path) -> None:
    write_task(tmp_path, "FOMC", ROWS)
    (splits,) = read_tasks(tmp_path, ["FOMC"]).values()
    assert oddities(splits["train"], None) == Oddities(1, 1, 1)
    budget = TokenBudget(byte_tokenizer(), 64, 3, "left")
    found = oddities(splits["train"], budget)
    assert found == Oddities(1, 1, 1, 1, 2, 2, ("</s>", "<pad>"))
    told = findings(audit_task("FOMC", splits, budget))
    for line in (
        "1 of 6 train prompts are empty",
        "1 of 6 train answers are empty: EOS alone is trained",
        "1 of 6 test answers are blank",
        "2 of 6 train answers hold special tokens (`</s>`, `<pad>`): no generation gives them",
        "1 of 6 train prompts hold special tokens (`</s>`, `<pad>`)",
        "2 of 6 train answers are another text after encoding and decoding",
        "16.7% of train answers are cut (1 of 6 lose their end)",
    ):
        assert line in told, told
