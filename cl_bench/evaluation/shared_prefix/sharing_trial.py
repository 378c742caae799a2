"""Whether a model's prefixes may be shared: asked of its config, then tried on a few tokens.

The trial tells rounding from a fault by the model's own noise: the same positions are computed in
several ways that every causal model allows (alone, in a batch, padded), whose differences are
rounding. What sharing adds to that must be of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.loglikelihoods import score_continuations
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel
from cl_bench.evaluation.shared_prefix.packing import PackLayout, PassLimits
from cl_bench.models.positions import length_rule

UNBOUNDED = 2**31
TIMES_NOISE = 4.0
"""How much larger than the model's own rounding the difference may be. Sound models: 0.3 to 1.7;
wrong positions, masks and biases: more than 70 where they change the answers at all."""
FLOOR = 1e-4
"""Nats that are always allowed: in fp32 all ways may round alike by chance."""
SETS = (1, 3)
"""Sets of token sequences of the trial, and of a second one where it finds a difference. Of each
position the middle one counts: rounding may send a token to another expert, which is no fault."""
TARGETS = 128
"""Tokens of the vocabulary whose log-probabilities are compared."""
STRIDES = (1, 64)
"""Distances of neighbouring tokens where the longest position is varied."""


class _NoNumbersError(Exception):
    """The trial came to log-probabilities that are no numbers, which differ from everything.

    A model without any may share: no answer of it is a score, whichever way it is computed.
    """

    def __init__(self, some: bool, window: int) -> None:
        said = "some of the model's log-probabilities are no numbers"
        self.found: tuple[str | None, int] = (said, 0) if some else (None, window)


_FOUND: dict[Any, tuple[str | None, int]] = {}


def why_not_shared(model: Any, max_length: int = 2048) -> tuple[str | None, int]:
    """(reason, longest sequence whose prefixes may be shared): (None, the attention window) of most
    models, (why, 0) where none may be shared, (why, n) where only sequences up to n may.

    The trial computes a few tokens both ways, and beside positions up to `max_length`; the model
    must be in evaluation mode. It finds what no config says: biases by distance, positions that are
    not passed on, caches of another form, frequencies that depend on the longest position. It is
    done once in a process for models of one class, config, dtype and device.
    """
    kind = (
        *(type(model), type(model).forward, vars(model).get("forward")),
        *(model.config.to_json_string(), model.config._attn_implementation),
        *(model.dtype, str(model.device), max_length),
    )
    if kind not in _FOUND:
        try:
            _FOUND[kind] = _try(model, max_length)
        except _NoNumbersError as error:  # of these weights, not of the kind
            return error.found
    return _FOUND[kind]


def _try(model: Any, max_length: int) -> tuple[str | None, int]:
    rule = length_rule(model.config)
    try:
        window = _window(model.config)
        if window is None:
            return "layers that are not plain attention", 0
        for sets in SETS:
            trial = SharingTrial(model, sets)
            difference, noise = trial.sharing()
            allowed = max(TIMES_NOISE * noise, trial.floor())
            if difference <= allowed:
                break
        far = max_length if rule is None else min(max_length, rule.beyond)
        moved = trial.beside_far_positions(far)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        return f"{type(error).__name__}: {error}", 0
    if isnan(difference):
        raise _NoNumbersError(trial.numbers, window)
    if not difference <= allowed:
        return _differing(difference, allowed), 0
    # Passes of one shape round alike, but for the groups of tokens that share an expert.
    if not moved <= max(FLOOR, 2 * noise):
        return f"log-probabilities depend on the longest position of a pass ({moved:.2g} nats)", 0
    if rule is not None and rule.beyond < min(window, max_length):
        return str(rule), rule.beyond
    return None, window


def _window(config: Any) -> int | None:
    """The smallest attention window; None where a prefix is more than its keys and values."""
    layers = DynamicCache(config=config).layers
    if {type(layer).__name__ for layer in layers} <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        return min((getattr(layer, "sliding_window", UNBOUNDED) for layer in layers), default=0)
    return None


class SharingTrial:
    """A few tokens, computed plainly and as the engine does.

    Differences are root mean squares over `TARGETS` tokens of the vocabulary, in nats.
    """

    def __init__(self, model: Any, sets: int = 1) -> None:
        self.model = model
        self.packed = PackedModel(model, Counters())
        vocabulary = model.config.get_text_config().vocab_size
        # Token ids that differ, without a random number.
        self.sets = [
            [int(i) for i in (np.arange(40) * 7919 + 13 + 5003 * n) % vocabulary]
            for n in range(sets)
        ]
        spread = np.linspace(0, vocabulary - 1, min(TARGETS, vocabulary)).astype(np.int64)
        self.targets = torch.from_numpy(np.unique(spread))
        self._largest = 0.0
        self.numbers = False
        """Whether any logit of the plain passes is one."""

    def floor(self) -> float:
        """Half a step of the dtype at the largest logit, at least `FLOOR`."""
        return max(FLOOR, self._largest * float(torch.finfo(self.model.dtype).eps) / 2)

    def sharing(self) -> tuple[float, float]:
        """(the largest difference that sharing makes, the largest that plain passes make)."""
        sequences = [tokens for ids in self.sets for tokens in branching(ids)]
        ways = self.plainly(sequences)
        shared = torch.cat([self._shared(sequences), self._decoded(sequences[3::4])])
        # Scores are conditioned on all but the last token, the decoded ones on it too.
        plain = [torch.cat([way[:, -2], way[3::4, -1]]) for way in ways]
        far = torch.stack([apart(shared, way) for way in plain]).amin(dim=0)
        # Each set scores four sequences and decodes one.
        scored, decoded = far[: len(sequences)], far[len(sequences) :]
        difference = max(middle(scored.reshape(-1, 4)), middle(decoded[:, None]))
        return difference, self._noise(ways)

    def fault(self, computed: Callable[[list[list[int]]], Tensor]) -> str | None:
        """What another way to compute log-probabilities does beyond rounding; None: nothing.

        `computed`: [sequences, n, targets], of the last n positions of each.
        """
        sequences = [tokens for ids in self.sets for tokens in branching(ids)]
        ways = self.plainly(sequences)
        if not self.numbers:
            return None  # whichever way, no answer is a text
        found = computed(sequences)
        far = torch.stack([apart(found, way[:, -found.shape[1] :]) for way in ways]).amin(dim=0)
        allowed = max(TIMES_NOISE * self._noise(ways), self.floor())
        difference = middle(far.reshape(len(self.sets), -1))
        return None if difference <= allowed else _differing(difference, allowed)

    def _noise(self, ways: Sequence[Tensor]) -> float:
        """The largest difference that ways make of which each is right."""
        noise = torch.stack([apart(a, b) for a, b in combinations(ways, 2)]).amax(dim=0)
        return middle(noise.reshape(len(self.sets), -1))

    def plainly(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities [sequences, 10, targets] in ways that every causal model allows."""
        ids = torch.tensor(sequences, device=self.packed.device)
        width = ids.shape[1]
        padded = torch.cat([ids, ids[:, :2]], dim=1)
        mask = torch.ones_like(padded)
        mask[:, width:] = 0
        logits = self.model(ids, use_cache=False).logits
        finite = logits.isfinite()
        self.numbers = self.numbers or bool(finite.any())
        self._largest = max(self._largest, float(torch.where(finite, logits, 0).abs().max()))
        together = self.log_p(logits)
        masked = self.log_p(self.model(padded, attention_mask=mask, use_cache=False).logits)
        alone = together.clone()  # of one sequence a set: passes cost
        for i in range(3, len(sequences), 4):
            alone[i] = self.log_p(self.model(ids[i : i + 1], use_cache=False).logits)[0]
        return [together, masked[:, :width], alone]

    def log_p(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(logits.float(), dim=-1).cpu()[..., self.targets]

    def _shared(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities [sequences, targets] after all but the last token of each."""
        pairs = [(tokens[:-1], [int(t)]) for tokens in sequences for t in self.targets]
        scores = score_continuations(self.packed, pairs, PassLimits(batch=60, row=20, trunk=1))
        return torch.tensor([score for score, _ in scores]).reshape(len(sequences), -1)

    def _decoded(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities [sequences, targets] after each, its last two tokens decoded in a slot.

        A slot beside them holds a shorter one.
        """
        n = len(sequences[0]) - 1
        ids = np.array(sequences)
        positions = np.tile(np.arange(n), (len(ids), 1))
        cache = DynamicCache()
        self.packed.run(PackLayout(ids[:, :n], positions, None, ()), np.array([n - 1]), cache)
        slots = SlotCache(cache)
        slots.reserve(1 + len(ids), n + 1)
        slots.fill(0, cache, 0, torch.arange(2))
        for row in range(len(ids)):
            slots.fill(1 + row, cache, row, torch.arange(n - 1))
        # One with a token more than the others: a step of several widths.
        new = [ids[0, :3].tolist(), *ids[:, n - 1 :].tolist()]
        found = self.log_p(self.packed.step(new, [2] + [n - 1] * len(ids), slots))
        return found[len(new[0]) :].view(len(ids), 2, -1)[:, 1]

    def beside_far_positions(self, length: int) -> float:
        """How far a row's log-probabilities move when another row has positions below `length`."""
        moved = [0.0]
        width = 6
        tokens = np.array([self.sets[0][:width], self.sets[0][10 : 10 + width]])
        look = np.tril(np.ones((2, width, width), dtype=np.bool_))
        for stride in STRIDES:
            near = np.arange(width) * stride
            far = np.arange(length - width, length)
            if near[-1] >= far[0]:
                break
            found = [
                self.log_p(
                    self.packed.run(
                        PackLayout(tokens, np.stack([near, other]), look, ()), np.arange(width)
                    )
                )
                for other in (near, far)
            ]
            moved.append(float(apart(*found).max()))
        return max(moved)


def _differing(difference: float, allowed: float) -> str:
    said = f"log-probabilities differ by {difference:.2g} nats"
    return f"{said}, where rounding explains {allowed:.2g}"


def branching(ids: Sequence[int]) -> list[list[int]]:
    """Four sequences of ten tokens: three that share a stem, two of them a branch; one apart."""
    stem, branch = list(ids[:5]), list(ids[5:8])
    return [
        stem + list(ids[10:15]),
        stem + branch + list(ids[15:17]),
        stem + branch + list(ids[17:19]),
        list(ids[20:30]),
    ]


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Root mean square of the difference over the last dimension."""
    # A token that both exclude (-inf) is no difference.
    far = torch.where(one == other, 0.0, one - other)
    return far.square().mean(dim=-1).sqrt()


def middle(values: Tensor) -> float:
    """The largest of all positions, each with its middle value over the sets; [sets, positions]."""
    return float(values.median(dim=0).values.max())


def free_bytes(device: torch.device) -> int:
    """Memory that is free now on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
