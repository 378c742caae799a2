"""What a method holds, written as tensors and JSON and put back over one that was made anew."""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cl_bench.data.examples import Example
from cl_bench.experiment.midway.held import Held, Living, NotSavedError, held, put_back


class Part:
    """An object of the method's module."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight


@dataclass
class Thing:
    """Stands for a method."""

    value: Any = None
    other: Any = None
    extra: dict[str, Any] = field(default_factory=dict)


NOBODY = Living({})


def moved(old: Thing, new: Thing, living: Living = NOBODY, then: Living | None = None) -> Thing:
    """`new` after what `old` holds was written to JSON and put back."""
    found = held(old, living)
    tensors = {name: value.clone() for name, value in found.tensors.items()}
    put_back(new, Held(json.loads(json.dumps(found.tree)), tensors), then or living)
    return new


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
        | st.builds(deque, st.lists(inner))
    ),
    max_leaves=12,
)


@given(plain, plain)
def test_plain_values(value: Any, before: Any) -> None:
    """Whatever the hooks put there, the value that was held is there afterwards."""
    assert repr(moved(Thing(value), Thing(before)).value) == repr(Thing(value).value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors(dtype: torch.dtype) -> None:
    value = torch.arange(12).reshape(3, 4).to(dtype)
    for kept in (value, value.t(), value[1:, ::2], value[:0], value[:, 0].expand(5, 3)):
        found = moved(Thing(kept), Thing()).value
        assert torch.equal(found, kept) and found.stride() == kept.stride()


def test_an_expanded_tensor_takes_no_more_room() -> None:
    found = held(Thing(torch.ones(1).expand(1000, 1000)), NOBODY)
    assert sum(value.numel() for value in found.tensors.values()) == 4


def test_views_of_one_tensor_stay_views() -> None:
    whole = torch.arange(6.0)
    new = moved(Thing(whole, {"end": whole[3:]}), Thing())
    new.other["end"][0] = 9
    assert new.value[3] == 9


def test_one_object_in_two_places_stays_one() -> None:
    part = Part(torch.ones(2))
    new = moved(Thing([part], {"same": part}), Thing())
    assert new.value[0] is new.other["same"]
    loop: list[Any] = []
    loop.append(loop)
    assert (found := moved(Thing(loop), Thing()).value)[0] is found


def test_in_place_where_the_hooks_made_the_same() -> None:
    """A hook of a layer may hold the same tensor, list or object."""
    tensor, numbers, part = torch.zeros(3), [0], Part(torch.zeros(1))
    new = Thing(tensor, {"numbers": numbers, "part": part})
    moved(Thing(torch.ones(3), {"numbers": [1, 2], "part": Part(torch.ones(1))}), new)
    assert new.value is tensor and tensor.sum() == 3
    assert new.other["numbers"] is numbers == [1, 2]
    assert new.other["part"] is part and part.weight == 1


def test_what_is_gone_is_gone() -> None:
    new = Thing()
    new.late = 1  # type: ignore[attr-defined]
    moved(Thing(extra={"a": 1}), new)
    assert vars(new) == {"value": None, "other": None, "extra": {"a": 1}}


def test_weights_and_state_are_referred_to() -> None:
    """Of a model, and of the engine, which are saved elsewhere."""
    old, new = torch.arange(8.0), torch.arange(8.0) * 2
    living, then = Living({"masters": old}), Living({"masters": new})
    found = moved(Thing(old[2:4]), Thing(), living, then)
    assert found.value.data_ptr() == new[2:].data_ptr()
    assert held(Thing(old[2:4]), living).tensors == {}


def test_generators_draw_on() -> None:
    drawn = Thing(torch.Generator().manual_seed(1), [random.Random(1), np.random.default_rng(1)])

    def draw(thing: Thing) -> list[float]:
        own, other = thing.other
        return [float(torch.rand(1, generator=thing.value)), own.random(), float(other.random())]

    draw(drawn)
    fresh = Thing(torch.Generator(), [random.Random(), np.random.default_rng()])
    new = moved(drawn, fresh)
    assert draw(new) == draw(drawn)


def test_examples_and_arrays() -> None:
    example = Example("p", " a", 3, "task", "generate")
    new = moved(Thing({example: np.arange(3)}, np.float64(0.1)), Thing())
    assert list(new.value) == [example] and list(new.value[example]) == [0, 1, 2]
    assert type(new.other) is np.float64 and new.other == 0.1


def test_sets() -> None:
    new = moved(Thing({1, 2}, frozenset("ab")), Thing({3}))
    assert new.value == {1, 2} and new.other == frozenset("ab")


def test_functions_and_frozen_models_are_those_of_the_hooks() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    again = nn.Linear(2, 2)
    new = moved(Thing(frozen, len), Thing(again, max))
    assert new.value is again and new.other is max


class Elsewhere:
    """Not a class of the method."""


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (iter([1]), "Thing.value is an iterator"),
        ((n for n in [1]), "Thing.value is an iterator"),
        ({"a": [open]}, None),
        (nn.Linear(2, 2), "is a module that is trained (weight)"),
        (torch.ones(2, requires_grad=True) * 2, "with a gradient's graph"),
        (torch.ones(2).to_sparse(), "without strides"),
        ([b"bytes"], "Thing.value[0] is a builtins.bytes"),
        (complex(1), "complex"),
    ],
    ids=["iterator", "generator", "function", "module", "graph", "sparse", "bytes", "complex"],
)
def test_refused(value: Any, word: str | None) -> None:
    if word is None:
        held(Thing(value), NOBODY)
        return
    with pytest.raises(NotSavedError) as error:
        held(Thing(value), NOBODY)
    assert word in str(error.value)


def test_nothing_is_made_by_a_name_in_a_file() -> None:
    """Objects of classes that are not cl-bench's must be there again."""
    found = held(Thing(Part(torch.ones(1))), NOBODY)
    tree = json.loads(json.dumps(found.tree).replace("test_held:Part", "x:Popen"))
    assert tree != found.tree
    for module in ("subprocess", "collections", "not.loaded"):
        named = json.loads(json.dumps(tree).replace(f"{Part.__module__[:-9]}x:", f"{module}:"))
        with pytest.raises(NotSavedError, match=r"Thing.value is not there again"):
            put_back(Thing(), Held(named, found.tensors), NOBODY)
    with pytest.raises(NotSavedError, match="not there again"):
        put_back(Thing(), held(Thing([len]), NOBODY), NOBODY)
