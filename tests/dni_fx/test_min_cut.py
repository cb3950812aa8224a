import networkx as nx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dni_fx.errors import PlanError
from dni_fx.policies.balanced import Balanced
from dni_fx.policies.min_cut import MinCut
from passes.costs import flops
from passes.dataflow import carrying, computed, dataflow
from tests.flows import all_cuts, crossing, graphs, stages_by_definition, working


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
@given(gm=graphs(), count=st.integers(2, 4), slack=st.sampled_from([0.0, 0.1, 0.5, 1e308]))
def test_no_narrow_plan_of_the_same_balance_sends_less(gm, count, slack):
    flow = dataflow(gm)
    try:
        narrow, plan = (stages(flow, policy.plan(flow)) for policy in (Balanced(count), MinCut(count, slack)))
    except PlanError:
        return
    limit = max((1 + min(slack, count)) * sum(costs(flow).values()) / count, max(by_stage(flow, plan)))
    if max(by_stage(flow, narrow)) <= limit:
        assert sent(flow, plan) <= sent(flow, narrow)
