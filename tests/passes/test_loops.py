"""Unrolled loops are found by the parameters that they read again, and their state by what reads it."""

import pytest
import torch
from torch import nn

from passes.dataflow import dataflow
from passes.loops import loops, misstated, states
from passes.recurrences import recurrences
from tests.passes.recurrent import Net, Sums, exported, traced


def anchors(flow, names):
    return [flow.nodes[name]["anchor"] for name in names]


def test_a_loop_is_named_by_the_module_that_reads_the_state():
    flow = dataflow(exported(Sums()))
    ((name, loop),) = loops(flow).items()
    assert name == loop.name == "again"
    assert anchors(flow, loop.calls) == ["again:linear", *(f"again@{at}:linear" for at in range(1, 9))]


@pytest.mark.parametrize("every", [1, 2, 4, 8, 9])
def test_the_state_is_what_later_iterations_need_and_no_sum(every):
    flow = dataflow(exported(Sums()))
    (loop,) = loops(flow).values()
    found = states(flow, loop, every)
    assert len(found) == 8 // every
    assert [len(state.values) for state in found] == [1] * len(found)
    assert [len(state.readers) for state in found] == [2] * len(found)
    assert not list(misstated(flow, loop, found))
    for state, at in zip(found, range(every, 9, every), strict=True):
        assert loop.calls[at] in state.readers


def test_a_weight_of_the_models_own_names_its_loop():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3))

        def forward(self, x):
            h = x[:, 0]
            for t in range(x.shape[1]):
                h = torch.tanh(h @ self.weight + x[:, t])
            return h

    assert list(loops(dataflow(exported(Bare())))) == ["weight"]


def test_calls_that_do_not_depend_on_one_another_are_no_loop():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.into = nn.Linear(3, 4)

        def forward(self, x):
            return torch.stack([self.into(x[:, t]) for t in range(x.shape[1])])

    assert loops(dataflow(exported(Heads()))) == {}


def test_a_weight_that_two_operations_read_is_no_loop():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.out = nn.Linear(3, 3), nn.Linear(3, 3)
            self.out.weight = self.into.weight

        def forward(self, x):
            return self.out(torch.tanh(self.into(x)))

    assert loops(dataflow(exported(Tied()))) == {}


def test_a_layer_over_a_sequence_is_no_loop_even_if_it_is_called_again():
    class Twice(Net):
        def forward(self, x):
            y, state = self.core(x)
            return y + self.core(x, state)[0]

    for capture in (exported, traced):
        flow = dataflow(capture(Twice(batch_first=True)))
        assert loops(flow) == {}
        assert recurrences(flow) == ("core",)
