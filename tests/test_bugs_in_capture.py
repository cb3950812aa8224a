"""One test for each kind of model code whose graph was once silently wrong on data unlike the example."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dni_fx
from dni_fx.errors import CaptureError
from tests.equality import assert_same
from tests.everyday import captures
from tests.test_bugs_in_code import Three


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-3, 3)


clip = Clip.apply


class Hooks(Three):
    def between(self, h):
        h.register_hook(lambda gradient: gradient.clamp(-3, 3))
        return h


class Clips(Three):
    def between(self, h):
        return clip(h)


class Recomputes(Three):
    def between(self, h):
        return checkpoint(clip, h, use_reentrant=True)


class Middle(nn.Module):
    def forward(self, h):
        return clip(h)


class BreaksBefore(Hooks):
    def between(self, h):
        torch._dynamo.graph_break()
        return super().between(h)


LOST = "whose backward would be lost"


def example():
    return torch.randn(8, 6, dtype=torch.float64)


def gradients(model, run, x):
    model.zero_grad()
    (1000 * run(x).sum()).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Hooks, "it calls register_hook on a tensor"),
        (Clips, "it calls the autograd function Clip"),
        (Recomputes, "it calls the autograd function CheckpointFunction"),
    ],
)
def test_a_backward_that_does_nothing_on_the_example_does_it_on_large_gradients(made, says):
    """The gradients of the example are small, so comparing them with the model's shows nothing."""
    model, x = made(), example()
    program = dni_fx.capture(model, (x,))
    cut = dni_fx.decouple(program, plan="at:after=a", synthesizer="zero", interface="dni:mix=1")
    assert f"train: export: {says}, {LOST}" in program.history
    through_the_cut = gradients(model, cut, x)
    for mine, plain in zip(through_the_cut, gradients(model, model, x), strict=True):
        assert_same(mine, plain)
    assert through_the_cut[0].abs().max() < 1000


def test_export_alone_refuses_a_backward_that_it_would_lose():
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(Hooks(), (example(),), frontend="export")
    assert str(caught.value) == f"it calls register_hook on a tensor, {LOST}"


def test_a_backward_inside_of_a_module_that_stays_whole_needs_no_other_front_end():
    model = nn.Sequential(nn.Linear(6, 6), Middle(), nn.Linear(6, 4)).double()
    program = dni_fx.capture(model, (example(),))
    assert not [line for line in program.history if "export" in line]
    assert [line for line in program.history if line.startswith("train: symbolic: kept 1 whole")]


def test_a_tensor_hook_between_two_graphs_of_dynamo_is_refused():
    """It is called by Python, after the first graph has run, and stays on no tensor of the joined graph."""
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(BreaksBefore(), (example(),), frontend="dynamo")
    assert str(caught.value) == f"it calls register_hook on a tensor between graphs, {LOST}"


class Counts(Three):
    def __init__(self):
        super().__init__()
        self.state = {"n": 0}

    def between(self, h):
        self.state["n"] += 1
        return h * min(1, self.state["n"] / 5)


class CountsInAnObject(Three):
    def __init__(self):
        super().__init__()
        self.state = SimpleNamespace(n=0)

    def between(self, h):
        self.state.n += 1
        return h * min(1, self.state.n / 5)


class CountsInAList(Three):
    def __init__(self):
        super().__init__()
        self.state = [[0]]

    def between(self, h):
        self.state[0][0] += 1
        return h * min(1, self.state[0][0] / 5)


class Replaces(Three):
    def __init__(self):
        super().__init__()
        self.state = {"mean": torch.zeros(6, dtype=torch.float64)}

    def between(self, h):
        self.state["mean"] = 0.9 * self.state["mean"] + h.detach().mean(0)
        return h - self.state["mean"]


class Writes(Three):
    def __init__(self):
        super().__init__()
        self.state = torch.ones(6, dtype=torch.float64)

    def between(self, h):
        return h - self.state.mul_(0.9)


@pytest.mark.parametrize("made", [Counts, CountsInAnObject, CountsInAList, Replaces, Writes])
@pytest.mark.parametrize("frontend", ["symbolic", "export"])
def test_state_that_is_changed_in_place_is_never_a_constant_of_the_graph(made, frontend):
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(made(), (example(),), frontend=frontend)
    assert str(caught.value) == "it sets state, which a graph would do once for all"


def test_state_that_is_changed_in_place_inside_of_a_submodule_keeps_it_whole():
    """The cut model counts on, step by step, as the model itself does."""
    model, x = nn.Sequential(nn.Linear(6, 6), Counts(), nn.Linear(4, 2)).double(), example()
    alone = copy.deepcopy(model)
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", frontend="symbolic")
    for _ in range(7):
        assert_same(cut(x), alone(x))


class Guards(Three):
    def between(self, h):
        try:
            if h.max() > 3:
                raise ValueError("too large")
        except ValueError:
            h = h * 0.5
        return h


class Asks(Three):
    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def between(self, h):
        try:
            return h * self.ask(h.max())
        except Exception:  # what is tested
            return h * 7


def test_an_error_of_the_tracer_that_the_code_catches_is_not_a_way_to_go():
    model, x = Guards(), example()
    cut = dni_fx.decouple(model, (x,), plan="at:after=a")
    for scale in (0.1, 100):
        assert_same(cut(scale * x), model(scale * x))


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (bool, "TraceError: symbolically traced variables cannot be used as inputs to control flow"),
        (int, "TypeError: int() of a value that is not known before the graph runs"),
        (float, "TypeError: float() of a value that is not known before the graph runs"),
        (len, "TypeError: len() of a value that is not known before the graph runs"),
        (range, "TypeError: index() of a value that is not known before the graph runs"),
        (sum, "TraceError: Proxy object cannot be iterated. This can be attempted when the Proxy is used"),
    ],
)
def test_symbolic_tracing_refuses_what_it_cannot_answer_even_if_the_code_goes_on(ask, says):
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(Asks(ask), (example(),), frontend="symbolic")
    assert str(caught.value).startswith(says)


def test_a_submodule_that_catches_an_error_of_the_tracer_stays_whole():
    model, x = nn.Sequential(nn.Linear(6, 6), Asks(int), nn.Linear(4, 2)).double(), example()
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", frontend="symbolic")
    for scale in (0.1, 100):
        assert_same(cut(scale * x), model(scale * x))


class Rows(nn.Module):
    """Asks for the size of its input, which torch.export traces."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.two(self.one(x if x.shape[1] < 100 else x[:, :100]).tanh())


@pytest.mark.parametrize(
    "part",
    [lambda x, at: x[at : at + 4], lambda x, at: x[:4, at : at + 3], lambda x, at: x[at].expand(4, 6, 4)],
    ids=["rows", "columns", "one for all"],
)
def test_a_graph_made_for_a_part_of_a_tensor_serves_the_other_parts(part):
    """The place of the part in the whole was found to be asked for, and each call made a graph anew."""
    cut = dni_fx.decouple(Rows(), plan="at:after=one", frontend="export")
    for at in (3, 0, 2):
        x = part(torch.randn(8, 6, 4), at)
        assert torch.equal(cut(x), dni_fx.recouple(cut)(x))
    assert captures(cut) == 1


def test_a_number_all_over_is_taken_by_a_graph_for_sequences_of_any_length():
    """It is what a process of several has of an input that it does not read, and made a graph anew for it."""
    cut = dni_fx.decouple(Rows(), plan="at:after=one", frontend="export")
    for length in (5, 6):
        cut(torch.randn(4, length, 4))
    cut(torch.zeros(()).expand(4, 7, 4))
    assert captures(cut) == 2
