"""Decoding ahead, as on a card: the same texts, and nothing in a step that the host must see."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cl_bench.config.schema import TrainConfig
from cl_bench.evaluation.finite import NotFinite, is_distribution
from cl_bench.evaluation.shared_prefix.ahead import block as blocks
from cl_bench.evaluation.shared_prefix.ahead import memory as memories
from cl_bench.evaluation.shared_prefix.ahead import opened as trials
from cl_bench.evaluation.shared_prefix.ahead.block import STEPS, Block, recorded
from cl_bench.evaluation.shared_prefix.fused import opened
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel, evaluating
from cl_bench.evaluation.shared_prefix.texts import generate_texts
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.tiny import byte_tokenizer, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS, WIDTH, HELD = 3, 24, 5


@pytest.fixture
def ahead(monkeypatch):
    """This processor decodes as a card; `runs`: rows, width and steps of every block that ran."""
    monkeypatch.setattr(trials, "_FOUND", {})
    for module in (opened, trials):
        monkeypatch.setattr(module, "is_worthwhile", lambda device: True)
    runs, run = [], Block.run

    def noted(self, tokens, held, count=STEPS, points=()):
        if count > 1:  # not a trial's
            runs.append((self.rows, self.width, count))
        return run(self, tokens, held, count, points)

    monkeypatch.setattr(Block, "run", noted)
    return runs


def asked():
    stems = ["a stem that is read once " * 5, "another, " * 12, ""]
    return requests(
        "generate_until",
        [
            (f"{stems[n % 3]}{n} is", {"until": ["e"] * (n % 2), "max_gen_toks": 1 + 13 * (n % 4)})
            for n in range(14)
        ],
    )


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("sequences", [3, 64])
def test_texts_are_those_of_hflm(kind, sequences, ahead, monkeypatch):
    """Texts that end at once, inside a block, behind several; few slots, which others take over."""
    monkeypatch.setattr(memories, "NARROWEST", 16)
    model, tokenizer = tiny_model(kind=kind), byte_tokenizer()
    engine = SharedPrefixLM(model, tokenizer)
    engine.sequences = sequences
    expected = hflm(model, tokenizer).generate_until(asked(), disable_tqdm=True)
    assert engine.generate_until(asked()) == expected
    assert engine.note() is None and engine.counters.unshared == 0
    assert engine.counters.guessed_tokens == 0
    assert len({(rows, width) for rows, width, _ in ahead}) > 1
    assert len(ahead) <= engine.counters.decoded_tokens / 4, "looks of the host"


def test_drawn_texts_are_those_of_single_steps(ahead, monkeypatch):
    model, tokenizer = tiny_model().double(), byte_tokenizer()
    prompts = [f"{n} is" for n in range(5)]

    def texts():
        return generate_texts(model, tokenizer, TrainConfig(), prompts, 40, 0.8, range(5))

    found = texts()
    assert ahead
    ahead.clear()
    monkeypatch.setattr(opened, "is_worthwhile", lambda device: False)
    assert texts() == found and not ahead
    assert len(set(found)) > 1


def test_what_is_no_number_stays_in_its_own_text(ahead):
    model, tokenizer = tiny_model(), byte_tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.encode("x")] = float("nan")
    texts = ["a stem " * 9 + end for end in ("one", "xyz", "two", "three")]
    prompts = requests("generate_until", [(t, {"until": [], "max_gen_toks": 20}) for t in texts])
    found = SharedPrefixLM(model, tokenizer).generate_until(prompts)
    assert [isinstance(text, NotFinite) for text in found] == [False, True, False, False]
    good = [each for i, each in enumerate(prompts) if i != 1]
    expected = hflm(model, tokenizer).generate_until(good, disable_tqdm=True)
    assert [text for i, text in enumerate(found) if i != 1] == expected
    assert ahead


@pytest.mark.parametrize("fault", ["positions", "waits"])
def test_a_model_that_fails_the_trial_is_decoded_step_by_step_and_that_is_said(
    fault, ahead, monkeypatch
):
    step = Block.step

    def wrong(self):
        if fault == "waits":
            raise RuntimeError("cannot be captured\nmore")
        self.held.add_(1)
        step(self)
        self.held.sub_(1)

    monkeypatch.setattr(Block, "step", wrong)
    model, tokenizer = tiny_model(), byte_tokenizer()
    engine = SharedPrefixLM(model, tokenizer)
    expected = hflm(model, tokenizer).generate_until(asked(), disable_tqdm=True)
    assert engine.generate_until(asked()) == expected
    assert not ahead
    said = engine.note()
    assert said is not None and said.startswith("texts are generated one token at a time")
    assert ("cannot be captured)" if fault == "waits" else "rounding explains") in said


@contextmanager
def block_on(device, temperature=None):
    """A block over slots that hold something, for a model in evaluation mode."""
    model = tiny_model().to(device)
    packed = PackedModel(model, Counters())
    with evaluating(model):
        ids = torch.ones(ROWS, HELD, dtype=torch.long, device=device)
        slots = SlotCache(model(ids, use_cache=True).past_key_values)
        slots.reserve(ROWS, WIDTH)
        yield Block(packed, slots, ROWS, WIDTH, temperature)


@pytest.mark.parametrize("temperature", [None, 0.7], ids=["argmax", "drawn"])
@pytest.mark.parametrize("waits", [False, True])
def test_a_step_runs_on_a_device_without_numbers(temperature, waits, monkeypatch):
    """On the meta device there are shapes alone: whatever looks at a number raises there."""

    def looks(logits, picked):
        return is_distribution(logits, picked) & bool(logits.isfinite().all())

    if waits:
        monkeypatch.setattr(blocks, "is_distribution", looks)
    with block_on("meta", temperature) as block:
        if waits:
            with pytest.raises((RuntimeError, NotImplementedError)):
                block.step()
            return
        for _ in range(STEPS):
            block.step()
        assert block.logits is not None and block.logits.shape[0] == ROWS
        assert block.chosen.shape == (ROWS, STEPS)


class Shapes(TorchDispatchMode):
    """Operations, with the shapes that go in and come out."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, torch.Tensor)]
        self.seen.append((str(function), [tuple(x.shape) for x in tensors]))
        return found


def test_every_step_has_the_same_operations_and_shapes():
    with block_on("cpu") as block:
        block._put([1, 2], [HELD, HELD - 2], [])
        steps = []
        for _ in range(3):
            with Shapes() as shapes:
                block.step()
            steps.append(shapes.seen)
    assert len(steps[0]) > 50
    assert steps[0] == steps[1] == steps[2]


def test_a_graph_is_recorded_once_and_replayed():
    """With a stand-in for torch.cuda, since no card is there."""
    done = []

    @contextmanager
    def within(what):
        done.append(f"begin {what}")
        yield
        done.append(f"end {what}")

    def note(text):
        return lambda *_: done.append(text)

    cuda = SimpleNamespace(
        Stream=lambda: SimpleNamespace(wait_stream=note("beside waits")),
        current_stream=lambda: SimpleNamespace(wait_stream=note("waits")),
        stream=lambda _: within("warm-up"),
        CUDAGraph=lambda: SimpleNamespace(replay=note("replay")),
        graph=lambda _: within("graph"),
    )
    replay = recorded(note("step"), torch.device("cuda"), cuda)
    replay()
    warm = ["begin warm-up", "step", "step", "end warm-up"]
    assert done == ["beside waits", *warm, "waits", "begin graph", "step", "end graph", "replay"]
    step = note("step")
    assert recorded(step, torch.device("cpu"), cuda) is step


def test_steps_of_recording_leave_nothing_behind(monkeypatch):
    """Whatever recording has done to the state, the tokens are those of steps from the start."""

    def twice(step, device):
        step()
        step()
        return step

    found = []
    for record in (lambda step, device: step, twice):
        monkeypatch.setattr(blocks, "recorded", record)
        with block_on("cpu") as block:
            found.append([block.run([1, 2], [HELD, HELD - 2], 6)[0] for _ in range(2)])
    assert found[0] == found[1]
