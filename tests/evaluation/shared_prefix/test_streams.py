"""Two passes at a time: the same answers, threads and modes as before."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_bench.evaluation.shared_prefix import readers
from cl_bench.evaluation.shared_prefix.cpu_two_passes import in_streams
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel
from cl_bench.evaluation.shared_prefix.readers import ModelReader
from tests.helpers.engine_oracle import requests
from tests.helpers.tiny import byte_tokenizer, tiny_model

WORDS = ["a", "few ", "words of ", "any length ", "in an order", " and with", " ends"]
WAIT = 60
"""Seconds after which two threads that should meet do not."""


def packed():
    return PackedModel(tiny_model().eval(), Counters())


@settings(max_examples=8, deadline=None)
@given(
    texts=st.lists(
        st.tuples(*[st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map("".join)] * 2),
        min_size=1,
        max_size=12,
    ),
    budget=st.sampled_from([16, 64]),
)
def test_scores_and_counters_are_those_of_one_stream(texts, budget):
    threads, found = torch.get_num_threads(), {}
    for count in (1, 2):
        torch.set_num_threads(count)
        engine = SharedPrefixLM(tiny_model().double(), byte_tokenizer(), token_budget=budget)
        scores = engine.loglikelihood(requests("loglikelihood", texts))
        found[count] = scores, engine.counters
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    (one, counted), (two, counted_too) = found[1], found[2]
    assert [sum_ for sum_, _ in two] == pytest.approx([sum_ for sum_, _ in one], abs=1e-10)
    assert [best for _, best in two] == [best for _, best in one]
    assert counted_too == counted


def test_two_passes_run_at_the_same_time_without_gradients_on_half_of_the_threads(two_threads):
    model, seen = ModelReader(packed()), []
    meeting = threading.Barrier(2)

    def work(mine, number):
        meeting.wait(WAIT)  # breaks unless both are here
        seen.append((mine is model, torch.is_grad_enabled(), torch.get_num_threads()))
        return number

    taken = []
    in_streams(model, range(6), work, taken.append)
    assert taken == list(range(6))
    assert sorted(seen) == [(False, False, 1)] * 3 + [(True, False, 1)] * 3
    assert torch.get_num_threads() == 2


def test_an_odd_pass_has_all_threads(two_threads):
    model, seen = ModelReader(packed()), []
    in_streams(
        model, range(3), lambda mine, _: (mine is model, torch.get_num_threads()), seen.append
    )
    assert [threads for _, threads in seen] == [1, 1, 2]
    assert seen[2][0]


@pytest.mark.parametrize("where", ["work", "take"])
def test_a_failure_is_raised_here_and_the_threads_come_back(two_threads, where):
    done = []

    def fails(at):
        def run(*args):
            if where == at and args[-1] == 1:
                raise ValueError("pass 1")
            done.append(at)
            return args[-1]

        return run

    with pytest.raises(ValueError, match="pass 1"):
        in_streams(ModelReader(packed()), range(100), fails("work"), fails("take"))
    assert torch.get_num_threads() == 2
    assert done.count("take") == 1
    assert done.count("work") < 100, "what has not begun is left out"


def test_one_pass_needs_no_twin(two_threads, monkeypatch):
    monkeypatch.setattr(readers, "twin_of", lambda _: pytest.fail("copied for nothing"))
    taken = []
    in_streams(ModelReader(packed()), [1], lambda _, number: number, taken.append)
    in_streams(ModelReader(packed()), [], lambda _, number: number, taken.append)
    assert taken == [1]
