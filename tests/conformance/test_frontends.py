"""A captured graph computes what the model computes, or the front-end says why there is none."""

import copy
import random

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.calls import call_of
from dni_fx.errors import CaptureError
from dni_fx.frontends import FRONTENDS
from dni_fx.program import signature_of
from passes.anchors import anchor_of
from passes.code import compile_graph
from tests.equality import assert_same, copied, objective
from tests.zoo import NEEDS_TWO_SAMPLES, ZOO, made, resized
from tests.zoo.plain import Chain
from tests.zoo.untraceable import (
    Around,
    Branches,
    DrawsAtTraceTime,
    OneBigOpaqueBlock,
    ReadsTwice,
    WithoutGradient,
)


def graph_of(program):
    ((_, capture),) = program.captures
    return capture


def runs(program, model, args):
    """Outputs of the graph and of the model, from one seed, on copies of the state."""
    capture = graph_of(program)
    tree = copied(program.tree)
    capture.install(tree)
    torch.manual_seed(0)
    ours = compile_graph(capture.graph)(tree, *(value.clone() for value in args))
    torch.manual_seed(0)
    theirs = copied(model)(*(value.clone() for value in args))
    return list(ours), torch.utils._pytree.tree_leaves(theirs)


def captured(name, frontend):
    model, inputs = made(name)
    try:
        return model, inputs, dni_fx.capture(model, inputs, frontend=frontend)
    except CaptureError as error:
        if frontend == "auto":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("frontend", list(FRONTENDS))
@pytest.mark.parametrize("name", ZOO)
def test_the_graph_computes_what_the_model_does_at_any_batch_size(name, frontend):
    model, inputs, program = captured(name, frontend)
    for batch in (3, 2, 7, 1):
        args = resized(inputs, batch)
        if batch == 1 and name in NEEDS_TWO_SAMPLES:
            continue
        if not graph_of(program).fits(call_of(signature_of(model), args, {})):
            assert batch != 3
            continue
        ours, theirs = runs(program, model, args)
        assert_same(ours, theirs)


@pytest.mark.parametrize("frontend", ["export", "symbolic"])
@pytest.mark.parametrize(
    "name", ["chain", "residual", "tied-weight", "chunk-and-cat", "convolutions", "lstm"]
)
def test_a_cut_model_is_right_whatever_captured_it(name, frontend):
    model, inputs = made(name)
    cut = dni_fx.decouple(
        copy.deepcopy(model), inputs, plan="balanced:stages=3", frontend=frontend, synthesizer="oracle"
    )
    for batch in (3, 7):
        args = resized(inputs, batch)
        assert_same(cut(*args), model(*args))
    objective(cut(*inputs)).backward()
    objective(model(*inputs)).backward()
    for name, parameter in model.named_parameters():
        assert_same(cut.get_parameter(name).grad, parameter.grad, tolerance=1e-10)


@pytest.mark.parametrize("frontend", list(FRONTENDS))
def test_anchors_are_unique_and_the_graph_calls_the_model_by_its_own_names(frontend):
    model, _, program = captured("convolutions", frontend)
    nodes = [
        node for node in graph_of(program).graph.nodes if node.op not in {"placeholder", "get_attr", "output"}
    ]
    anchors = [anchor_of(node) for node in nodes]
    assert len(set(anchors)) == len(anchors) > 5
    for node in graph_of(program).graph.nodes:
        if node.op == "call_module":
            assert model.get_submodule(node.target) is not None
        if node.op == "get_attr":
            assert node.target in model.state_dict()


@pytest.mark.parametrize(
    ("middle", "kept", "reason"),
    [
        (
            Branches,
            "middle",
            "TraceError: symbolically traced variables cannot be used as inputs to control flow",
        ),
        (DrawsAtTraceTime, "middle", "it draws random numbers that no traced operation makes"),
        (
            WithoutGradient,
            "middle",
            "a no_grad or autocast region, which a traced graph would leave out",
        ),
        (
            ReadsTwice,
            "middle.child",
            "TraceError: symbolically traced variables cannot be used as inputs to control flow",
        ),
    ],
)
def test_an_untraceable_submodule_stays_whole_and_leaves_no_partial_nodes(middle, kept, reason):
    model, (x,) = Around(middle()).double(), made("chain")[1]
    program = dni_fx.capture(model, (x,), frontend="symbolic")
    graph = graph_of(program).graph
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    assert kept in calls
    assert not [target for target in calls if target.startswith(f"{kept}.")]
    assert not [node for node in graph.nodes if node.op not in {"output", "placeholder"} and not node.users]
    assert f"train: symbolic: kept {kept} whole ({reason})" in program.history
    for batch in (3, 5):
        assert_same(*runs(program, model, resized((x,), batch)))
    cut = dni_fx.decouple(
        copy.deepcopy(model), (x,), plan="at:after=middle", frontend="symbolic", synthesizer="oracle"
    )
    for each in (cut, model):
        torch.manual_seed(1)
        objective(each(x)).backward()
    for name, parameter in model.named_parameters():
        assert_same(cut.get_parameter(name).grad, parameter.grad, tolerance=1e-10)


def test_a_model_that_draws_by_itself_is_not_for_symbolic_tracing():
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(DrawsAtTraceTime().double(), made("chain")[1], frontend="symbolic")
    assert str(caught.value) == ("it draws random numbers that no traced operation makes")


def test_a_region_without_gradient_at_the_top_is_not_for_symbolic_tracing():
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(WithoutGradient().double(), made("chain")[1], frontend="symbolic")
    assert str(caught.value) == ("a no_grad or autocast region, which a traced graph would leave out")


def test_auto_falls_back_to_export_where_a_module_with_most_parameters_stayed_whole():
    model, (x,) = OneBigOpaqueBlock().double(), made("chain")[1]
    program = dni_fx.capture(model, (x,))
    assert len(graph_of(program).graph.nodes) > 8
    said = "\n".join(program.history)
    assert "train: symbolic: kept block whole (TraceError" in said
    assert "symbolic: block stayed whole with most of the parameters, so a finer graph was tried" in said
    assert program.history[-1].startswith("train: export: ")


def test_auto_goes_back_to_the_coarser_graph_where_nothing_finer_can_be_had():
    class Gambles(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x) * (1 + 0 * random.random())
            return x

    model, (x,) = nn.Sequential(Gambles(), nn.Tanh()).double(), made("chain")[1]
    program = dni_fx.capture(model, (x,))
    assert [n.target for n in graph_of(program).graph.nodes if n.op == "call_module"] == ["0", "1"]
    assert program.history[-1] == "train: auto: went back to the coarser graph"


def test_auto_lists_what_each_front_end_said():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.weight * self.calls

    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(Counts().double(), made("chain")[1])
    first, *lines = str(caught.value).splitlines()
    assert first == "cannot capture Counts as a graph; its front-ends say:"
    assert [line.partition(":")[0] for line in lines] == ["  * symbolic", "  * export", "  * dynamo"]
    assert all(line.endswith(": it sets calls, which a graph would do once for all") for line in lines)


def test_auto_says_that_the_model_itself_fails():
    class Fails(Chain):
        def forward(self, x):
            return super().forward(x) @ self.layers[0].weight[:2]

    with pytest.raises(CaptureError, match="Fails itself fails on the example: RuntimeError: mat1 and mat2"):
        dni_fx.capture(Fails().double(), made("chain")[1])


def test_an_exported_batch_is_dynamic_from_an_example_of_one():
    model, (x,) = made("chain")
    program = dni_fx.capture(model, (x[:1],), frontend="export")
    assert graph_of(program).sizes.fixed == ((None, 6),)
    for batch in (1, 2, 9):
        assert_same(*runs(program, model, resized((x,), batch)))


def test_capturing_draws_no_random_numbers_and_moves_no_statistics():
    for frontend in FRONTENDS:
        for name in ("dropout", "batch-norm", "counts-calls"):
            model, inputs = made(name)
            before = {key: value.clone() for key, value in model.state_dict().items()}
            state = torch.get_rng_state()
            dni_fx.capture(model, inputs, frontend=frontend)
            assert torch.equal(torch.get_rng_state(), state)
            torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
