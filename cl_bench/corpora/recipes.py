"""How the general-ability sets are made from the files their authors published.

cl-bench reads one JSON object a line; the originals are csv, nested JSON or two aligned files. A
recipe changes the layout and nothing else, and its result has a known sha256 (`files.csv`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

Sources = Mapping[str, bytes]
"""Content of each source file, by its path in the repository, in the recipe's order."""
Row = dict[str, Any] | bytes

_BBH_TASKS = (
    "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages "
    "formal_fallacies geometric_shapes hyperbaton logical_deduction_five_objects "
    "logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation "
    "multistep_arithmetic_two navigate object_counting penguins_in_a_table "
    "reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks "
    "sports_understanding temporal_sequences tracking_shuffled_objects_five_objects "
    "tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects "
    "web_of_lies word_sorting"
)
_MMLU_SUBJECTS = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology "
    "college_chemistry college_computer_science college_mathematics college_medicine "
    "college_physics computer_security conceptual_physics econometrics electrical_engineering "
    "elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_european_history high_school_geography "
    "high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology "
    "high_school_statistics high_school_us_history high_school_world_history human_aging "
    "human_sexuality international_law jurisprudence logical_fallacies machine_learning "
    "management marketing medical_genetics miscellaneous moral_disputes moral_scenarios "
    "nutrition philosophy prehistory professional_accounting professional_law "
    "professional_medicine professional_psychology public_relations security_studies sociology "
    "us_foreign_policy virology world_religions"
)
_TYDIQA_LANGUAGES = "arabic bengali english finnish indonesian korean russian swahili telugu"
_FEW_SHOT = 100  # rows kept of a training file that only serves as a source of examples


@dataclass(frozen=True)
class Recipe:
    """Which files of the pinned commit a data file is made of, and how."""

    sources: tuple[str, ...]
    rows: Callable[[Sources], Iterator[Row]]

    def build(self, sources: Sources) -> bytes:
        """The .jsonl file. Raises ValueError, LookupError or TypeError on sources of another form.

        A row that is bytes is a line of a source, taken over as it is.
        """
        return b"".join(_line(row) for row in self.rows(sources))


def _line(row: Row) -> bytes:
    if isinstance(row, bytes):
        return row
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")


def _bbh_test(sources: Sources) -> Iterator[Row]:
    for path, content in sources.items():
        for example in json.loads(content)["examples"]:
            yield {"task": PurePosixPath(path).stem, **example}


def _bbh_dev(sources: Sources) -> Iterator[Row]:
    for path, content in sources.items():
        yield {"task": PurePosixPath(path).stem, "cot_prompt": content.decode("utf-8")}


def _mmlu(sources: Sources) -> Iterator[Row]:
    columns = ("question", "A", "B", "C", "D", "answer")
    for path, content in sources.items():
        subject = PurePosixPath(path).stem.rpartition("_")[0]
        for cells in csv.reader(io.StringIO(content.decode("utf-8"), newline="")):
            yield {"subject": subject, **dict(zip(columns, cells, strict=True))}


def _piqa(sources: Sources) -> Iterator[Row]:
    questions, labels = sources.values()
    lines = questions.decode("utf-8").strip().split("\n")
    for line, label in zip(lines, labels.split(), strict=True):
        yield {**json.loads(line), "label": int(label)}


def _tydiqa(sources: Sources) -> Iterator[Row]:
    for path, content in sources.items():
        language = PurePosixPath(path).parent.name
        for article in json.loads(content)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {
                        "id": question["id"],
                        "language": language,
                        "title": article["title"],
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": question["answers"],
                    }


def _tydiqa_few(sources: Sources) -> Iterator[Row]:
    for path, content in sources.items():
        rows = _tydiqa({path: content})
        yield from (row for _, row in zip(range(_FEW_SHOT), rows, strict=False))


def _gsm8k_few(sources: Sources) -> Iterator[Row]:
    (content,) = sources.values()
    yield from content.splitlines(keepends=True)[:_FEW_SHOT]


def _bbh_files(folder: str, suffix: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{task}{suffix}" for task in _BBH_TASKS.split())


def _tydiqa_files(split: str, languages: str) -> tuple[str, ...]:
    return tuple(f"language_data/{name}/{name}_tydiqa_{split}.json" for name in languages.split())


def _mmlu_files(split: str) -> tuple[str, ...]:
    folder = f"eval/data/MMLU/data/{split}"
    return tuple(f"{folder}/{subject}_{split}.csv" for subject in _MMLU_SUBJECTS.split())


RECIPES: Mapping[str, Recipe] = {
    "general/bbh/test.jsonl": Recipe(_bbh_files("bbh", ".json"), _bbh_test),
    "general/bbh/dev.jsonl": Recipe(_bbh_files("cot-prompts", ".txt"), _bbh_dev),
    "general/mmlu/dev.jsonl": Recipe(_mmlu_files("dev"), _mmlu),
    "general/mmlu/val.jsonl": Recipe(_mmlu_files("val"), _mmlu),
    "general/mmlu/test.jsonl": Recipe(_mmlu_files("test"), _mmlu),
    "general/piqa/test.jsonl": Recipe(
        ("piqa/data/valid.jsonl", "piqa/data/valid-labels.lst"), _piqa
    ),
    "general/tydiqa/test.jsonl": Recipe(_tydiqa_files("dev", _TYDIQA_LANGUAGES), _tydiqa),
    "general/tydiqa/dev.jsonl": Recipe(
        _tydiqa_files("train", "english korean swahili"), _tydiqa_few
    ),
    "general/gsm8k/dev.jsonl": Recipe(("grade_school_math/data/train.jsonl",), _gsm8k_few),
}
"""By path under the data root."""
