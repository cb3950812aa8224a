import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from dni_fx.errors import PlanError
from dni_fx.policies import POLICIES
from dni_fx.policies.at import At
from dni_fx.policies.balanced import Balanced
from dni_fx.policies.bottleneck import Bottleneck
from dni_fx.policies.min_cut import MinCut
from passes import Pipeline, UnknownNameError, parse
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.constraints import constrained
from passes.dataflow import carrying, computed, dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.split_stages import split_stages
from tests.flows import Sketch, fact, graphs


def anchors(flow):
    return [flow.nodes[name]["anchor"] for name in computed(flow)]


def policies(flow, **constraints):
    """Some of each kind; what they cut after is drawn from the graph."""
    values = [flow.nodes[name]["anchor"] for name in carrying(flow)]
    for cls in (Balanced, Bottleneck, MinCut):
        for count in (2, 3):
            yield cls(stages=count, **constraints)
    yield from (At((value,), **constraints) for value in values[:4])


def plans(flow, **constraints):
    for policy in policies(flow, **constraints):
        try:
            yield policy, policy.plan(flow)
        except PlanError:
            continue


def crossing(flow, plan):
    """Anchors of the carrying values that cross."""
    held = set(carrying(flow))
    stage = {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}
    return {
        flow.nodes[name]["anchor"]
        for name in held
        if any(stage[reader] > stage[name] for reader in held.intersection(flow.succ[name]))
    }


@settings(deadline=None, max_examples=80)
@given(gm=graphs(), data=st.data())
def test_every_plan_of_every_policy_keeps_what_is_asked(gm, data):
    flow = dataflow(gm)
    some = st.lists(st.sampled_from(anchors(flow)), max_size=2, unique=True)
    pairs = data.draw(st.lists(st.tuples(*[st.sampled_from(anchors(flow))] * 2), max_size=2))
    avoid = tuple(data.draw(some))
    together = tuple("&".join(pair) for pair in pairs)
    for policy, plan in plans(flow, together=together, avoid=avoid):
        assert list(plan.problems(gm.graph)) == []
        assert all(plan.stage_of[one] == plan.stage_of[other] for one, other in pairs)
        assert crossing(flow, plan).isdisjoint(avoid)
        assert parse(plan.policy, POLICIES) == policy


@st.composite
def sharing(draw):
    """Graphs whose operations read one of three weights, or a weight made of some of them."""
    sketch = Sketch()
    weights = []
    for number in range(3):
        setattr(sketch.root, f"weight{number}", nn.Parameter(torch.zeros(())))
        node = sketch.graph.get_attr(f"weight{number}")
        node.meta["value"] = fact(requires_grad=True)
        weights.append(node)
    made = [*weights]
    tips = [sketch.inputs[0]]
    for kind in draw(st.lists(st.sampled_from(["learned"] * 3 + ["made", "plain"]), min_size=3, max_size=9)):
        weight = draw(st.sampled_from(made))
        if kind == "made":
            made.append(sketch.add(weight, draw(st.sampled_from([*made, sketch.frozen]))))
        else:
            tip = draw(st.sampled_from(tips[-2:]))
            tips.append(
                sketch.add(tip, *([weight] if kind == "learned" else []), flops=draw(st.integers(0, 3)))
            )
    unread = [node for node in tips[1:] if not node.users] or tips[-1:]
    return sketch.done(*unread)


@settings(deadline=None, max_examples=80)
@given(gm=sharing())
def test_tied_plans_have_each_parameter_in_one_stage(gm):
    flow = dataflow(gm)
    for _, plan in plans(flow, tied=True):
        marked = Pipeline((MarkBoundaries(plan),)).run(gm)
        owned = [name for part in split_stages(marked, plan).parts for name in part.parameters]
        assert len(owned) == len(set(owned))


@settings(deadline=None, max_examples=80)
@given(gm=graphs(), data=st.data())
def test_constraints_only_ever_add_to_the_dataflow(gm, data):
    flow = dataflow(gm)
    before = {name: dict(facts) for name, facts in flow.nodes(data=True)}
    some = st.lists(st.sampled_from(anchors(flow)), max_size=3).map(tuple)
    together, avoid = data.draw(some), data.draw(some)
    changed = constrained(flow, together, avoid, data.draw(st.booleans()))
    assert {name: dict(facts) for name, facts in flow.nodes(data=True)} == before
    assert changed.graph == flow.graph
    assert list(changed.edges(data=True)) == list(flow.edges(data=True))
    for one in computed(flow):
        assert flow.nodes[one]["crossable"] >= changed.nodes[one]["crossable"]
        if (number := flow.nodes[one]["together"]) is not None:
            mates = {other for other in flow if flow.nodes[other]["together"] == number}
            assert len({changed.nodes[other]["together"] for other in mates} - {None}) == 1


def test_no_constraint_gives_the_dataflow_itself():
    flow = dataflow(chain())
    assert constrained(flow) is flow


def traced(model, *examples):
    gm = fx.symbolic_trace(model)
    set_anchors(gm.graph)
    annotate(gm, examples)
    return gm


def chain(count=4):
    return traced(nn.Sequential(*(nn.Linear(4, 4) for _ in range(count))), torch.zeros(2, 4))


def test_a_path_means_all_values_inside_and_a_pattern_all_that_match():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)))
    flow = dataflow(traced(model, torch.zeros(2, 4)))
    stages = MinCut(2, together=("1&2",)).plan(flow).stage_of
    assert stages["1.0"] == stages["1.1"] == stages["2.0"] == stages["2.1"]
    assert crossing(flow, MinCut(2, avoid=("1", "?.0")).plan(flow)) <= {"0.1", "2.1"}


def test_what_is_not_one_tensor_stands_for_its_parts():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.lstm, self.last = nn.Linear(4, 4), nn.LSTM(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y, _ = self.lstm(self.first(x))
            return self.last(y)

    flow = dataflow(traced(Recurrent(), torch.zeros(2, 3, 4)))
    assert crossing(flow, Bottleneck(2, avoid=("lstm",)).plan(flow)) == {"first"}


def test_constraints_that_leave_too_few_places_are_refused_with_those_that_are_left():
    flow = dataflow(chain())
    for cls in (Balanced, Bottleneck, MinCut):
        for constraint in ({"avoid": ("1",)}, {"together": ("1&2",)}):
            with pytest.raises(PlanError, match=r"in 2 places .*0, 2\)\. Ask for at most 3"):
                cls(stages=4, **constraint).plan(flow)


def test_constraints_that_leave_no_place_at_all_are_refused():
    flow = dataflow(chain())
    for cls in (Balanced, Bottleneck, MinCut):
        with pytest.raises(PlanError, match="can be cut nowhere"):
            cls(stages=2, avoid=("*",)).plan(flow)
        assert len(cls(stages=1, avoid=("*",)).plan(flow)) == 1


def test_all_names_that_mean_nothing_are_told_with_what_comes_close():
    model = nn.Sequential()
    model.encoder, model.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    flow = dataflow(traced(model, torch.zeros(2, 4)))
    with pytest.raises(UnknownNameError) as error:
        MinCut(2, together=("encodr&decoder",), avoid=("qqq",)).plan(flow)
    assert "'encodr' matches no value and no module. Did you mean 'encoder'" in str(error.value)
    assert "'qqq' matches no value" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "min-cut:together=layers.0&layers.1+head,avoid=*.attention,tied=true",
        "at:after=a+b,avoid=x:add.1",
        "every:module=Block,avoid=layers.1",
    ],
)
def test_constraints_are_text_and_back(text):
    assert str(parse(text, POLICIES)) == text


def test_tied_weights_and_weights_made_of_them_are_kept_together():
    sketch = Sketch()
    made = sketch.add(sketch.weight, sketch.frozen)
    again = sketch.add(made)
    first = sketch.add(sketch.inputs[0], made, flops=1)
    last = sketch.add(sketch.add(first, flops=1), again, flops=1)
    flow = constrained(dataflow(sketch.done(last)), tied=True)
    assert len({flow.nodes[node.name]["together"] for node in (made, again, first, last)}) == 1


def test_what_is_only_sent_along_is_not_held_together():
    sketch = Sketch()
    size = sketch.add(sketch.frozen)  # has no gradient, so it is computed once and sent
    first = sketch.add(sketch.inputs[0], size, sketch.weight)
    second = sketch.add(first, size)
    flow = constrained(dataflow(sketch.done(second)), tied=True)
    assert {flow.nodes[node.name]["together"] for node in (size, first, second)} == {None}
