"""The shared-prefix engine: lm-evaluation-harness's `LM` over a model in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix

from cl_bench.data.special_tokens import added_tokens
from cl_bench.errors import UserError
from cl_bench.evaluation.finite import NotFinite
from cl_bench.evaluation.shared_prefix import among
from cl_bench.evaluation.shared_prefix.ahead.opened import decoding_note
from cl_bench.evaluation.shared_prefix.fused.opened import generating, reading
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel, evaluating
from cl_bench.evaluation.shared_prefix.packing import PassLimits
from cl_bench.evaluation.shared_prefix.sharing_trial import free_bytes, why_not_shared
from cl_bench.evaluation.shared_prefix.slot_memory import Room
from cl_bench.evaluation.shared_prefix.stopping import (
    StopRule,
    is_greedy_config,
    stop_rule,
    text_until_stop,
)
from cl_bench.models.positions import length_rule
from cl_bench.models.positions import window as window_of

if TYPE_CHECKING:
    from cl_bench.evaluation.crew import Crew
    from cl_bench.evaluation.engines.hflm import EncodePrompts

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the requests answered, and all of them."""
Pair = tuple[list[int], list[int]]
"""Context and continuation as token ids."""
PLAIN_BATCH = 8
"""Batch size where HFLM answers."""
SMALLEST_PASS = 32
"""Tokens below which a pass is not made smaller where memory does not suffice."""
LOGITS_BYTES = 2**31
"""Logits of one pass at most."""
CACHE_SHARE = 0.3
"""Part of the free memory that keys and values of running generations may take."""


class SharedPrefixLM(TemplateLM):  # type: ignore[misc]
    """Answers as lm-eval's `HFLM` does at batch size 1, with shared prefixes computed once.

    The model is left as it was (mode, hooks, config), the tokenizer too; no random number is
    drawn. What allows no sharing is answered by `HFLM` itself and counted as `unshared`.
    """

    backend = "causal"
    max_gen_toks = 256

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        token_budget: int | None = None,
        encode_prompts: EncodePrompts | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`max_length`: the model's window, by default what `positions.window` finds.

        `token_budget`: tokens of a forward pass, by default 1024 on a CPU, 2048 in half precision,
        and 16384 elsewhere.
        `encode_prompts`: token ids of the prompts of generation requests, by default as `HFLM`.
        """
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self._added = added_tokens(tokenizer)
        self.max_length = int(max_length or window_of(model.config, tokenizer))
        self.encode_prompts = encode_prompts
        self.progress = progress
        self.crew: Crew | None = None
        """The processes that answer together with this one; None: it answers alone."""
        self.counters = Counters()
        self.packed = PackedModel(model, self.counters)
        on_cpu = self.packed.device.type == "cpu"
        batch = token_budget or self.packed.tokens_at_once
        self.limits = PassLimits(batch=batch, row=min(batch, max(512, batch // 4)))
        self.sequences = 128 if on_cpu else 256
        self.plain_batch = 1 if length_rule(model.config) else PLAIN_BATCH
        self.reason: str | None = None
        """Why not all requests share their prefixes; known after the first request."""
        self._window: int | None = None

    def halve_passes(self) -> bool:
        """Half as many tokens and generations at once from here on; whether that is possible."""
        batch = self.limits.batch // 2
        if batch < SMALLEST_PASS:
            return False
        self.limits = replace(self.limits, batch=batch, row=min(self.limits.row, batch))
        self.sequences = max(1, self.sequences // 2)
        self.plain_batch = max(1, self.plain_batch // 2)
        return True

    @property
    def device(self) -> Any:
        """Where the inputs go."""
        return self.packed.device

    @property
    def tokenizer_name(self) -> str:
        """Fingerprint for lm-eval's request cache."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int | None:
        """End of text; None where the tokenizer has none."""
        eos: int | None = self.tokenizer.eos_token_id
        return eos

    @property
    def prefix_token_id(self) -> int | None:
        """What stands before an empty context: BOS, else EOS, else None."""
        bos: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; special tokens as the tokenizer adds them in front, but BOS never twice."""
        prefix = self.prefix_token_id
        if add_special_tokens is None and prefix is not None:
            written = self.tokenizer.decode(prefix)
            string = self._added.own_prefix(string, written)
            add_special_tokens = False if has_bos_prefix(string, written) else None
        return self._ids(string, add_special_tokens)

    def _ids(self, string: str, add_special_tokens: bool | None) -> list[int]:
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **special)
        return ids if add_special_tokens is False else self._added.without_end(ids)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The history in the tokenizer's template, without a system turn where it allows none."""
        import jinja2

        def render(history: list[dict[str, str]]) -> str:
            text: str = self.tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return text

        try:
            return render(chat_history)
        except jinja2.exceptions.TemplateError:
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p of the continuation (nats) and whether it is greedy, for (context, continuation).

        An empty continuation has (0.0, True), where `HFLM` fails.
        """
        texts = [request.args for request in requests]
        tokens = self.encode_pairs(texts)
        scores = self._loglikelihood_tokens(
            [(text, *pair) for text, pair in zip(texts, tokens, strict=True)]
        )
        for text, score in zip(texts, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", text, score)
        return scores

    def encode_pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """Token ids of (context, continuation), split as lm-eval splits them."""
        contexts: dict[str, list[int]] = {}
        return [self._encode(context, rest, contexts) for context, rest in texts]

    def score_pairs(self, pairs: Sequence[Pair]) -> list[float]:
        """log p (nats) of each continuation after its context, which has at least one token.

        As in `loglikelihood`: 0 for an empty continuation, UserError for one that is longer than
        the window, and a context that is too long loses tokens on its left.
        """
        scores = self._loglikelihood_tokens([(None, *pair) for pair in pairs])
        return [score for score, _ in scores]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """log p of whole texts (nats), in windows of `max_length` tokens."""
        texts = [request.args[0] for request in requests]
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self._prefix(),
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(texts)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _prefix(self) -> int:
        if self.prefix_token_id is None:
            raise UserError(
                f"tokenizer {self.tokenizer.name_or_path}: has neither a BOS nor an EOS token, and "
                "a text without context needs one before it (set tokenizer.bos_token)"
            )
        return self.prefix_token_id

    def _encode(self, context: str, rest: str, contexts: dict[str, list[int]]) -> Pair:
        """Token ids of a pair as `TemplateLM.loglikelihood` has them; `contexts` is a memo."""
        if context == "":
            prefix, ids = self._prefix(), self.tok_encode(rest, add_special_tokens=False)
            return (ids[:1], ids[1:]) if ids[:1] == [prefix] else ([prefix], ids)
        text = context.rstrip()
        whole = self.tok_encode(context + rest)
        if text not in contexts:
            contexts[text] = self.tok_encode(text)
        known = contexts[text]
        # Nothing but spaces may leave no token to condition on, where HFLM fails.
        return (known, whole[len(known) :]) if known else ([self._prefix()], whole)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Scores of (key, context, continuation); a long context loses tokens on its left."""
        self.counters.requests += len(requests)
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        pairs: dict[int, Pair] = {}
        for i, (_key, context, rest) in enumerate(requests):
            if len(rest) > self.max_length:
                raise UserError(
                    f"a continuation has {len(rest)} tokens, the model's window {self.max_length}"
                )
            self.counters.empty += not rest
            self.counters.truncated += len(context) + len(rest) > self.max_length + 1
            if rest:
                pairs[i] = (context + rest)[-(self.max_length + 1) : -1], rest
        with evaluating(self.model):
            window = self._shareable()
            ours = [i for i, (tokens, _) in pairs.items() if len(tokens) <= window]
            plain = [i for i, (tokens, _) in pairs.items() if len(tokens) > window]
            self.counters.prompt_tokens += sum(len(pairs[i][0]) for i in ours)
            report = self._reporter("log-likelihoods", len(ours))
            asked = [pairs[i] for i in ours]
            if ours:
                with reading(self.packed):
                    limits = self._limits(asked)
                    mine = among.score(self.packed, self.crew, asked, limits, report)
                scores = _put(scores, ours, mine)
            return _put(scores, plain, self._plain("_loglikelihood_tokens", requests, plain))

    def _limits(self, pairs: Sequence[Pair]) -> PassLimits:
        """Smaller passes where most positions are scored: each has a row of logits."""
        if not pairs:
            return self.limits
        scored = sum(len(targets) for _, targets in pairs) / sum(len(ids) for ids, _ in pairs)
        row_bytes = len(self.model.get_input_embeddings().weight) * self.model.dtype.itemsize
        room = max(512, int(LOGITS_BYTES / (row_bytes * scored)))
        return replace(
            self.limits, batch=min(self.limits.batch, room), row=min(self.limits.row, room)
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to the first stop string, for (context, generation kwargs)."""
        self.counters.requests += len(requests)
        rules = [self._rule(request.args[1]) for request in requests]
        prompts = self._prompts([request.args[0] for request in requests], rules)
        with evaluating(self.model):
            window = self._shareable() if is_greedy_config(self.model.generation_config) else 0
            ours: list[int] = []
            plain: list[int] = []
            for i, (prompt, rule) in enumerate(zip(prompts, rules, strict=True)):
                fits = len(prompt) + rule.max_new_tokens <= window
                (ours if fits and rule.greedy else plain).append(i)
            with generating(self.packed, shared=bool(ours)):
                texts = _put([""] * len(requests), ours, self._generate(ours, prompts, rules))
                texts = _put(texts, plain, self._plain("generate_until", requests, plain))
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _rule(self, kwargs: dict[str, Any]) -> StopRule:
        rule = stop_rule(self.tokenizer, self.model.generation_config, kwargs, self.max_gen_toks)
        if rule.max_new_tokens >= self.max_length:
            raise UserError(
                f"max_gen_toks {rule.max_new_tokens}: leaves no room for a prompt in the model's "
                f"window of {self.max_length} tokens"
            )
        return rule

    def _prompts(self, texts: Sequence[str], rules: Sequence[StopRule]) -> list[list[int]]:
        """Token ids, cut on the left to leave room for the new tokens."""
        if self.encode_prompts is not None:
            encoded = self.encode_prompts(texts)
        else:
            bos = self.tokenizer.bos_token
            own = [self._added.own_prefix(text, bos or "") for text in texts]
            encoded = [
                self._ids(text, False if has_bos_prefix(text, bos) else None) for text in own
            ]
        prompts = []
        for ids, rule in zip(encoded, rules, strict=True):
            limit = self.max_length - rule.max_new_tokens
            self.counters.truncated += len(ids) > limit
            prompts.append(list(ids[-limit:]) or [self._prefix()])
        return prompts

    def _generate(
        self, chosen: Sequence[int], prompts: Sequence[list[int]], rules: Sequence[StopRule]
    ) -> list[str]:
        """Texts for the chosen requests; equal ones are generated once."""
        self.counters.prompt_tokens += sum(len(prompts[i]) for i in chosen)
        groups: dict[tuple[StopRule, tuple[int, ...]], list[int]] = {}
        for i in chosen:
            if rules[i].max_new_tokens > 0:
                groups.setdefault((rules[i], tuple(prompts[i])), []).append(i)
        tokens: dict[int, list[int]] = {}
        found, bad = among.generate(
            self.packed,
            self.crew,
            self.tokenizer,
            [prompt for _, prompt in groups],
            [rule for rule, _ in groups],
            replace(self.limits, leaves=max(1, self.sequences // 4)),
            Room(self.sequences, int(free_bytes(self.packed.device) * CACHE_SHARE)),
            self._reporter("generations", len(groups)),
        )
        for same, new in zip(groups.values(), found, strict=True):
            tokens |= dict.fromkeys(same, new)
        unsound = {i for number, same in enumerate(groups.values()) if number in bad for i in same}
        texts = [text_until_stop(self.tokenizer, tokens.get(i, []), rules[i]) for i in chosen]
        return [
            NotFinite(text) if i in unsound else text for i, text in zip(chosen, texts, strict=True)
        ]

    def _shareable(self) -> int:
        """Longest sequence whose prefixes may be shared; 0 for models that allow none."""
        if self._window is None:
            self.reason, self._window = why_not_shared(self.model, self.max_length)
        return self._window

    def note(self) -> str | None:
        """What is not shared, or not decoded ahead, and what that costs; None if all is well."""
        with evaluating(self.model):
            longest = self._shareable()
            slow = decoding_note(self.model) if longest else None
        if self.reason is None:
            return slow
        which = f"requests of more than {longest} tokens are" if longest else "every request is"
        return (
            f"prefixes are not shared ({self.reason}): {which} computed whole by lm-eval's HFLM, "
            "which takes about 3 to 5 times as long"
        )

    def _plain(self, method: str, requests: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
        """What `HFLM` answers to the chosen requests."""
        if not chosen:
            return []
        from cl_bench.evaluation.engines.hflm import TruncatingHFLM

        self.counters.unshared += len(chosen)
        lm = TruncatingHFLM(
            pretrained=self.model,
            # A copy, since HFLM gives the tokenizer a pad token.
            tokenizer=copy.deepcopy(self.tokenizer),
            max_length=self.max_length,
            batch_size=self.plain_batch,
            softmax_dtype="float32",
        )
        lm.encode_prompts = self.encode_prompts
        answers: list[Any] = getattr(lm, method)([requests[i] for i in chosen], disable_tqdm=True)
        return answers

    def _reporter(self, what: str, total: int) -> Callable[[int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done: progress(what, done, total)


def _put(into: list[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """A copy of `into` with `values` at `places`."""
    result = list(into)
    for place, value in zip(places, values, strict=True):
        result[place] = value
    return result
