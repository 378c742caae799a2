"""Attention of decoding steps: compiled and torch's, against a loop over single queries."""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_bench.evaluation.shared_prefix import cpu_decode_kernel, decode_attention
from cl_bench.evaluation.shared_prefix.decode_attention import SlotAttention, Step, parts_of
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.tiny import byte_tokenizer, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SIZE, COLUMNS, GROUPS = 16, 24, 2
STEPS = st.lists(st.tuples(st.integers(0, 16), st.sampled_from([1, 1, 3, 8])), min_size=1)
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(params=[pytest.param(True, marks=needs_compiler), False], ids=["C", "torch"])
def compiled(request, monkeypatch):
    """Attention with a compiled kernel, then as it is without a compiler."""
    asked = []

    def kernel_for(*tensors):
        found = cpu_decode_kernel.kernel_for(*tensors) if request.param else None
        asked.append(found is not None)
        return found

    monkeypatch.setattr(decode_attention, "kernel_for", kernel_for)
    yield request.param
    assert asked and all(found == request.param for found in asked)


def one_by_one(query, keys, values, slots, positions, scale):
    """softmax(q K') V in float64, a query and a head at a time: [N, H, D]."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    shared = query.shape[1] // keys.shape[1]
    for n, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        for head in range(query.shape[1]):
            k, v = (x[slot, head // shared, : position + 1].double() for x in (keys, values))
            out[n, head] = torch.softmax(k @ query[n, head].double() * scale, 0) @ v
    return out


def a_step(held, dtype, heads=4):
    """(query, keys, values, step) for slots that hold some tokens and get new ones."""
    lengths, news = zip(*held, strict=True)
    random = torch.Generator().manual_seed(len(held))
    rows = [i for i, n in enumerate(news) for _ in range(n)]
    places = [start + j for start, n in held for j in range(n)]

    def numbers(*shape):
        return torch.randn(*shape, generator=random).to(dtype)

    keys, values = (numbers(len(held), GROUPS, COLUMNS, SIZE) for _ in range(2))
    step = Step(torch.tensor(rows), torch.tensor(places), parts_of(lengths, news))
    return numbers(1, len(rows), heads, SIZE).transpose(1, 2), keys, values, step


def attend(step, *tensors, **options):
    attention = SlotAttention(tiny_model())
    with torch.no_grad(), attention.over(step):
        return attention.attend(torch.nn.Identity(), *tensors, None, **options)[0]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_token_sees_its_own_past(compiled, dtype):
    @settings(max_examples=25, deadline=None)
    @given(held=STEPS, heads=st.sampled_from([2, 4, 6]), scale=st.sampled_from([None, 0.7]))
    def check(held, heads, scale):
        query, keys, values, step = a_step(held, dtype, heads)
        found = attend(step, query, keys, values, scaling=scale)
        rows = query[0].transpose(0, 1)
        factor = SIZE**-0.5 if scale is None else scale
        expected = one_by_one(rows, keys, values, step.slots, step.positions, factor)
        assert found.shape == (1, *rows.shape) and found.dtype == dtype
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(found[0].double(), expected, rtol=tolerance, atol=tolerance)

    check()


def test_what_is_no_number_stays_none(compiled):
    """In the query's own past; what stands behind it, in memory never written, has no effect."""
    query, keys, values, step = a_step([(5, 1), (3, 1), (4, 1)], torch.float32)
    keys[0, :, 2] = float("nan")
    values[1, :, 0] = float("inf")
    if compiled:
        keys[2, :, 5:] = values[2, :, 5:] = float("nan")
    found = attend(step, query, keys, values)[0]
    assert found[0].isnan().all()
    assert not found[1].isfinite().any()
    assert found[2].isfinite().all()


def test_large_numbers_do_not_overflow(compiled):
    query, keys, values, step = a_step([(12, 1)], torch.float32)
    expected = one_by_one(query[0].transpose(0, 1), keys * 90, values, step.slots, [12], 1.0)
    found = attend(step, query, keys * 90, values, scaling=1.0)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_texts_are_those_of_hflm(compiled, kind):
    model, tokenizer = tiny_model(kind=kind, seed=3), byte_tokenizer()
    kwargs = {"until": [], "max_gen_toks": 36}
    asked = requests("generate_until", [(f"{n} is", kwargs) for n in range(8)])
    engine = SharedPrefixLM(model, tokenizer)
    engine.sequences = 5
    expected = hflm(model, tokenizer).generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(asked) == expected
    assert engine.counters.unshared == 0
    assert kind == "qwen2" or engine.counters.guessed_tokens > 0  # it falls into no loop


def test_an_option_that_only_the_library_knows_is_left_to_it(monkeypatch):
    """`position_bias` is none of ours: transformers' own attention gets it, part by part."""
    query, keys, values, step = a_step([(4, 1), (2, 1), (6, 3)], torch.float32)
    given = []

    def plain(module, query, key, value, mask, dropout, scaling, **options):
        given.append(options)
        allowed = mask == 0
        assert allowed.sum(-1).flatten().tolist() in ([5, 3], [7, 8, 9])
        return torch.zeros(len(query), query.shape[2], query.shape[1], query.shape[3]), None

    monkeypatch.setitem(decode_attention.ALL_ATTENTION_FUNCTIONS, "sdpa", plain)
    found = attend(step, query, keys, values, position_bias=3.0)
    assert found.shape == (1, 5, 4, SIZE)
    assert given == [{"position_bias": 3.0}] * 2


@pytest.mark.parametrize("cut", [(slice(0, 2),), (slice(None), slice(None), slice(0, 8))])
def test_keys_that_are_not_those_of_the_slots_are_refused(cut):
    """A model that drops its cache: the compiled kernel would read beyond what there is."""
    query, keys, values, step = a_step([(4, 1), (2, 1), (6, 3)], torch.float32)
    with pytest.raises(ValueError, match="other keys than those of its cache"):
        attend(step, query, keys[cut], values[cut])


def test_slots_are_read_in_parts():
    lengths, news = [9, 5, 5, 2, 30], [1, 1, 8, 1, 1]
    parts = parts_of(lengths, news)
    assert [(p.start, p.end, p.first, p.tokens, p.width) for p in parts] == [
        (0, 2, 0, 1, 10),
        (2, 3, 2, 8, 13),
        (3, 5, 10, 1, 31),
    ]
    assert [p.end - p.start for p in parts_of([3] * 19, [1] * 19)] == [8, 8, 3]


@needs_compiler
@pytest.mark.parametrize(
    "fault", ["no compiler", "no source", "wrong", "elsewhere", "float16", "odd heads"]
)
def test_without_a_kernel_torch_attends(fault, monkeypatch, tmp_path):
    query, keys, _, _ = a_step([(4, 1)], torch.float32)
    cpu_decode_kernel._kernel.cache_clear()
    if fault == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    if fault == "no source":
        monkeypatch.setattr(cpu_decode_kernel, "SOURCE", tmp_path / "none.c")
    if fault == "wrong":
        source = cpu_decode_kernel.SOURCE.read_text()
        wrong = tmp_path / "wrong.c"
        wrong.write_text(source.replace("n = ends[token]", "n = ends[token] - 1"))
        monkeypatch.setattr(cpu_decode_kernel, "SOURCE", wrong)
    if fault == "elsewhere":
        query, keys = query.to("meta"), keys.to("meta")
    if fault == "odd heads":
        query, keys = query[..., :12], keys[..., :12]
    if fault == "float16":
        query, keys = query.half(), keys.half()
    assert cpu_decode_kernel.kernel_for(query, keys) is None
    cpu_decode_kernel._kernel.cache_clear()
