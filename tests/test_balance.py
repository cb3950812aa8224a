"""Every plan of a graph of the zoo costs what the best one does, found by looking at every cut."""

import sys
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_fx.policies.balanced import Balanced
from dni_fx.policies.bottleneck import Bottleneck
from passes.costs import flops
from passes.dataflow import carrying, computed, dataflow
from tests.benchmarks import balance
from tests.benchmarks.balance import bound, cost_of, flow_of, plan_of, score, split
from tests.flows import all_cuts, crossing, graphs, stages_by_definition, working
from tests.optimum import DownSets
from tests.zoo.checks import subjects

HAND = [subject for subject in subjects() if subject.family == "hand"]


def masks(flow, cuts):
    names = carrying(flow)
    return {sum(1 << names.index(name) for name in inside) for inside in cuts}


@pytest.mark.parametrize("most", [balance.MOST, 0], ids=["all down-sets", "those that few values cross"])
@settings(deadline=None, max_examples=100)
@given(gm=graphs(), width=st.integers(1, 3))
def test_the_cuts_that_are_looked_at_are_all_that_the_definition_admits(most, gm, width):
    flow = dataflow(gm)
    found = DownSets(flow).cuts(width, most)
    assert len(found) == len(set(found))
    assert set(found) == masks(flow, all_cuts(flow, width))


@settings(deadline=None, max_examples=100)
@given(gm=graphs(most=6), count=st.integers(1, 4), width=st.integers(1, 3))
def test_the_optimum_is_that_of_all_sequences_of_nested_cuts(gm, count, width):
    flow = dataflow(gm)
    cost = flops(flow)

    def costliest(several):
        stage_of = stages_by_definition(flow, several)
        return max(sum(cost[name] for name in cost if stage_of[name] == stage) for stage in range(count))

    cuts = sorted(all_cuts(flow, width), key=len)
    nested = (
        several
        for several in combinations(cuts, count - 1)
        if all(one < two and working(flow) & (two - one) for one, two in pairwise(several))
    )
    sets = DownSets(flow)
    found = sets.least(sets.cuts(width, balance.MOST), count, cost)
    assert found == min(map(costliest, nested), default=None)


@pytest.mark.parametrize("subject", HAND, ids=lambda subject: subject.name)
def test_no_plan_of_the_zoo_is_better_balanced_at_2_and_4_stages(subject):
    flow = flow_of(subject)
    sets, cost = DownSets(flow), cost_of(flow)
    for width in (1, 2, 3):
        cuts = sets.cuts(width, balance.MOST)
        for stages in (2, 4):
            best = sets.least(cuts, stages, cost)
            policy = Bottleneck(stages) if width == 1 else Balanced(stages, width)
            found = plan_of(policy, flow)
            if best is not None:  # else it is refused, or cut wider
                assert found is not None, f"{policy} refuses"
                costliest, _, widest = score(flow, cost, by_name(flow, found[0]), stages)
                assert (costliest, widest <= width) == (best, True), f"{policy} is not the best"


def by_name(flow, plan):
    return {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), stages=st.integers(2, 4))
def test_the_score_of_a_split_is_that_of_its_definition(gm, stages):
    flow = dataflow(gm)
    cost = flops(flow)
    if (stage_of := split(flow, cost, stages)) is None:
        assert not any(cost.values())
        return
    assert list(stage_of.values()) == sorted(stage_of.values())
    costs = [sum(cost[name] for name in cost if stage_of[name] == stage) for stage in range(stages)]
    cuts = [{name for name in carrying(flow) if stage_of[name] <= stage} for stage in range(stages)]
    widest = max(len(crossing(flow, inside)) for inside in cuts)
    assert score(flow, cost, stage_of, stages) == (max(costs), max(costs) * stages / sum(costs), widest)


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), stages=st.integers(2, 4))
def test_no_plan_is_below_the_bound(gm, stages):
    flow = dataflow(gm)
    cost = cost_of(flow)
    if (found := plan_of(Balanced(stages), flow)) is not None:
        reached = score(flow, cost, by_name(flow, found[0]), stages)[1]
        assert reached >= bound(flow, cost, stages) * (1 - 1e-12)  # two ways to round


def test_the_table_has_a_row_for_each_graph_and_the_medians_of_its_family(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["balance", "u-net", "dense"])
    balance.main()
    printed = capsys.readouterr().out.splitlines()
    for first in ("u-net", "dense", "median of 2", "worst"):
        (line,) = (line for line in printed if first in line)
        assert line.count("1.0000") == 2
