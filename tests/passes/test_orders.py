from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.costs import flops
from passes.cuts import Masked, Ordered
from passes.dataflow import carrying, dataflow
from passes.frontiers import frontiers
from passes.orders import Prefixes, graph_order, lazy_order
from passes.placement import Placement
from tests.flows import Sketch, all_cuts, crossing, graphs, stages_by_definition, working

ORDERS = [graph_order, lazy_order]


def ordered(flow, order):
    """The cuts that an order makes, balanced by FLOPs."""
    placement, cost = Placement(flow), flops(flow)
    place = {name: at for at, name in enumerate(flow)}
    return Ordered(Prefixes(placement, order(placement.units, place), cost), sum(cost.values()))


def inside(flow, cuts, at):
    return frozenset(name for name, stage in cuts.stages([at]).items() if stage == 0)


@pytest.mark.parametrize("order", ORDERS)
@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_units_come_after_those_that_may_not_be_later(order, gm):
    flow = dataflow(gm)
    units = Placement(flow).units
    place = {name: at for at, name in enumerate(flow)}
    position = {unit: at for at, unit in enumerate(order(units, place))}
    assert set(position) == set(units)
    assert all(position[one] < position[other] for one, other in units.edges)


@pytest.mark.parametrize("order", ORDERS)
@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_the_cuts_of_an_order_are_nested_cuts_of_the_graph(order, gm):
    flow = dataflow(gm)
    cuts = ordered(flow, order)
    sets = [inside(flow, cuts, at) for at in range(len(cuts))]
    assert set(sets) <= set(all_cuts(flow, len(flow)))
    assert all(one < other for one, other in pairwise(sets))


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_graph_order_has_all_the_cuts_that_its_prefixes_make(gm):
    flow = dataflow(gm)
    names, cuts = carrying(flow), ordered(flow, graph_order)
    prefixes = {frozenset(names[:count]) for count in range(len(names))}
    assert prefixes & set(all_cuts(flow, len(names))) <= {inside(flow, cuts, at) for at in range(len(cuts))}


@pytest.mark.parametrize("order", ORDERS)
@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_widths_bytes_costs_and_work_are_those_of_the_cut(order, gm):
    flow = dataflow(gm)
    cuts, cost = ordered(flow, order), flops(flow)
    for at in range(len(cuts)):
        values = crossing(flow, inside(flow, cuts, at))
        stages = stages_by_definition(flow, [inside(flow, cuts, at)])
        assert set(cuts.values(at)) == values
        assert cuts.width[at] == len(values)
        assert cuts.sent[at] == sum(flow.nodes[name]["bytes"] for name in values)
        assert cuts.work[at] == len(working(flow) & inside(flow, cuts, at))
        assert cuts.cost[at] == sum(cost[name] for name, stage in stages.items() if stage == 0)


@pytest.mark.parametrize("order", ORDERS)
@settings(deadline=None, max_examples=100)
@given(gm=graphs(), data=st.data())
def test_a_cut_is_the_same_by_its_mask_and_by_its_place(order, gm, data):
    flow = dataflow(gm)
    cuts = ordered(flow, order)
    masked = Masked(Placement(flow), cuts.frontiers(), flops(flow), cuts.total)
    assert (masked.cost.tolist(), masked.work.tolist()) == (cuts.cost.tolist(), cuts.work.tolist())
    assert [each.tolist() for each in masked.smaller()] == [each.tolist() for each in cuts.smaller()]
    if len(cuts):
        places = sorted(data.draw(st.sets(st.integers(0, len(cuts) - 1))))
        assert masked.stages(places) == cuts.stages(places)
        assert masked.take(places).cost.tolist() == cuts.take(places).cost.tolist()


def test_a_lazy_order_finishes_one_tower_before_the_next():
    sketch = Sketch()
    tips = [sketch.inputs[0]] * 3
    for _ in range(5):
        tips = [sketch.add(tip, sketch.weight, flops=1) for tip in tips]
    flow = dataflow(sketch.done(sketch.add(*tips, flops=1)))
    assert max(ordered(flow, graph_order).width) == 3
    assert sorted(ordered(flow, lazy_order).width) == [1] * 5 + [2] * 5 + [3] * 5


def test_of_too_many_cuts_those_that_send_least_are_kept_and_those_asked_for():
    sketch = Sketch()
    tip = sketch.inputs[0]
    for step in range(100):
        tip = sketch.add(tip, sketch.weight, flops=1, bytes=1 if step % 10 == 0 else 5)
    flow = dataflow(sketch.done(tip))
    few = ordered(flow, graph_order).thinned(11, keep=[8])
    assert len(few) == 12
    assert sorted(few.sent)[:10] == [1] * 10
    assert 8 in few.cost


def test_two_towers_have_a_cut_for_every_pair_of_their_values():
    sketch = Sketch()
    tips = [sketch.inputs[0]] * 2
    for _ in range(30):
        tips = [sketch.add(tip, sketch.weight, flops=1) for tip in tips]
    flow = dataflow(sketch.done(sketch.add(*tips, flops=1)))
    assert len([cut for cut in frontiers(flow, 2) if len(cut.values) == 2]) == 30 * 30
