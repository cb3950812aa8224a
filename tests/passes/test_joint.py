"""Which values can cross as one boundary, and what a plan says of them."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.assembly import cut_graph
from dni_fx.describe import plan_of
from dni_fx.picture.scene import scene_of
from dni_fx.verbs import training_graph
from passes import Pipeline, Plan, PreconditionError, boundaries
from passes.erase_boundaries import EraseBoundaries
from passes.mark_boundaries import MarkBoundaries
from tests.cells import CUT, NAME, POLICIES, Cells, captured, joined


@pytest.mark.parametrize("name", ["cells", *POLICIES])
def test_marks_of_several_values_are_erased_like_those_of_one(name):
    cut, _ = joined(name)
    graph = cut_graph(cut)
    before = graph.capture.module(cut)
    marked = Pipeline((MarkBoundaries(plan_of(cut)),)).run(before)
    assert any(len(spec.values) > 1 for _, spec in boundaries(marked))
    assert Pipeline((EraseBoundaries(),)).run(marked).code == before.code


def test_a_plan_keeps_what_is_joined_through_its_json():
    plan = dni_fx.plan(captured(), CUT)
    assert plan.joint == ((":getitem", ":getitem.1"),)
    assert Plan.from_json(plan.to_json()) == plan
    assert '"joint"' not in dataclasses.replace(plan, joint=()).to_json()
    assert re.findall("stage 1, jointly", str(plan)) == ["stage 1, jointly"] * 2
    gm = training_graph(captured())
    assert {joint.name for joint in scene_of(gm, plan, "flops").joints} == {NAME}


def test_a_plan_by_hand_may_join_what_a_policy_did_not():
    program = captured()
    plan = dataclasses.replace(dni_fx.plan(program, "at:after=lower"), joint=((":getitem.1", ":getitem"),))
    assert list(dni_fx.boundaries(dni_fx.decouple(program, plan=plan))) == [NAME]


OF_BOTH = (
    "Values cross as one if there are two or more, each named once, that go from one stage to the same later "
    "stages, where none is read before all are made"
)
H, C = ":getitem", ":getitem.1"


@pytest.mark.parametrize(
    ("joint", "says"),
    [
        ((H, "outer.0"), f"{H} goes from stage 0 to 1; outer.0 crosses no cut with a gradient"),
        ((H, "lost"), f"{H} goes from stage 0 to 1; lost is not in this graph"),
        ((H,), f"{H} goes from stage 0 to 1"),
        ((H, C, C), f"{H} goes from stage 0 to 1; {C} goes from stage 0 to 1, and is named 2 times"),
        ((), "name two or more"),
        ((H, ":getitem.2"), f"{H} goes from stage 0 to 1; :getitem.2 goes from stage 1 to 2"),
    ],
)
def test_a_group_that_does_not_cross_together_is_refused(joint, says):
    program = captured()
    plan = dataclasses.replace(dni_fx.plan(program, "at:after=lower+upper"), joint=(joint,))
    text = re.escape(f"{', '.join(joint) or 'no values'} cannot be one boundary: {says}. {OF_BOTH}")
    with pytest.raises(PreconditionError, match=text):
        dni_fx.decouple(program, plan=plan)
    with pytest.raises(PreconditionError, match=text):
        dni_fx.plan(program, plan)


class Staggered(Cells):
    """c is read before b is made, and of the later stages only one reads it."""

    def __init__(self):
        super().__init__(2)

    def forward(self, x):
        a = torch.tanh(self.inner(x))
        early = self.outer[0](F.pad(a, (0, 2)))
        b = torch.sigmoid(self.inner(x))
        return early, self.outer[1](F.pad(b, (0, 2)))


def test_a_value_that_is_read_before_the_other_is_made_crosses_by_itself():
    program = captured(Staggered)
    plan = dni_fx.plan(program, "at:after=:tanh+:sigmoid,joint=*")
    assert plan.joint == ()
    with pytest.raises(PreconditionError, match="none is read before all are made"):
        dni_fx.plan(program, dataclasses.replace(plan, joint=((":tanh", ":sigmoid"),)))


def test_values_that_different_stages_read_are_not_joined():
    program = captured(Staggered)
    plan = dni_fx.plan(program, "at:after=:tanh+:sigmoid")
    plan = Plan({**plan.stage_of, ":pad.1": 2, "outer.1": 2}, joint=((":tanh", ":sigmoid"),))
    with pytest.raises(
        PreconditionError, match=r":tanh goes from stage 0 to 1; :sigmoid goes from stage 0 to 2\."
    ):
        dni_fx.decouple(program, plan=plan)


def test_an_unknown_name_to_join_is_told():
    with pytest.raises(LookupError, match=r"'lowest' matches no value and no module\. Did you mean 'lower'"):
        dni_fx.plan(captured(), "at:after=lower,joint=lowest")
