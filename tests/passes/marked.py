"""Graphs captured from zoo models, and plans that cut them after a value."""

import dni_fx
from passes import Pipeline, Plan
from passes.anchors import anchor_of
from passes.mark_boundaries import MarkBoundaries
from tests.zoo import made


def captured(name):
    """The annotated training graph of a zoo model."""
    model, inputs = made(name)
    program = dni_fx.capture(model, inputs, frontend="symbolic")
    return dni_fx.verbs.training_graph(program)


def cut_after(gm, *anchors, **changes):
    """A value is in the stage that says how many of the anchors come before it in the graph."""
    order = [anchor_of(node) for node in gm.graph.nodes if "anchor" in node.meta]
    stages = {at: sum(order.index(cut) < i for cut in anchors) for i, at in enumerate(order)}
    return Plan(stages | changes)


def marked(name, *anchors, **changes):
    gm = captured(name)
    plan = cut_after(gm, *anchors, **changes)
    return Pipeline((MarkBoundaries(plan),)).run(gm), plan
