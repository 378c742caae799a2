"""Twins share every tensor, and two workers share the threads."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import Example
from cl_bench.evaluation.shared_prefix.cpu_twins import side_by_side, twin_of
from cl_bench.methods.migu import MIGU, MIGUOptions
from cl_bench.methods.sft import SFT
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import UpdatePlan
from tests.helpers.reference import make_stage
from tests.helpers.tiny import tiny_model

WAIT = 60
"""Seconds after which two threads that should meet do not."""


pytestmark = pytest.mark.usefixtures("two_threads")


def test_a_twin_has_the_same_tensors_and_modules_of_its_own():
    model = tiny_model()
    twin = twin_of(model)
    names = dict([*model.named_parameters(), *model.named_buffers()])
    same = dict([*twin.named_parameters(), *twin.named_buffers()])
    assert same.keys() == names.keys()
    assert all(same[name] is tensor for name, tensor in names.items())
    assert not set(map(id, model.modules())) & set(map(id, twin.modules()))


class Uncopied(nn.Module):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle a lock")


def hooked(model):
    model.model.layers[1].register_forward_hook(lambda *_: None)


def hooked_before(model):
    model.model.norm.register_forward_pre_hook(lambda *_: None)


def patched(model):
    model.model.norm.forward = model.model.norm.forward


def uncopied(model):
    model.more = Uncopied()


def elsewhere(model):
    model.register_buffer("far", torch.zeros(1, device="meta"))


@pytest.mark.parametrize("change", [hooked, hooked_before, patched, uncopied, elsewhere])
def test_models_that_have_no_twin(change):
    model = tiny_model()
    assert twin_of(model) is not None
    change(model)
    assert twin_of(model) is None


@pytest.mark.parametrize("method", [SFT(), MIGU(MIGUOptions(mask_first_task=True))])
def test_a_scoring_inside_a_stage_has_a_twin_too(method):
    """Otherwise its last bits would not be those of the same weights after the stage."""
    model = tiny_model()
    stage, _ = make_stage(model, [Example("ask", "answer", 0, "t", "generate")], TrainConfig())
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        method.prepare(stage)
        assert twin_of(model) is None
        with engine.paused():
            assert twin_of(model) is not None
    method.finish(stage)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_that_make_no_halves(threads):
    torch.set_num_threads(threads)
    assert twin_of(tiny_model()) is None


def test_two_work_at_the_same_time_and_answers_keep_their_order():
    meeting = threading.Barrier(2)

    def work(job):
        meeting.wait(WAIT)  # breaks unless both are here
        return threading.get_ident(), job, torch.get_num_threads()

    with side_by_side() as run:
        answers = list(run(work, range(8)))
        assert torch.get_num_threads() == 1
    workers, jobs, threads = zip(*answers, strict=True)
    assert jobs == tuple(range(8))
    assert sorted(map(workers.count, set(workers))) == [4, 4]
    assert set(threads) == {1}
    assert torch.get_num_threads() == 2


def test_what_has_not_begun_is_left_out_after_an_interruption():
    begun, go_on = [], threading.Event()

    def work(job):
        begun.append(job)
        assert go_on.wait(WAIT)

    def interrupted():
        with side_by_side() as run:
            answers = run(work, range(100))
            threading.Timer(0.2, go_on.set).start()
            assert answers is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) <= 2
    assert torch.get_num_threads() == 2
