"""What `cl-bench methods` says: of options what their models say, of costs what the records say."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest

from cl_bench.costs.added import Cost, Disk, Memory, Pass, Work
from cl_bench.costs.shapes import Shapes
from cl_bench.methods import registry
from cl_bench.methods.base import Method
from cl_bench.methods.registry import METHODS, method_class
from cl_bench.report.config_reference import config_reference
from cl_bench.report.method_listing import method_page, method_table


def row_of(name: str) -> list[str]:
    (line,) = (line for line in method_table() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_method_has_a_row_and_families_stand_together() -> None:
    rows = [line.split("|") for line in method_table() if line.startswith("| ")][2:]
    assert sorted(row[1].strip() for row in rows) == sorted(METHODS)
    families = [row[2] for row in rows]
    changes = sum(a != b for a, b in itertools.pairwise(families))
    assert changes == len(set(families)) - 1


def test_costs_are_those_of_the_records() -> None:
    assert row_of("sft")[2:6] == ["nothing", "100 %", "-", "1.00x"]
    assert row_of("fggm")[5] == "0.77x, 1 pass over the examples"
    # A Fisher in float32 and an anchor in bfloat16: (4 + 2) / 2; the Fisher alone is saved. In the
    # pass the old one, the new one and what is kept of the scores.
    assert row_of("ewc")[4] == "3.00x, 4.01x in its pass, 2.00x saved"
    assert row_of("replay")[5] == "1.00x, 10 % of earlier examples again"
    # 64 examples of every earlier task beside the 128 of a batch, and their gradients all at once.
    assert row_of("gem")[4] == "1 more gradient, 1 gradient for each earlier stage"
    assert row_of("gem")[5] == "1.00x, 0.50x for each earlier stage"


class Greedy(Method):
    """Costs everything there is.

    A second paragraph.
    """

    name = "greedy"

    def adds(self, shapes: Shapes) -> Cost:
        work = Work(
            forwards=1, gradients=1, per_update=64, earlier=0.5, examples=1000, generated=2000
        )
        passes = (Pass(1), Pass(1))
        return Cost(
            Memory(3 * shapes.model_bytes, 2 * shapes.model_bytes, 2, 3, per_token=1),
            work + Work(per_update_each=32, passes=passes),
            Disk(models=1, state_each=shapes.model_bytes),
        )


def test_every_kind_of_cost_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {"greedy": f"{__name__}:Greedy"})
    page = list(method_page("greedy"))
    assert page[0] == "greedy: Costs everything there is."
    assert (
        "memory    3.00x, 2.00x for each earlier stage, 2 more gradients, 3 gradients for each "
        "earlier stage, its layers' activations, 1.00x saved for each earlier stage, 1 more model "
        "saved"
    ) in page
    ratio = 1 + 1 + 64 / 128 + 1 / 3  # its own, another, half a batch more, a forward pass
    assert math.isclose(ratio, 2.8333, abs_tol=1e-3)
    assert (
        "compute   2.83x, 0.25x for each earlier stage, 50 % of earlier examples again, 1,000 more "
        "examples an epoch, 2,000 tokens generated, 2 passes over the examples"
    ) in page


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_what_the_reference_has(name: str) -> None:
    """Both come from the options' models."""
    page, options = list(method_page(name)), method_class(name).options_type
    reference = config_reference({name: options}).partition(f"### `{name}`")[2]
    rows = [row.strip("| ").split(" | ") for row in reference.splitlines() if "| `" in row]
    assert len(rows) == len(options.model_fields)
    for key, value, default, meaning in rows:
        shown = default if default == "required" else f"default {default}"
        line = page.index(f"  {key}: {value}, {shown}".replace("`", ""))
        assert page[line + 1].strip() == meaning.replace("\\|", "|")


def test_no_page_needs_torch() -> None:
    code = (
        "import sys; from cl_bench.report.method_listing import *; list(method_table()); "
        "[list(method_page(name)) for name in METHODS]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
