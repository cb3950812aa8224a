from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_fx.errors import PlanError
from dni_fx.policies.memory import Memory
from passes import SpecError
from passes.dataflow import carrying, computed, dataflow
from tests.flows import Sketch, all_cuts, crossing, graphs, stages_by_definition, working


def weighed(flow, saved, prices):
    """The dataflow with made-up memory."""
    for name in computed(flow):
        flow.nodes[name]["saved"] = saved.get(name, 0)
        flow.nodes[name]["synthesizer_bytes"] = prices.get(name, 0)
    return flow


def largest(flow, stage_of, copies=4):
    """What the largest stage holds, by definition."""
    held = [0] * (1 + max(stage_of.values()))
    for name, stage in stage_of.items():
        held[stage] += copies * flow.nodes[name]["parameter_bytes"] + flow.nodes[name]["saved"]
    sent = {
        name
        for name in carrying(flow)
        if any(stage_of[reader] > stage_of[name] for reader in flow.succ[name] if reader in carrying(flow))
    }
    for name in sent:
        held[stage_of[name]] += flow.nodes[name]["synthesizer_bytes"]
    return max(held)


def fewest_by_trying_all(flow, limit, width):
    """The least number of stages, and the fewest bytes of such plans; None if no plan fits."""
    cuts = sorted(all_cuts(flow, width), key=len)
    for count in range(1, len(cuts) + 1):
        fitting = [
            sum(flow.nodes[name]["bytes"] for name in set().union(*(crossing(flow, i) for i in several)))
            for several in combinations(cuts, count)
            if all(one < two and working(flow) & (two - one) for one, two in pairwise(several))
            and largest(flow, stages_by_definition(flow, several)) <= limit
        ]
        if fitting:
            return count + 1, min(fitting)
    return None


@settings(deadline=None, max_examples=60)
@given(gm=graphs(most=5, ends=2), data=st.data())
def test_no_plan_of_its_width_that_fits_has_fewer_stages_or_sends_less(gm, data):
    flow = dataflow(gm)
    names = computed(flow)
    sizes = st.lists(st.integers(0, 9), min_size=len(names), max_size=len(names))
    saved, prices = data.draw(sizes), data.draw(sizes)
    weighed(flow, dict(zip(names, saved, strict=True)), dict(zip(names, prices, strict=True)))
    total = largest(flow, dict.fromkeys(names, 0))
    limit = data.draw(st.integers(1, max(total, 1)))
    wanted = fewest_by_trying_all(flow, limit, 2)
    try:
        plan = Memory(str(limit)).plan(flow)
    except PlanError:
        assert wanted is None
        return
    stage_of = {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in names}
    assert largest(flow, stage_of) <= limit
    if len(plan) > 1 and wanted is not None:
        inside = [{n for n in carrying(flow) if stage_of[n] <= cut} for cut in range(len(plan) - 1)]
        sent = set().union(*(crossing(flow, each) for each in inside))
        assert (len(plan), sum(flow.nodes[name]["bytes"] for name in sent)) == wanted


def test_a_synthesizer_that_is_too_large_moves_the_cut():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for _ in range(4):
        tip = sketch.add(tip, sketch.weight, saved=10)
    flow = dataflow(sketch.done(tip))
    names = carrying(flow)
    assert list(Memory("60").plan(flow).stage_of.values()) == [0, 0, 0, 0]
    cut = list(Memory("36").plan(flow).stage_of.values())
    assert cut == [0, 0, 1, 1]
    flow.nodes[names[1]]["synthesizer_bytes"] = 100
    assert len(Memory("46").plan(flow)) == 2
    assert list(Memory("46").plan(flow).stage_of.values()) != [0, 0, 1, 1]


def test_a_value_that_does_not_fit_by_itself_is_named():
    sketch = Sketch()
    first = sketch.add(sketch.inputs[0], sketch.weight, saved=5_000_000)
    flow = dataflow(sketch.done(sketch.add(first, sketch.weight, saved=10)))
    with pytest.raises(PlanError, match=r"The most that one value holds, .* is 5\.0 MB at :work;"):
        Memory("1MB").plan(flow)


@pytest.mark.parametrize("limit", ["0", "much", "-1GiB"])
def test_a_limit_is_a_size_of_memory(limit):
    with pytest.raises(SpecError):
        Memory(limit).plan(dataflow(Sketch().done()))


def test_what_fits_is_not_cut():
    sketch = Sketch()
    flow = dataflow(sketch.done(sketch.add(sketch.inputs[0], sketch.frozen)))
    assert len(Memory().plan(flow)) == 1
