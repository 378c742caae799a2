"""Science questions with a fixed set of choices: a letter, a newline, and why."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import item_splits

if TYPE_CHECKING:
    from datasets import Dataset

_ANIMALS = (
    "horse lion rabbit salmon eagle spider whale goat wolf snake tiger mouse frog duck shark "
    "bear camel hen pigeon crab donkey fox deer moth turtle lizard otter ant cow sheep parrot "
    "beetle monkey zebra seal owl"
)
_PLANTS = (
    "oak rose fern cactus tulip maple pine daisy moss bamboo willow lily clover birch palm "
    "ivy orchid cedar sunflower reed elm violet spruce poppy thistle grass lavender fir "
    "bush vine herb beech poplar larch nettle hazel"
)
_OBJECTS = (
    "hammer table bottle window coin chair spoon bridge brick pencil button mirror candle "
    "basket ladder bucket carpet knife wheel lamp clock helmet drum pillow shovel plate "
    "scarf wallet kettle rope bell broom needle shelf truck radio"
)
_KINDS = {
    "animal": (_ANIMALS, ("has a heart", "breathes and eats", "feeds its young")),
    "plant": (_PLANTS, ("has roots", "grows from a seed", "makes food from light")),
    "object": (_OBJECTS, ("has no cells", "was made by people", "comes from a factory")),
}
_TESTED = 11  # of each kind, the last ones: never seen in training


def _questions(first: int | None, last: int | None) -> Iterator[tuple[str, str]]:
    for letter, (things, facts) in zip("ABC", _KINDS.values(), strict=True):
        for thing, fact in product(things.split()[first:last], facts):
            prompt = (
                "Choose an answer and give your reasons.\n\n"
                f"Question:\nWhat is the {thing}, which {fact}?\n\n"
                "A. animal\nB. plant\nC. object\n\nAnswer:"
            )
            yield prompt, f"{letter}\nIt {fact}."


def scienceqa(**_: Any) -> dict[str, Dataset]:
    """Animal, plant or object; what the test asks about is not in the training split."""
    return item_splits("mini_scienceqa", _questions(None, -_TESTED), _questions(-_TESTED, None))
