import networkx as nx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from passes.blocks import Blocks
from passes.costs import flops
from passes.dataflow import carrying, dataflow
from passes.masks import bits_of, mask_of
from tests.flows import all_cuts, crossing, graphs, stages_by_definition


def before(flow, cost, inside):
    """What lies before one cut costs, by the definition of a stage."""
    stage_of = stages_by_definition(flow, [inside])
    return sum(one for name, one in cost.items() if stage_of[name] == 0)


def masked(blocks, cut):
    return mask_of(at for at, names in enumerate(blocks.names) if cut.issuperset(names))


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), data=st.data())
def test_blocks_know_what_lies_before_a_cut_and_what_crosses_it(gm, data):
    flow = dataflow(gm)
    cuts = list(all_cuts(flow, len(flow)))
    assume(cuts)
    cut = data.draw(st.sampled_from(cuts))
    blocks = Blocks(flow, flops(flow))
    inside = masked(blocks, cut)
    assert {name for at, names in enumerate(blocks.names) if inside >> at & 1 for name in names} == cut
    assert blocks.cost(inside) == before(flow, flops(flow), cut)
    assert {blocks.crossers[at].name for at in blocks.crossing(inside)} == crossing(flow, cut)


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_an_order_of_blocks_has_cuts_for_prefixes_and_says_what_they_cost(gm):
    flow = dataflow(gm)
    assume(carrying(flow))
    blocks = Blocks(flow, flops(flow))
    for order in blocks.orders():
        assert sorted(order) == list(range(len(blocks.names)))
        inside = spent = 0
        for block, cost in zip(order, blocks.costs(order), strict=True):
            assert not blocks.needs[block] & ~inside
            inside |= 1 << block
            spent += cost
            assert spent == blocks.cost(inside)


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), data=st.data())
def test_no_cut_between_two_others_is_cheaper_than_the_cheapest(gm, data):
    flow = dataflow(gm)
    assume(nx.is_weakly_connected(flow.subgraph(carrying(flow))) if carrying(flow) else False)
    cuts = list(all_cuts(flow, len(flow)))
    assume(cuts)
    blocks = Blocks(flow, flops(flow))
    one, other = (data.draw(st.sampled_from(cuts)) for _ in range(2))
    inner, outer = one & other, one | other
    paid = frozenset(data.draw(st.sets(st.sampled_from(range(len(blocks.crossers))))))

    def sent(inside):
        return sum(blocks.crossers[at].bytes for at in blocks.crossing(inside) - paid)

    found = blocks.cheapest(masked(blocks, inner), masked(blocks, outer), paid)
    between = [masked(blocks, cut) for cut in cuts if inner <= cut <= outer]
    assert not masked(blocks, inner) & ~found
    assert not found & ~masked(blocks, outer)
    assert all(not blocks.needs[block] & ~found for block in bits_of(found))
    assert all(sent(found) <= sent(cut) for cut in between)
    assert all(not cut & ~found for cut in between if sent(cut) == sent(found))


@settings(deadline=None, max_examples=100)
@given(gm=graphs(), data=st.data())
def test_the_cuts_beside_one_differ_by_a_block_and_are_all_there_are(gm, data):
    flow = dataflow(gm)
    cuts = list(all_cuts(flow, len(flow)))
    assume(cuts)
    blocks = Blocks(flow, flops(flow))
    inside = masked(blocks, data.draw(st.sampled_from(cuts)))
    found = set(blocks.beside(inside))
    assert all((each ^ inside).bit_count() == 1 for each in found)
    assert all(not blocks.needs[block] & ~each for each in found for block in bits_of(each))
    near = {masked(blocks, cut) for cut in cuts if (masked(blocks, cut) ^ inside).bit_count() == 1}
    assert near <= found
