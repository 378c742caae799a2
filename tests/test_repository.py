"""Promises about the repository itself."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from statistics import median

import pytest

from cl_bench.methods.user_files import method_from_file
from cl_bench.report.written import Wanted, write_report
from cl_bench.results.groups import Chosen

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPOSITORY / "cl_bench").rglob("*.py"))


def test_files_are_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert max(lengths.values()) <= 400, max(lengths, key=lambda path: lengths[path])
    assert median(length for length in lengths.values() if length) <= 150
    tests = [*(REPOSITORY / "tests").rglob("*.py"), *(REPOSITORY / "benchmarks").rglob("*.py")]
    assert not [path for path in tests if len(path.read_text().splitlines()) > 400]


def test_every_module_says_what_it_is() -> None:
    silent = [
        path
        for path in SOURCES
        if path.read_text().strip() and not path.read_text().startswith('"""')
    ]
    assert not silent


def rooms_of_the_readme() -> list[str]:
    """Files and folders of the package in the README's tree, in its order."""
    readme = (REPOSITORY / "README.md").read_text()
    tree = re.search(r"```\ncl_bench/\n(.*?)^tasks/", readme, re.DOTALL | re.MULTILINE)
    assert tree is not None
    return re.findall(r"^  ([\w-]+)(?:\.py|/) ", tree.group(1), re.MULTILINE)


def test_the_readme_tree_names_what_exists() -> None:
    package = REPOSITORY / "cl_bench"
    there = {path.stem for path in package.iterdir() if not path.name.startswith(("_", "."))}
    assert sorted(rooms_of_the_readme()) == sorted(there)


def test_imports_run_downwards() -> None:
    order = {room: place for place, room in enumerate(rooms_of_the_readme())}
    upwards = [
        f"{path.relative_to(REPOSITORY)} imports cl_bench.{room}"
        for path in SOURCES
        if (own := path.relative_to(REPOSITORY / "cl_bench").parts[0].removesuffix(".py")) in order
        for room in imported_rooms(path)
        if order[room] > order[own]
    ]
    assert not upwards


def test_what_is_imported_is_declared() -> None:
    """Not left to what other packages happen to need."""
    project = (REPOSITORY / "pyproject.toml").read_text()
    listed = project[project.index("\ndependencies = [") : project.index("[project.optional")]
    declared = set(re.findall(r'^  "([a-z0-9-]+)', listed, re.MULTILINE))
    owners = packages_distributions()
    imported = {
        name.split(".")[0]
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    foreign = imported - set(sys.stdlib_module_names) - {"cl_bench"}
    lacking = [
        name
        for name in sorted(foreign)
        if not {owner.lower().replace("_", "-") for owner in owners.get(name, [])} & declared
    ]
    assert not lacking


def imported_rooms(path: Path) -> list[str]:
    """Second parts of the names of `cl_bench` that a file imports, also inside of functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cl_bench"):
            parts = str(node.module).split(".")
            found += parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [a.name.split(".")[1] for a in node.names if a.name.startswith("cl_bench.")]
    return [name for name in found if not name.startswith("_")]


def test_the_commands_of_the_readme_and_of_contributing_are_targets() -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"\bmake ([a-z]+)\b", (REPOSITORY / page).read_text())
        assert named and set(named) <= set(targets), (page, named, targets)


@pytest.mark.parametrize(
    "folder",
    # Those in the table: a run that is still going on may stand beside them.
    [
        REPOSITORY / "results" / name
        for name in re.findall(
            r"^\| `([\w-]+)` \|", (REPOSITORY / "results/README.md").read_text(), re.MULTILINE
        )
    ],
    ids=lambda folder: folder.name,
)
def test_committed_results_give_their_report_without_checkpoints(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint", ".lock"))
    made = write_report([Chosen(copy)], tmp_path, Wanted(figures=True))
    committed = (folder / "report.md").read_text()
    assert made.file.read_text() == committed and committed.startswith(made.text)
    for name in ("report.md", "report-full.md"):
        links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / name).read_text())
        assert all((folder / link).is_file() for link in links)
        assert {folder / link for link in links} == set(folder.rglob("*.svg"))


def test_the_readme_shows_a_table_and_a_figure_of_a_committed_run() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    (figure,) = re.findall(r"!\[[^]]*\]\((results/([\w-]+)/[^)]+)\)", readme)
    assert (REPOSITORY / figure[0]).is_file() and f"cl-bench report {figure[1]} " in readme
    report = (REPOSITORY / "results" / figure[1] / "report.md").read_text()
    table = report[report.index("\n|") : report.index("|\n\n") + 2]
    assert table.count("\n") > 3 and table in readme


def test_the_readmes_method_loads_as_it_stands(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "(Method)" in block]
    file = tmp_path / "mine.py"
    file.write_text(example)
    assert method_from_file(file).name == "freeze_norms"


def test_comments_name_files_that_exist() -> None:
    names = {path.name for path in SOURCES}
    theirs = {"my.py", "mine.py", "my_method.py", "module.py", "utils.py", "program.py"}
    gone = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in SOURCES
        for name in re.findall(r"\b([a-z_0-9]+\.py)\b", path.read_text())
        if name not in names | theirs
    ]
    assert not gone
