"""What shows a graph shows its edges back, from a value to the input that it is in the next step."""

import networkx as nx

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.picture.scene import scene_of
from passes.dataflow import dataflow, over_time
from tests.streams import KINDS, chunks


def program(**options):
    """A captured LSTM whose state is a tuple of two, the second output."""
    build, state, _ = KINDS["lstm"]
    (x, _), *_ = chunks(1)
    return dni_fx.capture(build().double(), (x, state()), **options)


def test_in_networkx_they_have_a_delay_and_close_a_cycle_each():
    flow = dataflow(training_graph(program(carry={"state": 1})))
    assert nx.is_directed_acyclic_graph(flow)
    whole = over_time(flow)
    back = {(source, reader) for source, reader, facts in whole.edges(data=True) if facts["delay"]}
    assert {reader for _, reader in back} == {"state_0", "state_1"}
    assert back | set(flow.edges) == set(whole.edges)
    assert all(any(set(edge) <= set(cycle) for cycle in nx.simple_cycles(whole)) for edge in back)
    plain = over_time(dataflow(training_graph(program())))
    assert not any(facts["delay"] for *_, facts in plain.edges(data=True))


def test_a_plan_and_its_picture_name_them():
    carrying, plain = program(carry={"state": 1}), program()
    told = "carried into the next step: core:getitem.1 as state_0, core:getitem.2 as state_1"
    for each, is_told in ((carrying, True), (plain, False)):
        plan = dni_fx.plan(each, "balanced:stages=2")
        assert (told in str(plan)) == is_told
        first, *_ = scene_of(training_graph(each), plan, "flops").lanes
        assert any("core:getitem.1 of the step before" in name for name in first.inputs) == is_told


def test_a_program_hands_them_on_to_the_model_that_is_cut_from_it():
    cut = dni_fx.decouple(program(carry={"state": 1}), plan="balanced:stages=2")
    assert dni_fx.boundaries(cut)["carried_state"].spec.delay == 1
