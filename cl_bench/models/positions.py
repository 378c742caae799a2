"""How long a sequence a model takes, and where its length changes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


def window(config: Any, tokenizer: Any) -> int:
    """Tokens of a sequence at most: as lm-evaluation-harness resolves it, or MPT's own limit."""
    from lm_eval.models.utils import resolve_max_length

    resolved = int(resolve_max_length(config, tokenizer))
    # Biases by distance that are made for so many positions; lm-eval does not look at it.
    own = getattr(config.get_text_config(), "max_seq_len", None)
    return min(resolved, int(own)) if isinstance(own, int) and own > 0 else resolved


@dataclass(frozen=True)
class LengthRule:
    """Rotary frequencies that depend on the longest sequence of a forward pass."""

    kind: str
    """transformers' `rope_type`: longrope, dynamic."""
    beyond: int
    """Sequences of at most so many tokens all have the same frequencies."""
    by_length: bool
    """Whether beyond that every length has its own; otherwise all have the same."""

    def group(self, length: int) -> int:
        """Sequences with equal numbers may stand in one pass, padding included."""
        if length <= self.beyond:
            return 0
        return length if self.by_length else 1

    def __str__(self) -> str:
        return (
            f"rotary frequencies ({self.kind}) that depend on the longest sequence of a pass "
            f"beyond {self.beyond} tokens"
        )


def length_rule(config: Any) -> LengthRule | None:
    """What a model's config says of such frequencies; None for models that have none."""
    text = config.get_text_config()
    found = list(_ropes(getattr(text, "rope_parameters", None) or {}))
    kinds = [(str(rope["rope_type"]), rope) for rope in found]
    changing = [(kind, rope) for kind, rope in kinds if kind == "longrope" or "dynamic" in kind]
    if not changing:
        return None
    ends = set()
    for kind, rope in changing:
        original = rope.get("original_max_position_embeddings") if kind == "longrope" else None
        ends.add(int(original or text.max_position_embeddings))
    names = "/".join(sorted({kind for kind, _ in changing}))
    return LengthRule(names, min(ends), len(ends) > 1 or any(k != "longrope" for k, _ in changing))


def length_groups(config: Any, multiple_of: int = 1) -> Callable[[int], int] | None:
    """`LengthRule.group` of a length once padded, so that the split into passes changes nothing."""
    rule = length_rule(config)
    if rule is None:
        return None
    return lambda length: rule.group(-(-length // multiple_of) * multiple_of)


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings themselves, or those of each layer type."""
    if "rope_type" in parameters:
        yield parameters
        return
    for value in parameters.values():
        if isinstance(value, Mapping) and "rope_type" in value:
            yield value


def forget_lengths(model: Any) -> None:
    """Let "dynamic" frequencies depend on the pass alone, not on longer ones before it.

    transformers keeps the frequencies of the longest sequence so far (`max_seq_len_cached`), so
    that a score would depend on what was scored before it. A hook puts the original ones back
    whenever a sequence begins.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        named = kinds if isinstance(kinds, dict) else {"": kinds}
        prefixes = [f"{n}_" if n else "" for n, kind in named.items() if "dynamic" in str(kind)]
        if prefixes and not hasattr(module, "_forgets_lengths"):
            module._forgets_lengths = prefixes
            module.register_forward_pre_hook(_begin_anew, with_kwargs=True)


def _begin_anew(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
    if positions is not None and int(positions.min()) > 0:  # a decoding step
        return
    for prefix in module._forgets_lengths:
        original = getattr(module, f"{prefix}original_inv_freq")
        current = getattr(module, f"{prefix}inv_freq")
        module.register_buffer(f"{prefix}inv_freq", original.to(current.device), persistent=False)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
