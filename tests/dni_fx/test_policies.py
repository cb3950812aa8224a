import time
from itertools import combinations, pairwise

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
from passes import Plan, parse
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.dataflow import carrying, computed, dataflow
from tests.flows import Sketch, all_cuts, crossing, graphs, stages_by_definition, working


def traced(model, *examples):
    gm = fx.symbolic_trace(model)
    set_anchors(gm.graph)
    annotate(gm, examples)
    return gm


def chain(*sizes):
    return traced(nn.Sequential(*map(nn.Linear, sizes, sizes[1:])), torch.zeros(2, sizes[0]))


def stages(flow, plan):
    return {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}


def score(flow, stage_of):
    """Cost of the costliest stage, and the bytes of all values that cross, each once."""
    counted = not any(flow.nodes[name]["flops"] for name in carrying(flow))
    cost = [0] * (1 + max(stage_of.values()))
    for name, stage in stage_of.items():
        cost[stage] += flow.nodes[name]["carries"] if counted else flow.nodes[name]["flops"]
    cuts = [{name for name in carrying(flow) if stage_of[name] <= stage} for stage in range(len(cost) - 1)]
    sent = {name for inside in cuts for name in crossing(flow, inside)}
    return max(cost), sum(flow.nodes[name]["bytes"] for name in sent)


def best_by_trying_all(flow, count, width):
    """The best score of all sequences of nested cuts, or None."""
    cuts = sorted(all_cuts(flow, width), key=len)
    nested = (
        several
        for several in combinations(cuts, count - 1)
        if all(one < two and working(flow) & (two - one) for one, two in pairwise(several))
    )
    return min((score(flow, stages_by_definition(flow, several)) for several in nested), default=None)


@settings(deadline=None, max_examples=100)
@given(gm=graphs(most=6, ends=3), count=st.integers(2, 4), width=st.integers(1, 2))
def test_balanced_is_the_best_of_all_plans_of_its_width(gm, count, width):
    flow = dataflow(gm)
    best = best_by_trying_all(flow, count, width)
    try:
        plan = Balanced(stages=count, width=width).plan(flow)
    except PlanError:
        assert best_by_trying_all(flow, count, 2) is None
    else:
        assert best is None or score(flow, stages(flow, plan)) == best


@settings(deadline=None, max_examples=100)
@given(gm=graphs(most=6, ends=3), count=st.integers(2, 4))
def test_bottleneck_is_the_best_of_all_plans_of_width_one_or_refuses(gm, count):
    flow = dataflow(gm)
    best = best_by_trying_all(flow, count, 1)
    if best is None:
        with pytest.raises(PlanError, match=f"asks for {count} stages"):
            Bottleneck(count).plan(flow)
    else:
        assert score(flow, stages(flow, Bottleneck(count).plan(flow))) == best


def plans(gm):
    """Each policy's plans of a graph, as far as it has any."""
    flow = dataflow(gm)
    named = [(name,) for name in carrying(flow)] + [tuple(carrying(flow)[::2])]
    choices = [Bottleneck(2), Bottleneck(3), Balanced(2), Balanced(3), Balanced(2, 1), Balanced(3, 4)]
    for policy in choices + list(map(At, named)):
        try:
            yield policy, policy.plan(flow)
        except PlanError:
            continue


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_every_plan_of_every_policy_can_be_carried_out(gm):
    flow = dataflow(gm)
    for policy, plan in plans(gm):
        assert list(plan.problems(gm.graph)) == []
        assert len(plan) == getattr(policy, "stages", len(plan))
        assert parse(plan.policy, POLICIES) == policy
        assert Plan.from_json(plan.to_json()) == plan
        stage_of = stages(flow, plan)
        for name, stage in stage_of.items():
            facts = flow.nodes[name]
            assert all(stage_of[earlier] <= stage for earlier in facts["follows"])
            assert facts["together"] is None or {
                stage_of[other] for other in stage_of if flow.nodes[other]["together"] == facts["together"]
            } == {stage}
        drawn = [stage for name, stage in stage_of.items() if flow.nodes[name]["random"]]
        assert drawn == sorted(drawn)


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_only_tensors_cross_and_weights_are_there_where_they_are_read(gm):
    flow = dataflow(gm)
    for _, plan in plans(gm):
        stage_of = stages(flow, plan)
        for source, reader in flow.edges:
            if source not in stage_of or reader not in stage_of:
                continue
            facts = flow.nodes[source]
            if stage_of[source] < stage_of[reader] and facts["requires_grad"] and not facts["fed"]:
                assert stage_of[reader] in plan.copies[facts["anchor"]]
            if stage_of[source] < stage_of[reader] and facts["carries"] and flow.nodes[reader]["carries"]:
                assert facts["is_tensor"]


def test_stages_cost_the_same_where_they_can():
    gm = chain(8, 8, 8, 8, 8, 8, 8)
    flow = dataflow(gm)
    assert list(Bottleneck(3).plan(flow).stage_of.values()) == [0, 0, 1, 1, 2, 2]
    assert list(Balanced(6).plan(flow).stage_of.values()) == [0, 1, 2, 3, 4, 5]


def test_of_equally_balanced_cuts_the_one_that_sends_least_is_taken():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for flops, size in [(5, 1), (0, 9), (0, 2), (0, 7), (5, 3)]:
        tip = sketch.add(tip, sketch.weight, flops=flops, bytes=size)
    flow = dataflow(sketch.done(tip))
    assert list(Bottleneck(2).plan(flow).stage_of.values()) == [0, 1, 1, 1, 1]


def test_a_graph_without_flops_is_balanced_by_its_values():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for _ in range(6):
        tip = sketch.add(tip, sketch.weight)
    assert list(Balanced(3).plan(dataflow(sketch.done(tip))).stage_of.values()) == [0, 0, 1, 1, 2, 2]


def test_a_frozen_part_is_computed_and_paid_for_where_it_is_first_read():
    sketch = Sketch()
    (x,) = sketch.inputs
    backbone = sketch.add(x, sketch.frozen, flops=10)
    first = sketch.add(x, sketch.weight, flops=5)
    second = sketch.add(first, sketch.weight, flops=5)
    last = sketch.add(second, backbone, sketch.weight, flops=1)
    plan = Balanced(2).plan(dataflow(sketch.done(last)))
    assert list(plan.stage_of.values()) == [1, 0, 0, 1]


def test_a_graph_that_no_narrow_cut_divides_is_cut_at_the_narrowest_that_do():
    sketch = Sketch()
    made = [sketch.add(sketch.inputs[0], sketch.weight, flops=1)]
    for _ in range(6):
        made.append(sketch.add(*made, sketch.weight, flops=1))
    gm = sketch.done(made[-1])
    flow = dataflow(gm)
    plan = Balanced(5).plan(flow)
    assert list(plan.problems(gm.graph)) == []
    widths = [len(crossing(flow, [n for n, s in stages(flow, plan).items() if s <= cut])) for cut in range(4)]
    assert sorted(widths) == [1, 2, 3, 4]


def test_a_weight_made_in_the_graph_is_recomputed_where_it_is_read():
    sketch = Sketch()
    direction = sketch.add(sketch.frozen)
    weight = sketch.add(sketch.weight, direction)
    hidden = sketch.add(sketch.inputs[0], weight, flops=1)
    plan = Balanced(2).plan(dataflow(sketch.done(sketch.add(hidden, weight, flops=1))))
    assert plan.copies == {":work": (1,), ":work.1": (1,)}
    assert list(plan.stage_of.values()) == [0, 0, 0, 1]


def test_too_many_stages():
    gm = chain(*[4] * 12)
    says = (
        r"bottleneck:stages=20 asks for 20 stages, and this graph can be cut in 10 places one after another "
        r"\(0, 1, 2, 3, 4, 5, 6, 7 and 2 more\)\. Ask for at most 11, or use balanced"
    )
    with pytest.raises(PlanError, match=says):
        Bottleneck(20).plan(dataflow(gm))
    with pytest.raises(PlanError, match=r"in 10 places .*at most 11, or name the places yourself with at"):
        Balanced(12).plan(dataflow(gm))


def test_the_longest_plan_is_the_one_that_the_refusal_speaks_of():
    flow = dataflow(chain(*[4] * 12))
    assert len(Bottleneck(11).plan(flow)) == len(Balanced(11).plan(flow)) == 11


@pytest.mark.parametrize("policy", [Bottleneck(0), Balanced(-1)])
def test_a_model_has_at_least_one_stage(policy):
    with pytest.raises(PlanError, match="a model has at least one"):
        policy.plan(dataflow(chain(4, 4, 4)))


def test_a_cut_that_nothing_may_cross_is_refused():
    with pytest.raises(PlanError, match="lets 0 values cross a cut; at least one must"):
        Balanced(2, width=0).plan(dataflow(chain(4, 4, 4)))


@pytest.mark.parametrize("policy", [Bottleneck(), Balanced()])
@pytest.mark.parametrize(
    "model", [nn.ReLU(), nn.Linear(4, 4).requires_grad_(False)], ids=["no weight", "frozen"]
)
def test_a_model_that_learns_nothing_has_one_stage(policy, model):
    flow = dataflow(traced(nn.Sequential(model, nn.Tanh()), torch.zeros(2, 4)))
    with pytest.raises(PlanError, match="no gradient runs through this graph"):
        policy.plan(flow)
    assert len(type(policy)(stages=1).plan(flow)) == 1


def test_a_thousand_nodes_take_seconds():
    sketch = Sketch()
    tip = sketch.add(sketch.inputs[0], sketch.weight, flops=1)
    for step in range(500):
        tip = sketch.add(tip, sketch.add(tip, sketch.weight, flops=1 + step % 7))
    flow = dataflow(sketch.done(tip))
    started = time.process_time()
    assert len(Balanced(8).plan(flow)) == 8
    assert time.process_time() - started < 10


class HeadsLast(nn.Module):
    """A trunk, and then a head on each of its values, the deepest first."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.ModuleList(nn.Linear(8, 8) for _ in range(8))
        self.heads = nn.ModuleList(nn.Linear(8, 2) for _ in range(8))

    def forward(self, x):
        found = []
        for layer in self.trunk:
            x = torch.tanh(layer(x))
            found.append(x)
        return [head(each) for head, each in zip(self.heads, reversed(found), strict=True)]


@pytest.mark.parametrize("policy", ["bottleneck:stages=4", "balanced:stages=4,width=2"])
def test_heads_belong_to_where_they_branch_off_in_whatever_order_they_are_computed(policy):
    flow = dataflow(traced(HeadsLast(), torch.zeros(2, 8)))
    by_hand = At(("trunk.1", "trunk.3", "trunk.5")).plan(flow)
    assert score(flow, stages(flow, parse(policy, POLICIES).plan(flow))) <= score(flow, stages(flow, by_hand))


@pytest.mark.parametrize("name", ["balanced", "bottleneck", "min-cut"])
def test_more_stages_than_there_is_work_are_refused_at_once(name):
    with pytest.raises(PlanError, match="Ask for at most 3"):
        parse(f"{name}:stages=1000000000000", POLICIES).plan(dataflow(chain(4, 4, 4, 4)))


def test_a_refusal_names_the_constraints():
    with pytest.raises(PlanError, match=r"1 place under avoid=0\+1 \(2\)"):
        Balanced(3, avoid=("0", "1")).plan(dataflow(chain(4, 4, 4, 4, 4)))


@pytest.mark.parametrize("name", ["balanced", "bottleneck", "min-cut"])
def test_an_unknown_cost_is_refused_for_one_stage_too(name):
    with pytest.raises(PlanError, match="cost is flops, parameters, time, not 'bogus'"):
        parse(f"{name}:stages=1,cost=bogus", POLICIES).plan(dataflow(chain(4, 4)))
