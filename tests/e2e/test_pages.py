"""The pages of docs/: what they name exists, what they generate is current, what they show runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cl_bench.checks import first_steps
from cl_bench.methods.registry import METHODS, method_class
from cl_bench.report.config_reference import config_reference
from tests.e2e.conftest import Bench

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def test_every_key_of_a_config_is_in_its_page() -> None:
    page = config_reference({name: method_class(name).options_type for name in METHODS})
    assert page == (DOCS / "config.md").read_text(), "run `make docs`"
    assert "|  |" not in page, "a key without a meaning"


def test_the_glossary_names_files_that_exist() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `([^`]+)` \|$", glossary(), re.MULTILINE)
    assert len(rows) > 30
    missing = [file for _, file in rows if not (REPOSITORY / "cl_bench" / file).is_file()]
    assert not missing


def glossary() -> str:
    return (DOCS / "glossary.md").read_text()


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [*DOCS.glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_two_files_become_a_report_and_a_next_month(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/own-files.md from its first command to its last."""
    monkeypatch.setenv("CL_BENCH_DATA_ROOT", "data")  # PIQA alone
    monkeypatch.setattr(first_steps, "hub_silence", lambda: "ConnectionError")
    monkeypatch.setattr(first_steps, "product_rates", lambda device: (100.0, 1.0))
    text = (DOCS / "own-files.md").read_text().replace("smollm2-135m", "./model")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    examples = [block for kind, block in blocks if kind == "json"]
    for name, row in zip(("jan.jsonl", "feb.jsonl"), examples, strict=True):
        lines = [row.replace("parcel 1", f"parcel {i}") for i in range(24)]
        (bench.root / name).write_text("".join(lines))
    said = ""
    for kind, block in blocks:
        if named := re.match(r"# ([\w/.-]+\.yaml)\n", block):
            (bench.root / named.group(1)).write_text(block)
        for line in block.splitlines() if not kind else ():
            if line.startswith("cl-bench gate "):
                code, out, err = bench.run(*shlex.split(line)[1:])
                assert code in (0, 1, 3) and out.startswith("# Gate: "), err
            elif line.startswith("cl-bench "):
                said += bench.must(*shlex.split(line)[1:])
    expected = next(block for kind, block in blocks if not kind and block.startswith("jan: "))
    assert all(line.partition(".jsonl: ")[2] in said for line in expected.splitlines())
    assert (bench.root / "results/next/report.md").is_file()


@pytest.mark.parametrize(
    ("page", "rows"),
    [
        ("getting-started.md", {}),
        ("writing-a-task.md", {"tickets/train.jsonl": 24, "tickets/test.jsonl": 8}),
    ],
)
def test_the_commands_of_a_page_work(page: str, rows: dict[str, int], bench: Bench) -> None:
    """Its YAML blocks become the files that they name; its commands run one after the other."""
    text = (DOCS / page).read_text().replace("smollm2-135m", "./model")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for kind, block in blocks:
        if named := re.match(r"# ([\w/.-]+\.yaml)\n", block):
            file = bench.root / named.group(1)
            file.parent.mkdir(exist_ok=True)
            file.write_text(block)
        elif kind == "json":
            (example,) = block.splitlines()
            teams = ("shipping", "billing", "returns")
            for name, count in rows.items():
                lines = (
                    example.replace("arrived", f"arrived {name} {i}").replace(
                        "shipping", teams[i % 3]
                    )
                    for i in range(count)
                )
                file = bench.root / name
                file.parent.mkdir(exist_ok=True)
                file.write_text("".join(f"{line}\n" for line in lines))
    commands = [
        line
        for kind, block in blocks
        if not kind
        for line in block.splitlines()
        if line.startswith("cl-bench ")
    ]
    assert any(command.startswith("cl-bench run ") for command in commands)
    for command in commands:
        bench.must(*shlex.split(command)[1:])
