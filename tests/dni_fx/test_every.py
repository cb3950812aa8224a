import pytest
import torch
from torch import fx, nn

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.errors import PlanError
from dni_fx.policies.at import At
from dni_fx.policies.every import Every
from passes import UnknownNameError
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.classes import classes_of
from passes.dataflow import dataflow


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.inner(x)) + x


class Stack(nn.Module):
    def __init__(self, count=5):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.layers = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def traced(model, *examples):
    gm = fx.symbolic_trace(model)
    set_anchors(gm.graph)
    annotate(gm, examples or [torch.zeros(2, 4)])
    return gm


def stages(policy, model, *examples):
    return dict(policy.plan(dataflow(traced(model, *examples))).stage_of)


def test_each_module_of_a_class_ends_a_stage():
    flow = dataflow(traced(Stack()))
    by_name = At(tuple(f"layers.{at}" for at in range(5))).plan(flow).stage_of
    for pattern in ("Block", "B*k", "layers.*", "layers.?"):
        assert Every((pattern,)).plan(flow).stage_of == by_name


@pytest.mark.parametrize("frontend", ["symbolic", "export", "dynamo"])
def test_classes_are_known_whatever_captured_the_graph(frontend):
    gm = training_graph(dni_fx.capture(Stack(), (torch.zeros(2, 4),), frontend=frontend))
    classes = classes_of(gm)
    assert {path for path, kind in classes.items() if kind == "Block"} == {f"layers.{at}" for at in range(5)}
    assert {path for path, kind in classes.items() if kind == "Linear"} >= {"stem", "head", "layers.0.inner"}
    assert len(Every(("Block",)).plan(dataflow(gm))) == 6


def test_every_second_one():
    plan = stages(Every(("Block",), step=2), Stack())
    found = [plan[f"layers.{at}:add"] for at in range(5)]
    assert found == [0, 0, 1, 1, 2]


def test_nothing_is_cut_after_the_last_match_if_nothing_learns_there():
    plan = stages(Every(("Linear",)), nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)), nn.Tanh()))
    assert plan == {"0": 0, "1": 1, "2": 2, "3": 3}
    plan = stages(Every(("Linear",)), nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))))
    assert plan == {"0": 0, "1": 1, "2": 2}


def test_of_modules_inside_one_another_the_outermost_counts():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))) for _ in range(3)))
    assert list(stages(Every(("Sequential",)), model).values()) == [0, 0, 1, 1, 2, 2]
    assert list(stages(Every(("Sequential", "Linear")), model).values()) == [0, 0, 1, 1, 2, 2]


def test_a_module_that_runs_several_times_counts_at_its_last_call():
    class Twice(Stack):
        def forward(self, x):
            first, second = self.layers[:2]
            return self.head(second(first(second(first(x)))))

    flow = dataflow(traced(Twice()))
    assert Every(("Block",)).plan(flow).stage_of == At(("layers.0", "layers.1")).plan(flow).stage_of


def test_towers_are_cut_side_by_side():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = (nn.Sequential(Block(), Block()) for _ in range(2))
            self.join = nn.Linear(4, 4)

        def forward(self, x, y):
            return self.join(self.left(x) + self.right(y))

    plan = stages(Every(("Block",)), Towers(), torch.zeros(2, 4), torch.zeros(2, 4))
    assert [plan[f"{side}.{at}:add"] for side in ("left", "right") for at in range(2)] == [0, 1, 0, 1]
    assert plan["join"] == 2


def test_modules_without_a_gradient_are_passed_over():
    model = Stack()
    for frozen in (model.stem, model.layers[0], model.layers[1]):
        frozen.requires_grad_(False)
    plan = stages(Every(("Block",)), model)
    assert [plan[f"layers.{at}:add"] for at in (2, 3, 4)] == [0, 1, 2]
    assert plan["head"] == 3


def test_constraints_are_kept():
    plan = stages(Every(("Block",), avoid=("layers.1:add",), together=("layers.2&layers.3",)), Stack())
    assert [plan[f"layers.{at}:add"] for at in range(5)] == [0, 1, 1, 1, 2]


def test_no_pattern_is_one_stage():
    assert set(stages(Every(), Stack()).values()) == {0}


@pytest.mark.parametrize(
    ("policy", "error", "says"),
    [
        (Every(("Blok",)), UnknownNameError, r"matches 'Blok'\. Did you mean 'Block'\? .* Block, Linear"),
        (
            Every(("Block", "q")),
            UnknownNameError,
            r"no module in this graph has a class or a path that matches 'q'",
        ),
        (
            Every(("head",)),
            PlanError,
            r"matches head, and a cut can lie after none:\n  \* nothing that learns",
        ),
        (Every(("Block",), avoid=("*",)), PlanError, r"avoid forbids a cut after layers\.0:add"),
        (Every(("Block",), step=9), PlanError, r"every 9-th of .* there are 5: layers\.0, layers\.1"),
        (Every(("Block",), step=0), PlanError, r"every 0-th module; it is the first or a later one"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(policy, error, says):
    with pytest.raises(error, match=says):
        stages(policy, Stack())


def test_a_module_without_a_gradient_alone_is_refused():
    model = Stack()
    model.stem.requires_grad_(False)
    with pytest.raises(PlanError, match="no gradient runs through stem"):
        stages(Every(("stem",)), model)


def test_a_value_that_may_not_cross_and_would_is_refused():
    class Skips(Stack):
        def forward(self, x):
            skip = self.stem(x)
            for layer in self.layers:
                x = layer(x)
            return self.head(x + skip)

    with pytest.raises(PlanError, match=r"stem would cross to :add, and avoid forbids that"):
        stages(Every(("Block",), avoid=("stem",)), Skips())
