import time

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.costs import flops
from passes.dataflow import carrying, dataflow
from passes.frontiers import frontiers
from passes.placement import Placement
from tests.flows import Sketch, all_cuts, crossing, graphs, stages_by_definition


def names_inside(flow, cut):
    return frozenset(name for at, name in enumerate(carrying(flow)) if cut.inside >> at & 1)


def ends(flow):
    return [name for name in carrying(flow) if not set(flow.succ[name]) & set(carrying(flow))]


@pytest.mark.parametrize("width", [1, 2, 3])
@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_every_cut_that_few_values_cross_is_found_once(width, gm):
    flow = dataflow(gm)
    found = [names_inside(flow, cut) for cut in frontiers(flow, width)]
    wanted = set(all_cuts(flow, width))
    assert len(found) == len(set(found))
    if len(ends(flow)) <= 3:
        assert set(found) == wanted
    else:
        assert set(found) <= wanted


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), width=st.integers(1, 5))
def test_a_frontier_is_what_is_read_on_the_other_side(gm, width):
    flow = dataflow(gm)
    for cut in frontiers(flow, width):
        assert crossing(flow, names_inside(flow, cut)) == set(cut.values)


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), data=st.data())
def test_every_value_lies_before_the_cuts_that_its_definition_says(gm, data):
    flow = dataflow(gm)
    cuts = frontiers(flow, 2)
    if not cuts:
        return
    cut = data.draw(st.sampled_from(cuts))
    by_definition = stages_by_definition(flow, [names_inside(flow, cut)])
    before = Placement(flow).before([cut.inside])
    assert {name: 1 - int(flags[0]) for name, flags in before.items()} == by_definition


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_what_lies_before_a_cut_costs_what_its_values_cost(gm):
    flow = dataflow(gm)
    placement, cost = Placement(flow), flops(flow)
    cuts = [cut.inside for cut in frontiers(flow, 2)]
    before = placement.before(cuts)
    summed = [sum(cost[name] for name in before if before[name][at]) for at in range(len(cuts))]
    assert placement.costs_before(cuts, cost).tolist() == summed


def chains(lengths):
    """Chains of operations that learn, which one operation joins at the end."""
    sketch = Sketch()
    tips = []
    for length in lengths:
        tip = sketch.inputs[0]
        for _ in range(length):
            tip = sketch.add(tip, sketch.weight, flops=1)
        tips.append(tip)
    return dataflow(sketch.done(sketch.add(*tips, flops=1)))


def residual(count):
    """A chain of residual blocks of two operations each."""
    sketch = Sketch()
    tip = sketch.add(sketch.inputs[0], sketch.weight, flops=1)
    for _ in range(count):
        tip = sketch.add(tip, sketch.add(tip, sketch.weight, flops=1))
    return dataflow(sketch.done(tip))


def test_two_towers_are_cut_at_every_pair_of_their_values():
    flow = chains((3, 4))
    assert {len(cut.values) for cut in frontiers(flow, 1)} == {1}
    assert len([cut for cut in frontiers(flow, 2) if len(cut.values) == 2]) == 3 * 4


def test_an_auxiliary_head_does_not_count_as_crossing():
    sketch = Sketch()
    first = sketch.add(sketch.inputs[0], sketch.weight)
    head = sketch.add(first, sketch.weight)
    second = sketch.add(first, sketch.weight)
    flow = dataflow(sketch.done(head, sketch.add(second, sketch.weight)))
    first, head, second, last = (name for name in flow if name.startswith("work"))
    assert {(cut.values, names_inside(flow, cut)) for cut in frontiers(flow, 1)} == {
        ((first,), frozenset([first])),
        ((first,), frozenset([first, head])),
        ((first,), frozenset([first, second, last])),  # the head may come last as well
        ((second,), frozenset([first, head, second])),
    }


@pytest.mark.parametrize(
    ("flow", "width", "seconds"),
    [(residual(500), 1, 1), (residual(500), 2, 2), (chains((500, 500)), 2, 10), (residual(2500), 1, 5)],
    ids=["residual of 1,001, width 1", "residual of 1,001, width 2", "two towers", "residual of 5,001"],
)
def test_large_graphs_take_seconds(flow, width, seconds):
    started = time.process_time()
    assert len(frontiers(flow, width)) >= 500
    assert time.process_time() - started < seconds


def test_no_cut_is_admissible_where_no_gradient_runs():
    sketch = Sketch()
    flow = dataflow(sketch.done(sketch.add(sketch.inputs[0], sketch.frozen)))
    assert isinstance(flow, nx.DiGraph)
    assert frontiers(flow, 3) == []
