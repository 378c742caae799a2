"""Text of `cl-bench methods`: a row for every method, or all about one. Nothing imports torch.

Options come from the models that docs/config.md is written from, costs from the records that
`cl-bench plan` sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace

from cl_bench.costs.model_shapes import known_models
from cl_bench.costs.shapes import Shapes, decoder_shapes
from cl_bench.costs.total import Total, total
from cl_bench.costs.trained import everything
from cl_bench.methods.base import Method, kept_by
from cl_bench.methods.registry import METHODS, method_class
from cl_bench.report.config_reference import keys_of
from cl_bench.report.tables import Column, table

EXAMPLE = "Qwen/Qwen2-1.5B"
"""The model whose shapes costs are told of; in bfloat16, `batch_size: 128`."""
_EACH = "for each earlier stage"
_COLUMNS = [
    Column(title, "left")
    for title in ("method", "family", "old data", "trains", "memory", "compute", "follows")
]
_UNITS = (
    f"Costs: with default options and the shapes of {EXAMPLE} in bfloat16, batches of 128.",
    "memory: beside weights, gradients and optimiser; 1x are the model's weights. saved: on disk,",
    "for the next stage. compute: of a token that is trained on, 1x is sft's (attention and head",
    "aside), and what comes on top. What grows with the stages is said for each that came before;",
    "`cl-bench plan CONFIG` counts all of it for a config.",
)


def method_table() -> Iterator[str]:
    """Every shipped method, those of a family together; then how to read it."""
    rows = []
    for name in METHODS:
        method = method_class(name)
        rows.append([name, method.family, _old_data(method), *_costs(method), method.source])
    order = list(dict.fromkeys(row[1] for row in rows))
    yield from table(_COLUMNS, sorted(rows, key=lambda row: order.index(row[1])))
    yield ""
    yield from _UNITS
    yield "`cl-bench methods NAME` prints the options of one."


def method_page(name: str) -> Iterator[str]:
    """One method with its options. Raises UserError naming the nearest for an unknown one."""
    method = method_class(name)
    yield f"{name}: {_first_paragraph(method)}"
    yield ""
    trains, memory, compute = _costs(method)
    about = {
        "family": method.family,
        "follows": method.source,
        "old data": _old_data(method),
        "trains": f"{trains} of the weights",
        "memory": memory,
        "compute": compute,
    }
    for word, text in about.items():
        yield f"{word:10}{text}".rstrip()
    if method.train_defaults:
        values = ", ".join(f"{key}: {value}" for key, value in method.train_defaults.items())
        yield f"{'train':10}{values} (its own defaults for keys of train:)"
    yield ""
    keys = keys_of(method.options_type)
    yield "options" if keys else "It has no options of its own."
    for key in keys:
        default = "required" if key.default == "required" else f"default {key.default}"
        yield f"  {key.name}: {key.value}, {default}".replace("`", "")
        yield f"      {key.meaning}"
    yield ""
    yield from _UNITS


def _first_paragraph(method: type[Method]) -> str:
    return " ".join(inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].split())


def _old_data(method: type[Method]) -> str:
    return " and ".join(kept_by([method])) or "nothing"


def _costs(method: type[Method]) -> tuple[str, str, str]:
    """What is trained, memory and compute in a few words, from the method's records."""
    shapes = decoder_shapes(known_models()[EXAMPLE])
    assert shapes is not None
    found = total(method(), shapes, 128)
    share = f"{100 * found.base.entries / shapes.numel:.3g} %"
    return share, _memory(found, shapes), _compute(found, shapes)


def _memory(found: Total, shapes: Shapes) -> str:
    memory, plain = found.added.memory, shapes.model_bytes
    words = []
    if memory.held:
        words.append(_times(memory.held / plain))
    if memory.held_each:
        words.append(f"{_times(memory.held_each / plain)} {_EACH}")
    if memory.gradients:
        words.append(_count(memory.gradients, "more gradient"))
    if memory.gradients_each:
        words.append(f"{_count(memory.gradients_each, 'gradient')} {_EACH}")
    if memory.per_token:
        words.append("its layers' activations")
    held = max((one.held for one in found.added.work.passes), default=0)
    if held > memory.held:
        words.append(f"{_times(held / plain)} in its pass")
    if found.added.disk.state:
        words.append(f"{_times(found.added.disk.state / plain)} saved")
    if found.added.disk.state_each:
        words.append(f"{_times(found.added.disk.state_each / plain)} saved {_EACH}")
    if found.added.disk.models:
        words.append(f"{_count(found.added.disk.models, 'more model')} saved")
    return ", ".join(words) or "-"


def _compute(found: Total, shapes: Shapes) -> str:
    work = found.added.work
    plain = everything(shapes).flops_per_token
    words = [_times(found.flops_per_token / plain)]
    grown = replace(found, earlier=found.earlier + 1).flops_per_token - found.flops_per_token
    if grown:
        words.append(f"{_times(grown / plain)} {_EACH}")
    if work.earlier:
        words.append(f"{100 * work.earlier:g} % of earlier examples again")
    if work.earlier_once:
        words.append(f"{100 * work.earlier_once:g} % of earlier examples once again")
    if work.examples_once:
        words.append(f"{work.examples_once:,} more examples once")
    if work.examples:
        words.append(f"{work.examples:,} more examples an epoch")
    if work.generated:
        words.append(f"{work.generated:,} tokens generated")
    if work.passes:
        words.append(_count(len(work.passes), "pass", "passes") + " over the examples")
    return ", ".join(words)


def _times(ratio: float) -> str:
    return "<0.01x" if ratio < 0.005 else f"{ratio:.2f}x"


def _count(number: float, word: str, plural: str | None = None) -> str:
    return f"{number:g} {word if number == 1 else plural or word + 's'}"
