"""What one can hand in: modules, graphs and exported programs; what else is refused, and how."""

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.errors import CaptureError
from tests.equality import assert_same, gradients, seeded
from tests.zoo import made
from tests.zoo.plain import Chain

OPEN = ({0: torch.export.Dim("batch")},)


def net():
    torch.manual_seed(0)
    layers = (nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    return nn.Sequential(*layers).double()


def exported(model, x):
    return torch.export.export(model, (x,), dynamic_shapes=OPEN)


def by_hand():
    """A graph that nobody traced: an input with a default, and outputs in a dictionary."""
    graph = fx.Graph()
    x, scale = graph.placeholder("x"), graph.placeholder("scale", default_value=2.0)
    first = graph.call_module("0", (x,))
    hidden = graph.call_function(torch.mul, (graph.call_function(torch.tanh, (first,)), scale))
    out = graph.call_module("3", (hidden,))
    graph.output({"out": graph.call_module("5", (out,)), "all": [hidden, (1, None)]})
    return fx.GraphModule(net(), graph)


GRAPHS = {
    "traced": lambda x: fx.symbolic_trace(net()),
    "traced by input": lambda x: fx.symbolic_trace(Chain().double(), concrete_args={"x": fx.PH}),
    "exported": lambda x: exported(net(), x).module(),
    "by hand": lambda x: by_hand(),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_taken_as_it_is(name, tmp_path):
    (x,) = made("chain")[1]
    model = GRAPHS[name](x)
    nodes = len(model.graph.nodes)
    cut = dni_fx.decouple(copy_of(model), (x,), plan="balanced:stages=2", synthesizer="linear")
    history = cutting_of(cut).program.history
    assert history[0].startswith("train: captured: ")
    assert int(history[0].split()[2]) <= nodes
    assert [n for n, _ in cut.named_parameters() if not n.startswith("dni.")] == names(model)
    for batch in (x, torch.cat([x, x])):
        assert_same(seeded(cut, (batch,)), seeded(model, (batch,)))
    assert dni_fx.verify(cut).ok
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    assert_same(seeded(again, (x,)), seeded(model, (x,)))


def copy_of(model):
    """The graph may hold tree specs, of which torch's own copying warns."""
    return dni_fx.recouple(model)


def names(model):
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_was_handed_in_has_the_gradients_of_its_own_forward(name):
    (x,) = made("chain")[1]
    model = GRAPHS[name](x)
    cut = dni_fx.decouple(copy_of(model), (x,), plan="balanced:stages=2", synthesizer="oracle")
    ours = {k: v for k, v in gradients(cut, (x,)).items() if not k.startswith("dni.")}
    assert_same(ours, gradients(model, (x,)), tolerance=1e-10)


def test_another_front_end_traces_a_graph_anew():
    model, (x,) = fx.symbolic_trace(net()), made("chain")[1]
    assert dni_fx.capture(model, (x,), frontend="symbolic").history == ["train: symbolic: 8 nodes"]
    assert dni_fx.capture(model, (x,)).history == ["train: captured: 8 nodes, as they were handed in"]


def test_arguments_of_a_graph_go_to_its_own_inputs():
    model, (x,) = by_hand(), made("chain")[1]
    cut = dni_fx.decouple(copy_of(model), (x,), plan="balanced:stages=2")
    for args, kwargs in (((x,), {}), ((x, 3.0), {}), ((), {"scale": 0.5, "x": x}), ((x, x[:, :1]), {})):
        assert_same(seeded(cut, args, kwargs), seeded(model, args, kwargs))


def test_a_graph_takes_tensors_in_containers():
    graph = fx.Graph()
    batch = graph.placeholder("batch")
    out = graph.call_module("0", (graph.call_function(operator.getitem, (batch, "x")),))
    graph.output(graph.call_module("3", (graph.call_module("1", (out,)),)))
    model, (x,) = fx.GraphModule(net(), graph), made("chain")[1]
    cut = dni_fx.decouple(copy_of(model), ({"x": x},), plan="balanced:stages=2")
    assert_same(cut({"x": x}), model({"x": x}))


def test_a_graph_that_its_code_does_not_follow_is_refused():
    model, (x,) = fx.symbolic_trace(net()), made("chain")[1]
    for node in model.graph.find_nodes(op="call_module", target="4"):
        node.replace_all_uses_with(node.args[0])
        model.graph.erase_node(node)
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(model, (x,))
    assert str(caught.value) == (
        "cannot capture Sequential: its graph was changed after its code was made. Call recompile() on it."
    )
    model.recompile()
    assert_same(seeded(dni_fx.decouple(model, (x,)), (x,)), seeded(model, (x,)))


def plain():
    """A model whose exported graph serves both modes."""
    return made("chain")


def test_an_exported_program_is_cut_without_an_example_and_trains_its_own_parameters(tmp_path):
    model, (x,) = plain()
    program = exported(model, x)
    captured = dni_fx.capture(program)
    assert captured.history == ["train: exported: 22 nodes, as they were handed in"]
    cut = dni_fx.decouple(program, plan="balanced:stages=3")
    assert cut.get_parameter("layers.0.weight") is program.state_dict["layers.0.weight"]
    for batch in (x, torch.cat([x, x])):
        assert_same(cut(batch), model(batch))
    assert dni_fx.verify(cut).ok
    dni_fx.train(cut, [(x, torch.zeros(3, 6).double())], loss=F.mse_loss, runtime="local", progress=False)
    dni_fx.save(cut, tmp_path / "cut.pt2")
    assert_same(dni_fx.load(tmp_path / "cut.pt2")(x), cut(x))


def test_an_exported_program_has_the_modes_that_its_operations_have():
    model, (x,) = net(), made("chain")[1]
    with pytest.raises(CaptureError) as caught:
        dni_fx.decouple(exported(model.eval(), x))
    assert str(caught.value) == (
        "this exported program holds no graph for train mode: it was exported in the other mode, which is "
        "part of its operations; export it again in this one."
    )
    cut = dni_fx.decouple(exported(model.train(), x))
    assert_same(seeded(cut, (x,)), seeded(model, (x,)))
    with pytest.raises(CaptureError, match="this exported program holds no graph for eval mode"):
        cut.eval()(x)


def test_one_model_is_cut_twice_and_stays_as_it_was():
    model, (x,) = made("chain")
    kept = dict(vars(model))
    two, three = (dni_fx.decouple(model, (x,), plan=f"balanced:stages={n}") for n in (2, 3))
    assert [len(dni_fx.stages(cut)) for cut in (two, three)] == [2, 3]
    assert two.layers[0].weight is three.layers[0].weight is model.layers[0].weight
    assert type(model) is Chain
    assert vars(model) == kept


def test_a_model_on_the_meta_device_is_planned_there_and_cut_at_its_first_batch():
    _, (x,) = made("chain")
    model = copy.deepcopy(net()).to("meta")
    plan = dni_fx.plan(dni_fx.capture(model, x.to("meta")), "balanced:stages=3")
    cut = dni_fx.decouple(model, x.to("meta"), plan=plan).to_empty(device="cpu")
    assert not dni_fx.boundaries(cut)
    cut.load_state_dict(net().state_dict())
    for _ in range(2):
        seeded(cut, (x,)).sum().backward()
    assert len(dni_fx.stages(cut)) == 3
    assert_same(seeded(cut, (x,)), seeded(net(), (x,)))
    assert dni_fx.verify(cut).ok


def test_what_is_decoupled_in_inference_mode_can_be_trained():
    model, (x,) = net(), made("chain")[1]
    with torch.inference_mode():
        cut = dni_fx.decouple(model, (x.clone(),))
        program = dni_fx.capture(model, (x.clone(),))
    for each in (cut, dni_fx.decouple(program)):
        for _ in range(2):
            each(x).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
