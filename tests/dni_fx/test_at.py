import pytest
import torch
from torch import fx, nn

from dni_fx.errors import PlanError
from dni_fx.policies.at import At
from passes import UnknownNameError
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.dataflow import dataflow


def traced(model, *examples):
    gm = fx.symbolic_trace(model)
    set_anchors(gm.graph)
    annotate(gm, examples)
    return gm


def test_at_cuts_after_what_a_modules_last_call_returned():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.last(self.shared(torch.relu(self.shared(self.first(x)))))

    flow = dataflow(traced(Twice(), torch.zeros(2, 4)))
    assert list(At(("shared",)).plan(flow).stage_of.values()) == [0, 0, 0, 0, 1]
    assert list(At(("first",)).plan(flow).stage_of.values()) == [0, 1, 1, 1, 1]
    assert list(At((":relu", "first")).plan(flow).stage_of.values()) == [0, 1, 1, 2, 2]
    assert list(At(("shared_1",)).plan(flow).stage_of.values()) == [0, 0, 0, 0, 1]
    assert str(At((":relu", "first")).plan(flow).policy) == "at:after=:relu+first"


def test_a_block_is_named_by_its_path():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    flow = dataflow(traced(model, torch.zeros(2, 4)))
    assert list(At(("0", "1")).plan(flow).stage_of.values()) == [0, 0, 1, 1, 2, 2]


def test_names_of_parallel_values_are_one_cut():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.join = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x, y):
            return self.join(self.left(x) + self.right(y))

    flow = dataflow(traced(Towers(), torch.zeros(2, 4), torch.zeros(2, 4)))
    assert list(At(("left", "right")).plan(flow).stage_of.values()) == [0, 0, 1, 1]


def test_at_cuts_after_a_tuple_where_it_is_unpacked():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.last = nn.LSTM(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y, _ = self.lstm(x)
            return self.last(y)

    plan = At(("lstm",)).plan(dataflow(traced(Recurrent(), torch.zeros(2, 3, 4))))
    assert {anchor for anchor, stage in plan.stage_of.items() if stage} == {"last"}


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("layer.0", UnknownNameError, r"no value to cut after is named 'layer\.0'.*Did you mean 'layers\.0'"),
        ("qqqq", UnknownNameError, r"no anchor and no node\. The modules at the top are drop, layers\."),
        ("layers.2", PlanError, r"nothing that learns comes after layers\.2; name an earlier value"),
        ("drop", PlanError, r"no gradient runs through drop, so there is nothing to decouple"),
        ("layers.0", PlanError, r"layers\.0 must stay in one stage with :mul_, :add, which reads? it"),
    ],
)
def test_at_says_why_it_cannot_cut_there(name, error, says):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.drop = nn.Dropout()

        def forward(self, x):
            hidden = self.layers[0](self.drop(x))
            hidden.mul_(2)
            return self.layers[2](self.layers[1](hidden + x))

    with pytest.raises(error, match=says):
        At((name,)).plan(dataflow(traced(Writes(), torch.zeros(2, 4))))


def blocks():
    return dataflow(traced(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), torch.zeros(2, 4)))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (
            At(("0", "1"), avoid=("1",)),
            r"cannot be carried out:\n  \* avoid forbids a cut after 1; name another",
        ),
        (
            At(("0", "1"), together=("1&2",)),
            r"1 must stay in one stage with 2, which reads it: .* or a constraint",
        ),
        (At(("1",), together=("0&3",)), r"1 must stay in one stage with 2"),
    ],
)
def test_names_that_a_constraint_forbids_are_refused_with_the_reason(policy, says):
    with pytest.raises(PlanError, match=says):
        policy.plan(blocks())


def test_a_value_beside_the_named_ones_may_be_forbidden_to_cross():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            kept = self.first(x)
            return self.last(self.second(kept) + kept)

    flow = dataflow(traced(Skips(), torch.zeros(2, 4)))
    assert list(At(("second",)).plan(flow).stage_of.values()) == [0, 0, 1, 1]
    with pytest.raises(PlanError, match=r"first would cross to :add, and avoid forbids that; cut elsewhere"):
        At(("second",), avoid=("first",)).plan(flow)


def test_constraints_that_ask_for_nothing_here_change_nothing():
    flow = blocks()
    plain = At(("1",)).plan(flow).stage_of
    assert At(("1",), avoid=("0", "2"), together=("0&1", "2&3"), tied=True).plan(flow).stage_of == plain
