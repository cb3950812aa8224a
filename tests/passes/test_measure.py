import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.branches import follow
from passes.dataflow import computed, dataflow
from passes.errors import PreconditionError
from passes.measure import LEAST, MOST, measure
from tests.passes.graphs import Call, exported, kept


class Images(nn.Module):
    """Statistics, an in-place operation, dropout, a branch that joins again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        left, right = self.drop(y).flatten(1).chunk(2, dim=1)
        return self.head(torch.cat([left[:, :8], right[:, :8]], dim=1))


class Writes(nn.Module):
    """Writes into a slice of what a layer made, then reads all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y.select(1, 0).copy_(self.layer(x)[:, 1])
        self.count.add_(1)
        return y.mul_(self.count) + self.layer(x)


def called(function: Callable[..., Any], *layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, Call(function))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (Images, (2, 3, 6, 6)),
    "writes": (Writes, (3, 4)),
    "tuple": (lambda: called(lambda x: (x, x.argmax(1), [x.sum()]), nn.Linear(4, 4)), (3, 4)),
    "recurrent": (lambda: called(lambda x: x[0], nn.LSTM(4, 4, dropout=0.5, num_layers=2)), (3, 2, 4)),
    "integers": (lambda: called(lambda x: x.argmax(-1) + 1, nn.Linear(4, 4)), (3, 4)),
    "numbers": (lambda: called(lambda x: x[: int(x.sum().abs().item()) + 1], nn.Linear(4, 4)), (3, 4)),
    "identity": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Identity()), (3, 4)),
    "frozen": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False), (3, 4)),
    "checkpoint": (
        lambda: called(lambda x: checkpoint(torch.tanh, x, use_reentrant=False), nn.Linear(4, 4)),
        (3, 4),
    ),
}


def traced(model: nn.Module, example: Tensor) -> fx.GraphModule:
    return kept(model) if isinstance(model, nn.Sequential) else fx.symbolic_trace(model)


def ready(name: str, capture: Callable[..., fx.GraphModule] = traced) -> tuple[fx.GraphModule, Tensor]:
    make, shape = MODELS[name]
    x = torch.randn(shape)
    gm = capture(make(), x)
    set_anchors(gm.graph)
    annotate(gm, [x])
    return gm, x


def seconds(gm: fx.GraphModule) -> dict[str, float]:
    return {node.name: node.meta["seconds"] for node in gm.graph.nodes}


@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_computed_node_takes_time_and_nothing_else_does(name: str, needs: bool) -> None:
    gm, x = ready(name)
    measure(gm, [x.requires_grad_(needs)], budget=0)
    flow = dataflow(gm)
    for node, facts in flow.nodes(data=True):
        assert (facts["seconds"] > 0) == (node in computed(flow)), node


@pytest.mark.parametrize("name", ["images", "writes"])
def test_exported_graphs_are_measured_too(name: str) -> None:
    gm, x = ready(name, exported)
    measure(gm, [x], budget=0)
    assert all(each > 0 for name, each in seconds(gm).items() if name in computed(dataflow(gm)))


@pytest.mark.parametrize("name", MODELS)
def test_measuring_leaves_the_model_the_example_and_the_random_state_alone(name: str) -> None:
    gm, x = ready(name)
    before = {key: (value, value.clone()) for key, value in gm.state_dict(keep_vars=True).items()}
    versions = {key: value._version for key, (value, _) in before.items()}
    state, kept_x = torch.get_rng_state(), x.clone()
    with torch.no_grad():
        measure(gm, [x], budget=0)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept_x)
    assert x.grad is None
    assert gc.isenabled()
    for key, value in gm.state_dict(keep_vars=True).items():
        assert value is before[key][0]
        assert torch.equal(value, before[key][1])
        assert value._version == versions[key]
        assert value.grad is None


class Recorder(nn.Module):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, bool]] = SEEN

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append((x.detach().clone(), x.requires_grad))
        return x * 1


SEEN: list[tuple[Tensor, bool]] = []


@pytest.mark.parametrize(
    ("name", "capture"),
    [
        ("images", traced),
        ("writes", traced),
        ("checkpoint", traced),
        ("images", exported),
        ("writes", exported),
    ],
)
def test_every_node_is_given_the_values_and_gradients_of_a_plain_run(
    name: str, capture: Callable[..., fx.GraphModule]
) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    gm = capture(make(), x)
    last = next(iter(reversed(gm.graph.nodes)))
    (made,) = last.all_input_nodes
    gm.add_submodule("recorder", Recorder())
    with gm.graph.inserting_before(last):
        last.replace_input_with(made, gm.graph.call_module("recorder", (made,)))
    annotate(gm, [x])
    SEEN.clear()
    torch.manual_seed(1)
    measure(gm, [x], budget=0)
    found = list(SEEN)
    torch.manual_seed(1)
    fx.Interpreter(gm).run(x, enable_io_processing=False)
    wanted, _ = SEEN[-1]
    assert len(found) == 1 + LEAST
    for value, needs in found:
        assert torch.equal(value, wanted)
        assert needs


def test_more_time_is_more_rounds_up_to_a_limit() -> None:
    model = nn.Sequential(Recorder(), nn.Linear(4, 4))
    gm = kept(model)
    annotate(gm, [torch.ones(2, 4)])
    SEEN.clear()
    measure(gm, [torch.ones(2, 4, requires_grad=True)], budget=1000)
    assert len(SEEN) == 1 + MOST


def test_data_that_takes_another_way_is_measured_along_the_captured_one() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.ops.dni_fx.follow.default(x.sum() > 0, [1.0], 0)
            return x * 2

    assert follow is not None
    gm = fx.symbolic_trace(Branch())
    annotate(gm, [torch.ones(2)])
    measure(gm, [-torch.ones(2)], budget=0)
    assert seconds(gm)["mul"] > 0


def test_whoever_waits_is_told_how_much_is_done() -> None:
    gm, x = ready("images")
    told: list[tuple[int, int]] = []
    measure(gm, [x], budget=0, observe=lambda done, of: told.append((done, of)))
    assert told == [(done, 1 + MOST) for done in range(1, 1 + LEAST + 1)]


def test_a_node_that_fails_is_named() -> None:
    def sometimes(x: Tensor) -> Tensor:
        if isinstance(x, torch._subclasses.FakeTensor):
            return x * 2
        raise ValueError("no numbers, please")

    gm = kept(called(sometimes, nn.Linear(4, 4)))
    annotate(gm, [torch.ones(2, 4)])
    with pytest.raises(
        PreconditionError, match=r"cannot measure node _1 \(call_module 1\).*no numbers, please"
    ):
        measure(gm, [torch.ones(2, 4)])


def test_a_graph_is_annotated_before_it_is_measured() -> None:
    with pytest.raises(PreconditionError, match="cannot measure x, neg: annotate the graph first"):
        measure(fx.symbolic_trace(lambda x: -x), [torch.ones(2)])
