import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dni_fx.errors import PlanError
from dni_fx.policies.min_cut import MinCut
from passes import Plan
from passes.costs import flops
from passes.dataflow import carrying, computed, dataflow
from tests.flows import Sketch, all_cuts, crossing, graphs, stages_by_definition, working


def costs(flow):
    cost = flops(flow)
    counted = any(cost[name] for name in carrying(flow))
    return cost if counted else {name: int(flow.nodes[name]["carries"]) for name in cost}


def by_stage(flow, stage_of):
    """What each stage costs."""
    found = [0] * (1 + max(stage_of.values()))
    for name, one in costs(flow).items():
        found[stage_of[name]] += one
    return found


def sent(flow, stage_of):
    """The bytes of all values that cross, each once."""
    held = set(carrying(flow))
    return sum(
        flow.nodes[name]["bytes"]
        for name in held
        if any(stage_of[reader] > stage_of[name] for reader in held.intersection(flow.succ[name]))
    )


def stages(flow, plan):
    return {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}


def hangs_together(flow):
    held = flow.subgraph(carrying(flow))
    return len(held) > 1 and nx.is_weakly_connected(held)


def prefixes(flow):
    """The cuts that have before them what comes first in graph order."""
    names = carrying(flow)
    return [cut for cut in all_cuts(flow, len(names)) if cut == frozenset(names[: len(cut)])]


def worst_of_prefixes(flow, count):
    """For one to `count` stages, the least cost of the costliest that prefixes of graph order give."""
    cuts = sorted(prefixes(flow), key=len)
    chains = [[]]
    for _ in range(count - 1):
        chains = [
            [*chain, cut]
            for chain in chains
            for cut in cuts
            if not chain or ((cut - chain[-1]) & working(flow) and chain[-1] < cut)
        ]
    return min((max(by_stage(flow, stages_by_definition(flow, chain))) for chain in chains), default=None)


@settings(deadline=None, max_examples=150)
@given(gm=graphs(), slack=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
def test_no_down_set_between_prefixes_that_keep_the_limit_sends_less(gm, slack):
    flow = dataflow(gm)
    assume(hangs_together(flow))
    stage_of = None
    try:
        stage_of = stages(flow, MinCut(2, slack).plan(flow))
    except PlanError:
        assert not prefixes(flow)
        return
    limit = (1 + slack) * sum(costs(flow).values()) / 2
    kept = [cut for cut in prefixes(flow) if max(by_stage(flow, stages_by_definition(flow, [cut]))) <= limit]
    between = [
        inside
        for inside in all_cuts(flow, len(flow))
        if any(one <= inside for one in kept) and any(inside <= other for other in kept)
    ]
    for inside in between:
        assert sent(flow, stage_of) <= sum(flow.nodes[name]["bytes"] for name in crossing(flow, inside))
    if kept:
        assert max(by_stage(flow, stage_of)) <= limit


@settings(deadline=None, max_examples=100)
@given(gm=graphs(most=6), count=st.integers(2, 4), slack=st.sampled_from([0.0, 0.2, 1.0]))
def test_the_costliest_stage_costs_no_more_than_that_of_the_best_prefixes_or_the_limit(gm, count, slack):
    flow = dataflow(gm)
    best = worst_of_prefixes(flow, count)
    try:
        stage_of = stages(flow, MinCut(count, slack).plan(flow))
    except PlanError:
        assert best is None
    else:
        limit = (1 + slack) * sum(costs(flow).values()) / count
        assert best is None or max(by_stage(flow, stage_of)) <= max(limit, best)


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), count=st.integers(2, 4), slack=st.sampled_from([0.0, 0.2, 1.0]))
def test_every_cut_is_admissible(gm, count, slack):
    flow = dataflow(gm)
    try:
        plan = MinCut(count, slack).plan(flow)
    except PlanError:
        return
    stage_of = stages(flow, plan)
    assert list(plan.problems(gm.graph)) == []
    assert len(plan) == count
    assert {stage_of[name] for name in working(flow)} == set(range(count))
    cuts = [frozenset(name for name in carrying(flow) if stage_of[name] <= cut) for cut in range(count - 1)]
    assert set(cuts) <= set(all_cuts(flow, len(flow)))
    assert stage_of == stages_by_definition(flow, cuts)


def ladder(count):
    """Two chains of equal work, each value of the left one read by the right one, which ends later."""
    sketch = Sketch()
    left = right = sketch.inputs[0]
    for _ in range(count):
        left = sketch.add(left, sketch.weight, flops=2, bytes=8)
        right = sketch.add(right, left, sketch.weight, flops=2, bytes=2)
    return dataflow(sketch.done(right))


def test_a_wider_slack_never_sends_more():
    flow = ladder(12)
    found = [sent(flow, stages(flow, MinCut(3, slack).plan(flow))) for slack in (0.0, 0.1, 0.3, 0.6, 1.2)]
    assert found == sorted(found, reverse=True)


def test_a_value_that_crosses_two_cuts_counts_once():
    sketch = Sketch()
    skip = tip = sketch.add(sketch.inputs[0], sketch.weight, flops=4, bytes=9)
    for size in (5, 4, 5, 4, 5):
        tip = sketch.add(tip, sketch.weight, flops=4, bytes=size)
    flow = dataflow(sketch.done(sketch.add(tip, skip, sketch.weight, flops=4, bytes=1)))
    stage_of = stages(flow, MinCut(3, 0.3).plan(flow))
    assert sent(flow, stage_of) == 9 + 5


def test_what_must_stay_together_is_heavier_than_the_limit_and_makes_it():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for flops_ in (1, 1, 20, 1, 1):
        tip = sketch.add(tip, sketch.weight, flops=flops_)
    flow = dataflow(sketch.done(tip))
    assert max(by_stage(flow, stages(flow, MinCut(3, 0.0).plan(flow)))) == 20


def test_more_stages_than_work_are_refused_with_the_places_there_are():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for _ in range(3):
        tip = sketch.add(tip, sketch.weight, flops=1)
    flow = dataflow(sketch.done(tip))
    assert len(MinCut(3).plan(flow)) == 3
    says = r"min-cut:stages=4 asks for 4 stages.* in 2 places .*\(after :work, :work\.1\)\. Ask for at most 3"
    with pytest.raises(PlanError, match=says):
        MinCut(4).plan(flow)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (MinCut(0), "a model has at least one"),
        (MinCut(2, -0.5), "a share of the mean cost, 0 or more"),
        (MinCut(2, float("nan")), "a share of the mean cost, 0 or more"),
        (MinCut(2, cost="bytes"), "cost is flops, parameters, time, not 'bytes'"),
    ],
)
def test_options_that_mean_nothing_are_refused(policy, says):
    with pytest.raises(PlanError, match=says):
        policy.plan(ladder(3))


def test_plans_by_another_cost_are_even_in_that_cost():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for step in range(6):
        tip = sketch.add(tip, sketch.weight, flops=1 if step < 3 else 9)
    flow = dataflow(sketch.done(tip))
    for name, seconds in zip(carrying(flow), (3, 1, 1, 1, 1, 1), strict=True):
        flow.nodes[name]["seconds"] = seconds * 1e-3
    assert MinCut(cost="time").reads == {"seconds"}
    assert MinCut().reads == set()
    assert list(MinCut(2, 0.0, cost="time").plan(flow).stage_of.values()) == [0, 0, 1, 1, 1, 1]


def test_the_plan_is_text_and_back():
    plan = MinCut(2, 0.25).plan(ladder(4))
    assert plan.policy == "min-cut:slack=0.25"
    assert Plan.from_json(plan.to_json()) == plan
