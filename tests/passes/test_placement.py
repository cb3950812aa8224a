"""A plan carried over to another graph of the same model can be carried out there."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dni_fx
from dni_fx.assembly import training_graph
from passes import Pipeline, Plan
from passes.dataflow import computed, dataflow
from passes.errors import GraphError
from passes.mark_boundaries import MarkBoundaries
from passes.placement import refit
from tests.random_models import made_up
from tests.zoo import ZOO, made


def graph_of(model, inputs):
    return training_graph(dni_fx.capture(model, inputs))


@pytest.mark.parametrize("name", sorted(ZOO)[::3])
def test_a_plan_fits_the_graph_that_it_was_made_for(name):
    gm = graph_of(*made(name))
    flow = dataflow(gm)
    try:
        plan = dni_fx.policies.POLICIES.get("bottleneck")().plan(flow)
    except GraphError as error:
        pytest.skip(str(error))
    assert refit(plan, flow) == plan


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_any_plan_can_be_carried_out_after_it_was_fitted(seed):
    draw = random.Random(seed)
    gm = graph_of(*made_up(seed))
    flow = dataflow(gm)
    anchors = [flow.nodes[name]["anchor"] for name in computed(flow)]
    plan = Plan({anchor: draw.randrange(4) for anchor in anchors if draw.random() < 0.8})
    fitted = refit(plan, flow)
    assert fitted.stage_of.keys() == set(anchors)
    Pipeline((MarkBoundaries(fitted),)).run(gm)
    assert refit(fitted, flow).stage_of == fitted.stage_of


def test_a_counter_that_nothing_reads_is_in_the_stage_of_its_module():
    layers = [each for _ in range(3) for each in (nn.Linear(4, 4), nn.BatchNorm1d(4))]
    program = dni_fx.capture(nn.Sequential(*layers), (torch.ones(3, 4),), frontend="export")
    plan = dni_fx.plan(program, "at:after=1+3")
    counters = {anchor: stage for anchor, stage in plan.stage_of.items() if "add_" in anchor}
    assert {anchor.partition(":")[0]: stage for anchor, stage in counters.items()} == {"1": 0, "3": 1, "5": 2}
