"""Wherever a model that writes to shared memory is cut, its numbers stay, or the cut is refused."""

import copy

import pytest

import dni_fx
from passes import GraphError
from passes.anchors import anchor_of
from tests.equality import assert_same, buffers_of, gradients, objective, seeded
from tests.zoo import made, memory

WRITERS = [*memory.MODELS, "in-place-add", "writes-through-a-view"]


def cuts(model, inputs):
    """The model cut after each of its values, one after the other, where that is not refused."""
    program = dni_fx.capture(model, inputs)
    graph = dni_fx.verbs.training_graph(program).graph
    for anchor in [anchor_of(node) for node in graph.nodes if "anchor" in node.meta]:
        try:
            cut = dni_fx.decouple(program, plan=f"at:after={anchor}", synthesizer="oracle")
        except (dni_fx.DniError, GraphError):
            continue
        yield copy.deepcopy(cut)


@pytest.mark.parametrize("name", WRITERS)
def test_memory_that_is_written_is_right_wherever_it_is_cut(name):
    model, inputs = made(name)
    twin = copy.deepcopy(model)
    outputs, states = seeded(twin, inputs), buffers_of(twin)
    theirs = gradients(copy.deepcopy(model), inputs)
    count = 0
    for cut in cuts(model, inputs):
        count += 1
        found = seeded(cut, inputs)
        assert_same(found, outputs)
        assert_same(buffers_of(cut), states)
        objective(found).backward()
        ours = {key: cut.get_parameter(key).grad for key in theirs}
        assert_same(ours, theirs, tolerance=1e-10)
    assert count > 1
