"""Invented rows of General's six benchmarks, as the files of a data root have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cl_bench.resources import resource

LANGUAGES = (
    *("arabic", "bengali", "english", "finnish", "indonesian"),
    *("korean", "russian", "swahili", "telugu"),
)


def members(file: str, key: str) -> list[str]:
    text = Path(resource("tasks"), "opencompass", f"{file}.yaml").read_text(encoding="utf-8")
    return re.findall(rf"{key}: (\w+)", text)


def rows() -> dict[str, list[dict[str, Any]]]:
    """By file: one subject, problem or language after the other where there are several."""
    subject = [
        {"subject": name, "question": f" {name} {i}? ", "A": "one", "B": "two", "C": f"{i}"}
        | {"D": "four", "answer": "ABCD"[i % 4]}
        for name in members("mmlu", "subject")
        for i in range(5)
    ]
    problems = members("bbh", "problem")
    return {
        "mmlu/dev": subject,
        "mmlu/test": subject,
        "bbh/dev": [{"task": p, "cot_prompt": f"notice\n-----\nDo {p}.\n\nQ: a"} for p in problems],
        "bbh/test": [{"task": p, "input": "1 or 2?", "target": "(A)"} for p in problems],
        "tydiqa/test": [
            {"id": f"{language}-1", "language": language, "title": "T", "context": "Text."}
            | {"question": "Who?", "answers": [{"text": "no one"}]}
            for language in LANGUAGES
        ],
        "boolq/test": [
            {"passage": f"P{i} -- x.", "question": f"is it {i}", "label": "true"} for i in range(9)
        ],
        "piqa/test": [
            {"goal": f"g {i}", "sol1": "x" * (i + 1), "sol2": "no", "label": i % 2}
            for i in range(9)
        ],
        "gsm8k/train": [{"question": "Q", "answer": "#### 1"}],
        "gsm8k/test": [{"question": "How many?", "answer": "#### 1"}],
    }
