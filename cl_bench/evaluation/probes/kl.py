"""How far a model has moved from the base model: KL of next-token distributions.

On General the text is the 0-shot prompt of a few documents of every benchmark. On a stage task it
is what the stage trains, of documents that it does not see: prompt, gold answer and EOS, compared
where the tokens of the answer are predicted. KL(base || model) there is what Shenfeld et al. (RL's
Razor, arXiv 2509.04259) found to predict forgetting. They do not fix the text over which the mean
is taken; we take gold answers, per token, and keep the other direction beside it.

The base model's whole distributions at fixed positions are kept once; every later model is compared
with them exactly, over the full vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import example_of, made_of_fields, own_prompt, seeded_subset
from cl_bench.data.tokens import encode_examples, encode_prompts
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel, evaluating
from cl_bench.models.checkpoints import save_tensors

MAX_TOKENS = 256
"""Of a longer text the end is used: the question, and a bound on what the probe costs."""


@dataclass(frozen=True)
class Text:
    """Token ids, and the positions after which the next token's distribution is compared."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Divergence:
    """KL(base || model) in nats after each of a text's positions; `reverse`: KL(model || base).

    None where one of them is not finite: a model's logits are no numbers, or one model excludes a
    token that the other does not.
    """

    positions: tuple[int, ...]
    kl: tuple[float, ...] | None
    reverse: tuple[float, ...] | None


def sample_texts(
    benchmarks: Mapping[str, Mapping[str, Sequence[int]]], texts: int, seed: int
) -> dict[str, list[int]]:
    """About `texts` of the scored documents, by leaf task: as many from every benchmark.

    `benchmarks` gives the document ids of each benchmark's leaf tasks. The first benchmarks take
    what does not divide; one with fewer documents gives all it has.
    """
    chosen: dict[str, list[int]] = {}
    for place, (name, leaves) in enumerate(benchmarks.items()):
        pool = [(leaf, doc_id) for leaf, ids in leaves.items() for doc_id in ids]
        share = texts // len(benchmarks) + (place < texts % len(benchmarks))
        for index in seeded_subset(len(pool), share, seed, "kl texts", name):
            leaf, doc_id = pool[index]
            chosen.setdefault(leaf, []).append(doc_id)
    return chosen


def read_texts(
    task: Any,
    documents: Iterable[int],
    tokenizer: Any,
    positions: int,
    seed: int,
    most: int = MAX_TOKENS,
) -> dict[int, Text]:
    """The texts of a task's documents, with a seeded sample of `positions` of each (or all).

    A text has the last `most` tokens of its prompt: MAX_TOKENS, or the model's smaller window.

    Documents without a prompt of their own are left out, and all of a task that a Python class
    makes.
    """
    if not made_of_fields(task):
        return {}
    docs = task.eval_docs
    prompts: dict[int, str] = {}
    for doc_id in documents:
        try:
            prompts[doc_id] = own_prompt(task, docs[doc_id])
        except ValueError:
            continue
    encoded = encode_prompts(tokenizer, list(prompts.values()), most, "left")
    return {
        doc_id: Text(
            tuple(prompt.ids),
            tuple(seeded_subset(len(prompt.ids), positions, seed, "kl", task.task_name, doc_id)),
        )
        for doc_id, prompt in zip(prompts, encoded, strict=True)
    }


def read_answers(
    task: Any,
    documents: Iterable[int],
    tokenizer: Any,
    train: TrainConfig,
    positions: int,
    seed: int,
    most: int,
) -> dict[int, Text]:
    """Prompt and gold answer of a stage task's scored documents, with the tokens of training.

    Positions are a seeded sample of `positions` (or all) of those after which a token of the
    answer, its EOS included, comes next. The last token is no part of the text: nothing follows it.

    Documents without a prompt or a gold answer are left out, those that are longer than `most`
    tokens, and all of a task that a Python class makes.
    """
    if not made_of_fields(task):
        return {}
    docs, examples = task.eval_docs, []
    for doc_id in documents:
        try:
            examples.append(example_of(task, docs[doc_id], doc_id))
        except ValueError:
            continue
    encoded = encode_examples(
        examples, tokenizer, train.max_prompt_tokens, train.max_answer_tokens, train.truncation
    )
    found = {}
    for example, tokens in zip(examples, encoded, strict=True):
        # As in training, the first token of a sequence has no prediction.
        first = max(tokens.prompt_length, 1)
        answer = len(tokens) - first
        if not answer or len(tokens) - 1 > most:
            continue
        chosen = seeded_subset(answer, positions, seed, "kl", task.task_name, example.doc_id)
        found[example.doc_id] = Text(
            tuple(tokens.input_ids[:-1]), tuple(first - 1 + i for i in chosen)
        )
    return found


def log_distributions(model: Any, texts: Iterable[Text]) -> Iterator[Tensor]:
    """log p of the next token, float64 [positions, vocabulary] on the CPU, for one text at a time.

    The softmax is in float64, of logits in the model's dtype.
    """
    packed = PackedModel(model, Counters())
    with evaluating(model):
        for text in texts:
            logits = packed.run_alone(text.ids, text.positions)
            yield torch.log_softmax(logits.cpu().double(), dim=-1)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other) in nats, float64 [positions], from log-probabilities [positions, V].

    Each may be float32: both are normalised again, so that the rounding enters squared. Tokens that
    `one` excludes (log p = -inf) add nothing.
    """
    p, q = (torch.log_softmax(each.double(), dim=-1) for each in (one, other))
    weight = p.exp()
    parts = torch.where(weight == 0, 0.0, weight * (p - q))
    # Equal distributions can give -1e-17.
    return parts.sum(dim=-1).clamp_min(0.0)


def keep_reference(
    texts: Mapping[int, Text], log_ps: Iterable[Tensor], file: Path
) -> dict[int, Divergence]:
    """Write texts, positions and the base model's distributions there (safetensors, atomically).

    `log_ps`: those of each text, as `log_distributions` gives them. Returns the base model's
    divergences from itself: 0, unless its logits are no numbers.

    By document id: `<id>.ids` and `<id>.positions` (int64), `<id>.log_p` (float32 [positions, V]).
    """
    tensors: dict[str, Tensor] = {}
    found: dict[int, Divergence] = {}
    for (doc_id, text), log_p in zip(texts.items(), log_ps, strict=True):
        tensors[f"{doc_id}.ids"] = torch.tensor(text.ids)
        tensors[f"{doc_id}.positions"] = torch.tensor(text.positions)
        tensors[f"{doc_id}.log_p"] = log_p.float()
        zeros = None if log_p.isnan().any() else (0.0,) * len(text.positions)
        found[doc_id] = Divergence(text.positions, zeros, zeros)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, tensors)
    return found


def measure(model: Any, file: Path, part: tuple[int, int] = (0, 1)) -> dict[int, Divergence]:
    """Divergences of a model from a kept reference, by document id; none if there is no file.

    `part` (i, n): of the documents i, i + n, i + 2 n, ... alone.
    """
    if not file.is_file():
        return {}
    with safe_open(file, framework="pt") as kept:
        names = kept.keys()
        every = sorted(int(name.split(".")[0]) for name in names if name.endswith(".log_p"))
        ids = every[part[0] :: part[1]]
        texts = {
            i: Text(
                tuple(kept.get_tensor(f"{i}.ids").tolist()),
                tuple(kept.get_tensor(f"{i}.positions").tolist()),
            )
            for i in ids
        }
        found = {}
        for i, current in zip(ids, log_distributions(model, texts.values()), strict=True):
            base = kept.get_tensor(f"{i}.log_p")
            found[i] = Divergence(
                texts[i].positions,
                _finite(divergence(base, current)),
                _finite(divergence(current, base)),
            )
    return found


def _finite(values: Tensor) -> tuple[float, ...] | None:
    return tuple(values.tolist()) if bool(values.isfinite().all()) else None
