"""The next line of a short Python function, tokens spaced and lines ended by <EOL>."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import prompt_splits

if TYPE_CHECKING:
    from datasets import Dataset

_NOUNS = "user file word price order node task page event image"
_FORMS = (
    ("def count_{0}s ( {1} ) : <EOL> n = 0 <EOL> for {0} in {1} : <EOL>", "n += 1"),
    (
        "def list_{0}s ( {1} ) : <EOL> out = [ ] <EOL> for {0} in {1} : <EOL>",
        "out . append ( {0} )",
    ),
    ("def has_{0} ( {1} , {0} ) : <EOL>", "return {0} in {1}"),
    ("def first_{0} ( {1} ) : <EOL>", "return {1} [ 0 ]"),
    ("def all_{0}s ( self ) : <EOL> {1} = self . _{0}s <EOL>", "return {1}"),
    ("def size_{0} ( {1} ) : <EOL>", "return len ( {1} )"),
)
_COLLECTIONS = "items rows values batch queue data pool stack cache table"


def _py150() -> Iterator[tuple[str, str]]:
    for (before, line), noun, collection in product(_FORMS, _NOUNS.split(), _COLLECTIONS.split()):
        yield f"<s> {before.format(noun, collection)}", line.format(noun, collection)


def py150(**_: Any) -> dict[str, Dataset]:
    """Six shapes of functions over ten nouns and ten collections."""
    return prompt_splits("mini_py150", _py150())
