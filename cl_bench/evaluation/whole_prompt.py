"""Choices by whole-prompt perplexity: OpenCompass's `ppl` mode (commit d7ff933, October 2023).

Every choice makes one complete prompt, and the prompt with the lowest mean cross-entropy is the
answer, the first among equals. The mean is

    (sum over tokens 2..n of -log p(token | tokens before it)) / n

in nats, for the n tokens that the tokenizer makes of the prompt: the first token (BOS where the
tokenizer adds one) is conditioned on but not predicted, and counts in n all the same. So a
tokenizer without BOS is given none, where lm-evaluation-harness would put an end-of-text token in
front.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

REQUEST = "mean_loglikelihood"
"""The request type that this protocol adds to lm-evaluation-harness's."""


class WholePromptTask(ConfigurableTask):  # type: ignore[misc]
    """A `multiple_choice` task whose requests are whole prompts instead of continuations.

    The prompt of a choice is the few-shot context, `target_delimiter` and the choice. While it has
    more tokens than `metadata: {window: ...}` of the YAML, its last shot is dropped (the sampler
    must be `first_n`: every document has the same shots).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc: Any, ctx: str, **kwargs: Any) -> list[Instance]:
        """One request a choice: (prompt, ends of header and shots in characters, window)."""
        shots = self._shot_sizes
        header = len(ctx) - len(self.doc_to_text(doc)) - sum(shots)
        ends = tuple(accumulate(shots, initial=header))
        window = int(self.config.metadata["window"])
        return [
            Instance(
                request_type=REQUEST,
                doc=doc,
                arguments=(f"{ctx}{self.config.target_delimiter}{choice}", ends, window),
                idx=i,
                metadata=kwargs["metadata"],
            )
            for i, choice in enumerate(self.doc_to_choice(doc))
        ]

    @functools.cached_property
    def _shot_sizes(self) -> list[int]:
        """Characters of each shot."""
        doc, shots = self.eval_docs[0], self.config.num_fewshot or 0
        sizes = [len(self.fewshot_context(doc, count)) for count in range(shots + 1)]
        return [after - before for before, after in pairwise(sizes)]


@contextmanager
def whole_prompts(lm: Any) -> Iterator[None]:
    """Let an LM of lm-evaluation-harness answer `mean_loglikelihood` until the block ends.

    It rests on `tok_encode` and `_loglikelihood_tokens`, which every `TemplateLM` has, so that all
    engines answer it, the shared-prefix one with what prompts share computed once.
    """
    setattr(lm, REQUEST, functools.partial(mean_loglikelihoods, lm))
    try:
        yield
    finally:
        # It refers to the LM, which would keep the model in memory until a garbage collection.
        delattr(lm, REQUEST)


def mean_loglikelihoods(
    lm: Any, requests: Sequence[Instance], disable_tqdm: bool = False
) -> list[tuple[float, int]]:
    """(minus the mean cross-entropy, number of tokens) for each request of `WholePromptTask`.

    A prompt that is too long without any shot loses tokens on its left (OpenCompass's model configs
    set `truncation_side="left"`); the model's window is the limit where it is the smaller one, and
    a prompt that it cuts counts as truncated. A prompt of one token has mean 0.
    """
    prompts = [_fitting_tokens(lm, *request.args) for request in requests]
    several = [ids for ids in prompts if len(ids) > 1]
    scores = iter(
        lm._loglikelihood_tokens(
            [(None, ids[:1], ids[1:]) for ids in several], disable_tqdm=disable_tqdm
        )
    )
    return [
        (float(next(scores)[0]) / len(ids) if len(ids) > 1 else 0.0, len(ids)) for ids in prompts
    ]


def _fitting_tokens(lm: Any, prompt: str, ends: Sequence[int], window: int) -> list[int]:
    limit = min(window, int(lm.max_length))
    ids: list[int] = []
    for end in reversed(ends):
        ids = lm.tok_encode(prompt[:end] + prompt[ends[-1] :])
        if len(ids) <= limit:
            break
    if hasattr(lm, "counters"):  # lm-eval's own classes keep none
        lm.counters.truncated += len(ids) > int(lm.max_length)
    return ids[-limit:]
