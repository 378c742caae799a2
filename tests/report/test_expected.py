"""Numbers of others: what a config may say, and that reports keep them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl_bench.config.file import load_config
from cl_bench.experiment.resolve import resolve_file
from cl_bench.report.as_markdown import markdown
from cl_bench.report.expected import expected_section
from tests.helpers.configs import faults_of, write
from tests.helpers.rendered import must_render

REPOSITORY = Path(__file__).resolve().parents[2]
DEMOS = {"quickstart.yaml", "mini-all.yaml", "trace-smollm2.yaml", "general-smollm2.yaml"}
PAPERS = sorted(f.name for f in REPOSITORY.glob("configs/*.yaml") if f.name not in DEMOS)
ONE = {
    "kind": "published",
    "source": "Some 2020",
    "note": "Of\nanother model.",
    "numbers": {
        "sft": {"op": 49.22, "bwt": -5.3},
        "ori": {"general": 52.0, "benchmarks": {"mmlu": 46.5}},
    },
}


@pytest.mark.parametrize("config", PAPERS)
def test_every_config_of_a_paper_says_what_is_published(config: str) -> None:
    """Of methods that it runs, so that nothing is compared with a row that will never be there."""
    found = resolve_file(str(REPOSITORY / "configs" / config))
    assert found.config.expected
    labels = {"ori", *(row.label for row in (*found.runs, *found.in_context))}
    for source in found.config.expected:
        assert labels.issuperset(source.numbers), f"{config}: {source.source}"


def test_a_section_names_source_and_kind_with_every_number() -> None:
    other = {"kind": "measured here", "source": "b", "note": "c"}
    lines = markdown(list(expected_section([ONE, other])), None, screen=False)
    (rows,) = must_render("\n".join(lines))
    assert "**published**: Some 2020." in lines and "Of another model." in lines
    assert "**measured here**: b." in lines
    heads = ["General", "OP as printed", "BWT", "mmlu"]
    assert rows[0] == ["method", *(f"published {head}" for head in heads)]
    assert rows[1:] == [["sft", "-", "49.22", "-5.3", "-"], ["ori", "52", "-", "-", "46.5"]]
    assert not list(expected_section([]))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ({"source": "a", "note": "b"}, "expected.0.kind: is required"),
        ({"kind": "published", "source": "a"}, "give numbers: or a note:"),
        ({**ONE, "numbers": {"sft": {}}}, "sft: no number"),
        ({**ONE, "numbers": {"sft": {"opp": 1}}}, "numbers.sft.opp: unknown key"),
    ],
)
def test_faults(tmp_path: Path, source: object, fault: str) -> None:
    (line,) = faults_of(write(tmp_path, expected=[source]))
    assert fault in line


def test_it_is_read(tmp_path: Path) -> None:
    (found,) = load_config(write(tmp_path, expected=[ONE])).expected
    assert found.numbers["sft"].op == 49.22 and found.numbers["ori"].benchmarks == {"mmlu": 46.5}
