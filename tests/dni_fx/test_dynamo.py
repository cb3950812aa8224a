"""The graphs that TorchDynamo makes of a run are one graph, with what Python did in between."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import CaptureError
from dni_fx.frontends.regions import outlined, run_region
from tests.equality import assert_same, buffers_of, gradients


class BreaksInALoop(nn.Module):
    """A graph break in a loop, which TorchDynamo leaves to Python, layers and all."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        for layer in self.layers:
            x = self.drop(torch.tanh(self.norm(layer(x)))) + x
            torch._dynamo.graph_break()
            x = x[:, [1, 0, 2, 3, 4, 5]]
            x = x.clone()
            x[:, 0] *= 2
        return x, x.mean()


class Regions(nn.Module):
    """Parts without gradients, and a part in lower precision, with a graph break in the first."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        with torch.no_grad():
            scale = x.abs().mean()
            torch._dynamo.graph_break()
            scale = scale + 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.middle(x)
        return self.last(x + y.to(x.dtype)) / scale


class ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, up):
        return -up


class OwnBackward(nn.Module):
    """A backward of its own in the outermost code, which non-strict export would lose."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.last(ReversedGradient.apply(torch.tanh(self.first(x))))


@torch._dynamo.disable
def ranks(x):
    return torch.from_numpy(np.sort(x.detach().numpy()))


class LeavesTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        return self.last(x * ranks(x))


class SetsUpOnce(nn.Module):
    """The first call makes something that all later ones read."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.linspace(0, 1, 6, dtype=x.dtype)
        return self.last(torch.tanh(self.first(x)) * self.table)


def inputs(batch=4):
    return (torch.randn(batch, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(batch)),)


@pytest.mark.parametrize("make", [BreaksInALoop, Regions, OwnBackward, SetsUpOnce])
@pytest.mark.parametrize("frontend", ["dynamo", "auto"])
def test_a_cut_of_it_is_exact(make, frontend):
    torch.manual_seed(0)
    model = make().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", synthesizer="oracle", frontend=frontend)
    for batch in (4, 2, 7):
        assert_same(gradients(cut, inputs(batch)), gradients(model, inputs(batch)), tolerance=1e-10)
        assert_same(buffers_of(cut), buffers_of(model))


def test_what_leaves_torch_is_refused():
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(LeavesTorch().double(), inputs(), frontend="dynamo")
    assert (
        str(caught.value) == "Python takes the numbers out of a tensor (numpy) and may do anything with them"
    )


def test_a_region_is_one_node_and_reads_parameters_from_the_model():
    program = dni_fx.capture(Regions().double(), inputs(), frontend="dynamo")
    ((_, capture),) = program.captures
    regions = [node for node in capture.graph.nodes if node.target is run_region]
    assert len(regions) >= 2
    names = {"first", "middle", "last"}
    read = {str(n.target).partition(".")[0] for n in capture.graph.nodes if n.op == "get_attr"}
    assert names <= read
    assert not [n for n in capture.graph.nodes if "grad_enabled" in str(n.target)]


def test_a_region_without_an_end_is_refused():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch._C._set_grad_enabled, (False,))
    graph.output([graph.call_function(torch.relu, (x,))])
    with pytest.raises(CaptureError, match="a region that begins with _set_grad_enabled does not end"):
        outlined(graph, {})


def test_capturing_leaves_the_settings_and_the_compiled_code_of_others_alone():
    model = BreaksInALoop().double()
    compiled = torch.compile(model, backend="eager")
    compiled(*inputs())
    before = torch._dynamo.utils.counters["frames"]["total"]
    limit = torch._dynamo.config.recompile_limit
    for _ in range(limit + 1):
        dni_fx.capture(model, inputs(), frontend="dynamo")
    assert torch._dynamo.config.recompile_limit == limit
    made = torch._dynamo.utils.counters["frames"]["total"]
    assert made > before
    compiled(*inputs())
    assert torch._dynamo.utils.counters["frames"]["total"] == made


def test_a_second_model_of_the_class_is_not_taken_for_the_first():
    for seed in range(2):
        torch.manual_seed(seed)
        model = BreaksInALoop().double()
        cut = dni_fx.decouple(copy.deepcopy(model), inputs(), plan="bottleneck", frontend="dynamo")
        assert_same(gradients_of_plain(cut), gradients_of_plain(model))


def gradients_of_plain(model):
    torch.manual_seed(0)
    return model(*inputs())
