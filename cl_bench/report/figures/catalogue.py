"""All figures by name: what each shows and needs. Imports nothing, so that help is quick."""

from __future__ import annotations

from typing import NamedTuple

FEWEST_POINTS = 5
"""Of `kl`: fewer are read from the table."""


class About(NamedTuple):
    """A figure in words: for captions and lists, and for who asks for one that has no data."""

    shows: str
    needs: str


FIGURES = {
    "stages": About("OP and General after every stage", "a method with scores after two stages"),
    "front": About(
        "What methods learned against what they lost",
        "a finished method with OP and General, or with forgetting",
    ),
    "matrix": About("Scores of every task after every stage", "a stage with scores"),
    "changes": About(
        "Documents of each benchmark that were forgotten and learned",
        "a finished method and the records of documents (predictions/)",
    ),
    "sweep": About(
        "One number of a method varied: OP, forgetting and General",
        "two finished methods that differ in one number alone, such as alpha: [0.5, 0.7]",
    ),
    "loss": About("Training loss of each stage", "a stage that was trained (train.jsonl)"),
    "curves": About("Scores inside the stages", "scores inside the stages (eval.within_stage)"),
    "kl": About(
        "KL on the new task's text against the loss of General",
        f"{FEWEST_POINTS} stages with both (eval.probes.kl_task_texts)",
    ),
    "masks": About(
        "How alike stages are in what they trained",
        "a run with two stages that kept a selection of what it trained",
    ),
    "places": About(
        "Where in the model each stage trained",
        "a stage that kept a selection of what it trained",
    ),
}
"""In the order in which reports have them."""
DEFAULT = "stages"
"""What `plot` draws unless told."""
