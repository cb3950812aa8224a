"""One test for each thing that a capture, or a run of a graph that failed, once left behind."""

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import CaptureError
from dni_fx.frontends.regions import run_region
from passes.annotate_shapes import annotate
from passes.switches import switches_kept
from tests.equality import assert_same, copied
from tests.zoo import made


class Averages(nn.Module):
    """A slow copy of a layer follows it in every forward pass."""

    def __init__(self):
        super().__init__()
        self.quick, self.slow, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.slow.requires_grad_(False)
        self.double()

    def forward(self, x):
        with torch.no_grad():
            self.slow.weight.mul_(0.9).add_(self.quick.weight * 0.1)
        return self.last(self.quick(x).relu() * self.slow(x))


class Shrinks(Averages):
    """A weight that learns is written to as well, and another one behind autograd's back."""

    def forward(self, x):
        with torch.no_grad():
            self.quick.weight.mul_(0.5)
        self.last.weight.data.renorm_(2, 0, 0.1)
        return self.last(self.quick(x).relu())


class Maps(nn.Module):
    """Three experts are run at once."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.weights, self.biases = nn.Parameter(torch.randn(3, 6, 6)), nn.Parameter(torch.randn(3, 6))
        self.double()

    def forward(self, x):
        x = self.first(x).relu()
        experts = torch.func.vmap(lambda weight, bias: x @ weight + bias)(self.weights, self.biases)
        return self.last(experts.mean(0))


class Picks(nn.Module):
    """Which row is read inside of a region depends on the data, and there may be no such row."""

    def __init__(self, region):
        super().__init__()
        self.region = region
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.double()

    def forward(self, x, at):
        h = self.first(x).relu()
        with self.region():
            row = torch.index_select(h.detach() * 2, 0, at)
        return self.last(h + row.to(h.dtype))


REGIONS = {
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def switches():
    depth = torch._C._functorch.get_dynamic_layer_stack_depth()
    torch.autocast_increment_nesting()
    nesting = torch.autocast_decrement_nesting()
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), nesting, depth


@pytest.mark.parametrize("frontend", ["export", "dynamo"])
@pytest.mark.parametrize("region", REGIONS)
def test_an_error_inside_of_a_region_of_a_graph_leaves_it(region, frontend):
    """Gradients were off until the process ended."""
    (x,) = made("chain")[1]
    at = torch.zeros(1, dtype=torch.int64)
    cut = dni_fx.decouple(Picks(REGIONS[region]), (x, at), plan="at:after=first", frontend=frontend)
    cut(x, at).sum().backward()
    before = switches()
    with pytest.raises(IndexError):
        cut(x, at + len(x))
    assert switches() == before
    cut(x, at).sum().backward()


def test_a_region_switches_back_what_it_switched_when_it_raises():
    def body():
        torch._C._functorch._vmap_increment_nesting(3, "error")
        torch.amp.autocast_mode._enter_autocast("cpu", torch.bfloat16, True, True)
        torch._C._set_grad_enabled(False)
        raise ValueError("inside")

    before = switches()
    for run in (lambda: run_region(body), switches_kept()(body)):
        with pytest.raises(ValueError, match="inside"):
            run()
        assert switches() == before
    torch.ones(2).requires_grad_()


@pytest.mark.parametrize("frontend", ["export", "dynamo", "auto"])
def test_vmap_in_forward_is_one_node_of_a_stage(frontend):
    """Nodes between its two ends held batched tensors, and the end never came."""
    (x,) = made("chain")[1]
    model = Maps()
    plain, before = copied(model), switches()
    cut = dni_fx.decouple(model, (x,), plan="at:after=first", interface="dni:mix=1", frontend=frontend)
    assert_same(cut(x), plain(x))
    for each in (cut, plain):
        each(x).sum().backward()
    assert_same([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()], 1e-10)
    assert switches() == before


def test_nodes_with_batched_tensors_are_annotated():
    graph = torch.export.export(Maps(), made("chain")[1], strict=False).module(check_guards=False)
    before = switches()
    annotate(graph, made("chain")[1])
    assert [tuple(n.meta["value"].shape) for n in graph.graph.nodes if n.name == "mean"] == [(3, 6)]
    assert switches() == before


@pytest.mark.parametrize("frontend", ["auto", "symbolic", "export", "dynamo"])
@pytest.mark.parametrize("kind", [Averages, Shrinks])
def test_capture_writes_to_no_parameter_of_a_model_that_does_so_in_forward(kind, frontend):
    """A model that follows itself was two steps ahead before its first batch."""
    model, (x,) = kind(), made("chain")[1]
    before = {name: (p.clone(), p._version) for name, p in model.named_parameters()}
    try:
        dni_fx.decouple(model, (x,), plan="balanced:stages=2", frontend=frontend)
    except CaptureError:
        assert frontend == "symbolic" or (kind, frontend) == (Shrinks, "export")
    assert_same({name: (p, p._version) for name, p in model.named_parameters()}, before)


@pytest.mark.parametrize("kind", [Averages, Shrinks])
def test_a_cut_model_writes_to_its_parameters_as_the_model_does(kind):
    model, (x,) = kind(), made("chain")[1]
    plain = copied(model)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2", interface="dni:mix=1")
    for _ in range(3):
        for each in (cut, plain):
            each.zero_grad()
            each(x).square().sum().backward()
        assert_same(dict(model.named_parameters()), dict(plain.named_parameters()))
        assert_same(model.quick.weight.grad, plain.quick.weight.grad, 1e-10)


def test_what_a_file_could_not_be_read_with_is_not_written(tmp_path):
    """The file was written, and `load` refused it."""
    cut = dni_fx.decouple(Maps(), made("chain")[1], plan="at:after=first")
    with pytest.raises(dni_fx.DniError, match=r"cannot export the graph: it calls .*, which is Python"):
        dni_fx.save(cut, tmp_path / "cut.pt2")
    assert not list(tmp_path.iterdir())
