"""Fused layers: attention against a loop, logits against the model's own, texts against HFLM's."""

from __future__ import annotations

import shutil
from math import isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from cl_bench.evaluation.finite import NotFinite
from cl_bench.evaluation.shared_prefix.fused import compiled, layers, opened
from cl_bench.evaluation.shared_prefix.fused.compiled import Heads, kernels_for
from cl_bench.evaluation.shared_prefix.fused.jobs import decoding_jobs
from cl_bench.evaluation.shared_prefix.fused.memory import StoreMemory
from cl_bench.evaluation.shared_prefix.fused.reading import StoreReader
from cl_bench.evaluation.shared_prefix.fused.store import Extent, Places, Store
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.shared_prefix.packed_model import evaluating
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.tiny import BYTE_VOCAB_SIZE, byte_tokenizer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def wide_model(kind=LlamaForCausalLM, config=LlamaConfig, dtype=torch.float32, seed=3, **options):
    """Two layers with heads of 32, 4 for queries and 2 for keys."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        # Large weights: layers that add next to nothing would hide what is wrong with them.
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        special["initializer_range"] = 0.1
        model = kind(config(vocab_size=BYTE_VOCAB_SIZE, **shape, **heads, **special, **options))
        for module in model.modules():  # biases that are 0 would show nothing
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.1)
    return model.to(dtype).eval()


CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
}
STEMS = ["a stem that is read once " * 9, "another, " * 25, "x", ""]


@pytest.fixture
def memories(monkeypatch):
    """Stores that were made, the trials' too."""
    made = []
    init = StoreMemory.__init__

    def noted(self, *args, **options):
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(StoreMemory, "__init__", noted)
    monkeypatch.setattr(opened, "_FOUND", {})
    return made


@pytest.fixture
def readers(memories, monkeypatch):
    """Readers of log-likelihoods that were made, twins too; `pasts`: the trunks of their passes."""
    made = []
    init, run = StoreReader.__init__, StoreReader.run

    def noted(self, *args):
        init(self, *args)
        made.append(self)
        self.pasts = []

    def noted_run(self, pack, *args):
        self.pasts.append(pack.past)
        return run(self, pack, *args)

    monkeypatch.setattr(StoreReader, "__init__", noted)
    monkeypatch.setattr(StoreReader, "run", noted_run)
    return made


EXTENT = st.integers(1, 70)
SEQUENCES = st.lists(
    st.tuples(st.integers(0, 2), EXTENT, st.sampled_from([1, 1, 1, 3, 8])), min_size=1, max_size=9
)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("heads", [Heads(32, 2, 2), Heads(48, 5, 1)], ids=str)
def test_a_steps_attention_is_that_of_single_queries(dtype, heads):
    """Sequences share stems; what stands between extents in the store is no number."""
    kernels = kernels_for(heads, dtype)
    assert kernels is not None

    @settings(max_examples=25, deadline=None)
    @given(SEQUENCES, st.lists(EXTENT, min_size=3, max_size=3), st.sampled_from([1, 20, 1000]))
    def check(drawn, stems, worth):
        at = 5
        shared = []
        for length in stems:
            shared.append(Extent(at, length, length))
            at += length + 3
        sequences, news = [], []
        for stem, own, new in drawn:
            sequences.append([*shared[:stem], Extent(at, own + new, own + new)])
            news.append(new)
            at += own + new + 3
            for extent in sequences[-1]:
                extent.users += 1
        random = torch.Generator().manual_seed(at)
        store = torch.full((2, heads.groups, at, heads.size), float("nan"), dtype=dtype)
        used = [list(range(e.start, e.start + e.length)) for s in sequences for e in s]
        places = torch.tensor(sorted({i for each in used for i in each}))
        shape = (2, heads.groups, len(places), heads.size)
        store[:, :, places] = torch.randn(shape, generator=random).to(dtype)
        wide = heads.groups * heads.shared * heads.size
        q = torch.randn(sum(news), wide, generator=random).to(dtype)
        jobs = decoding_jobs(heads, sequences, news, worth).made()
        found = kernels.attended(q, store, jobs, 0.4)
        expected = torch.zeros(q.shape, dtype=torch.float64).view(len(q), heads.groups, -1)
        n = 0
        for extents, new in zip(sequences, news, strict=True):
            seen = [i for e in extents for i in range(e.start, e.start + e.length)]
            for j in range(new):
                k, v = (x[:, seen[: len(seen) - new + j + 1]].double() for x in store)
                own = q[n].double().view(heads.groups, heads.shared, heads.size)
                weights = torch.softmax(own @ k.transpose(1, 2) * 0.4, -1)
                expected[n] = (weights @ v).flatten(1)
                n += 1
        apart = (found.double() - expected.flatten(1)).abs().max()
        assert apart < TOLERANCES[dtype]

    check()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", CLASSES)
def test_the_trial_compares_with_the_models_own_layers(kind, dtype):
    found = wide_model(*CLASSES[kind], dtype=dtype)
    with evaluating(found):
        fused = layers.fused_layers(found)
        assert fused is not None
        trial = opened.SharingTrial(found, opened.SETS)

        def fault():
            return trial.fault(lambda sequences: opened._computed(trial, fused, sequences))

        assert fault() is None
        weight, epsilon = fused.layers[1].before
        fused.layers[1].before = (weight * 1.5, epsilon)
        assert "log-probabilities differ" in fault()
    assert not any("forward" in vars(module) for module in found.modules())


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("room", [10**9, 60_000], ids=["wide", "narrow"])
def test_texts_are_those_of_hflm(kind, room, memories, monkeypatch):
    """Shared stems, texts that end at once or late, few sequences at a time."""
    model, tokenizer = wide_model(*CLASSES[kind]), byte_tokenizer()
    stems = ["a stem that is read once " * 9, "another, " * 25, ""]
    asked = requests(
        "generate_until",
        [
            (f"{stems[n % 3]}{n} is", {"until": ["e"] * (n % 2), "max_gen_toks": 3 + 11 * (n % 4)})
            for n in range(14)
        ],
    )
    engine = SharedPrefixLM(model, tokenizer)
    engine.sequences = 8
    monkeypatch.setattr("cl_bench.evaluation.shared_prefix.lm.free_bytes", lambda _: room / 0.3)
    grow = Store.grow
    grown: list[int] = []
    monkeypatch.setattr(Store, "grow", lambda self, n: (grown.append(n), grow(self, n))[1])
    expected = hflm(model, tokenizer).generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(asked) == expected
    assert engine.counters.unshared == 0 and engine.counters.guessed_tokens > 0
    assert engine.counters.computed_tokens < engine.counters.prompt_tokens
    _, used = memories
    assert not used.running
    used._crop(0)
    assert used.store.places.free == [(0, used.store.tokens)]
    assert (room < 10**6) == bool(grown)


def asked_pairs():
    """Stems, branches of them, continuations of several lengths, and equal ones."""
    contexts = [f"{STEMS[n % 4]}{n % 9} {'and on ' * 9}is it" for n in range(18)]
    pairs = [(text, f" {'so ' * (n % 5)}no{n % 2}") for n, text in enumerate(contexts)]
    return requests("loglikelihood", [*pairs, *pairs[:2], *((text, " y") for text in contexts)])


@pytest.mark.parametrize(
    ("kind", "budget", "threads"),
    [("llama", 64, 1), ("qwen2", 64, 1), ("llama", 8192, 1), ("llama", 64, 2)],
    ids=["llama, trunks", "qwen2, trunks", "whole", "two passes at a time"],
)
def test_log_likelihoods_are_those_of_hflm(kind, budget, threads, readers):
    torch.set_num_threads(threads)  # `one_thread` puts back what was there
    model, tokenizer = wide_model(*CLASSES[kind]), byte_tokenizer()
    engine = SharedPrefixLM(model, tokenizer, token_budget=budget)
    found = engine.loglikelihood(asked_pairs())
    expected = hflm(model, tokenizer).loglikelihood(asked_pairs(), disable_tqdm=True)
    assert [s for s, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-4)
    assert [best for _, best in found] == [best for _, best in expected]
    trunks = max(readers[0].pasts) > 0
    assert (len(readers), trunks) == ((threads, True) if budget == 64 else (1, False))
    assert engine.counters.unshared == 0
    assert engine.counters.computed_tokens < engine.counters.prompt_tokens / 2
    assert engine.packed.fused is None
    assert not any("forward" in vars(module) for module in model.modules())


def test_log_likelihoods_in_half_precision_are_as_close_to_the_truth_as_the_models_own(
    readers, monkeypatch
):
    model, tokenizer = wide_model(dtype=torch.bfloat16), byte_tokenizer()
    exact = [s for s, _ in hflm(wide_model(), tokenizer).loglikelihood(asked_pairs())]
    found = {}
    for way in ("fused", "own"):
        if way == "own":
            monkeypatch.setattr(opened, "fused_layers", lambda *_, **__: None)
        scores = SharedPrefixLM(model, tokenizer).loglikelihood(asked_pairs())
        found[way] = sum(abs(s - e) for (s, _), e in zip(scores, exact, strict=True))
    assert len(readers) == 1
    assert found["fused"] < 1.5 * found["own"]


def test_packed_weights_are_kept_until_a_weight_changes(monkeypatch):
    model, tokenizer = wide_model(), byte_tokenizer()
    asked = requests("generate_until", [("a stem", {"until": [], "max_gen_toks": 9})])
    engine, made = SharedPrefixLM(model, tokenizer), []
    init = layers.FusedLayer.__init__
    monkeypatch.setattr(
        layers.FusedLayer, "__init__", lambda self, *a: (made.append(a), init(self, *a))[1]
    )
    texts = [engine.generate_until(asked) for _ in range(2)]
    assert texts[0] == texts[1] and len(made) == 2, "one for each layer"
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.neg_()
    changed = engine.generate_until(asked)
    assert changed == hflm(model, tokenizer).generate_until(asked, disable_tqdm=True) != texts[0]
    assert len(made) == 4


@pytest.mark.parametrize(
    "fault", ["no compiler", "another activation", "other scale", "patched", "float16"]
)
def test_other_models_and_machines_use_slots(fault, memories, readers, monkeypatch):
    options = {"hidden_act": "gelu"} if fault == "another activation" else {}
    dtype = torch.float16 if fault == "float16" else torch.float32
    model, tokenizer = wide_model(dtype=dtype, **options), byte_tokenizer()
    if fault == "no compiler":
        compiled.kernels_for.cache_clear()
        monkeypatch.setattr(shutil, "which", lambda name: None)
    if fault == "other scale":  # as models that multiply what they add
        forward = type(model.model.layers[1]).forward

        def scaled(self, *args, **kwargs):
            return forward(self, *args, **kwargs) * 0.7

        monkeypatch.setattr(type(model.model.layers[1]), "forward", scaled)
    if fault == "patched":
        own = model.model.layers[1].mlp.forward
        model.model.layers[1].mlp.forward = lambda x: own(x) * 0.5
    asked = requests(
        "generate_until", [(f"{n} is", {"until": [], "max_gen_toks": 9}) for n in range(4)]
    )
    engine = SharedPrefixLM(model, tokenizer)
    expected = hflm(model, tokenizer).generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(asked) == expected
    pairs = requests("loglikelihood", [(f"{n} is", " so") for n in range(4)])
    scores = [s for s, _ in hflm(model, tokenizer).loglikelihood(pairs, disable_tqdm=True)]
    tolerance = 0.05 if fault == "float16" else 1e-4
    assert [s for s, _ in engine.loglikelihood(pairs)] == pytest.approx(scores, abs=tolerance)
    assert not readers
    assert len(memories) == (fault in ("another activation", "other scale"))  # their trials
    compiled.kernels_for.cache_clear()


def test_what_is_no_number_stays_in_its_own_text(memories, readers):
    model, tokenizer = wide_model(), byte_tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.encode("x")] = float("nan")
    texts = ["a stem " * 40 + end for end in ("one", "xyz", "two", "three")]
    asked = requests("generate_until", [(t, {"until": [], "max_gen_toks": 9}) for t in texts])
    found = SharedPrefixLM(model, tokenizer).generate_until(asked)
    assert [isinstance(text, NotFinite) for text in found] == [False, True, False, False]
    good = [each for i, each in enumerate(asked) if i != 1]
    expected = hflm(model, tokenizer).generate_until(good, disable_tqdm=True)
    assert [text for i, text in enumerate(found) if i != 1] == expected
    assert len(memories) > 1
    pairs = requests("loglikelihood", [(text, " so") for text in texts])
    scores = SharedPrefixLM(model, tokenizer).loglikelihood(pairs)
    assert [isnan(score) for score, _ in scores] == [False, True, False, False]
    assert readers


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_argmax_is_the_first_of_equal_ones_and_nan_where_there_is_one(dtype):
    kernels = kernels_for(Heads(32, 2, 2), dtype)
    assert kernels is not None
    rows = torch.randn(4, 301, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[0, [250, 17]] = 9.0
    rows[1, [3, 80]] = float("nan")
    rows[2] = float("-inf")
    rows[3, 200] = float("inf")
    assert kernels.largest(rows).tolist() == [17, 3, 0, 200]


@given(st.lists(st.integers(1, 30), min_size=1), st.randoms(use_true_random=False))
def test_places_are_taken_once_and_joined_when_they_are_free(rooms, random):
    places, held, taken = Places(100), {}, set()
    for room in rooms:
        start = places.take(room)
        if start is not None:
            mine = set(range(start, start + room))
            assert not mine & taken and max(mine) < 100
            held[start], taken = room, taken | mine
        if held and random.random() < 0.5:
            start = random.choice(sorted(held))
            places.give_back(start, held[start])
            taken -= set(range(start, start + held.pop(start)))
    for start, room in held.items():
        places.give_back(start, room)
    assert places.free == [(0, 100)]
