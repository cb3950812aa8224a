import json
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import fx, nn

from passes import Anchor, Plan, SpecError
from passes.anchors import anchor_of, set_anchors

stages = st.integers(0, 5)
anchors = st.text(max_size=12).map(Anchor)
plans = st.builds(
    Plan,
    st.dictionaries(anchors, stages, max_size=8),
    st.dictionaries(anchors, st.lists(stages, max_size=3).map(tuple), max_size=3),
    st.text(max_size=12),
)


class Chain(nn.Module):
    """first, then relu, then second and an addition of what first made."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)

    def forward(self, x):
        first = self.first(x)
        return self.second(torch.relu(first)) + first


@pytest.fixture
def graph():
    traced = fx.symbolic_trace(Chain()).graph
    set_anchors(traced)
    return traced


def plan_of(first=0, relu=0, second=1, add=1, **options):
    return Plan({"first": first, ":relu": relu, "second": second, ":add": add}, **options)


@given(plans)
@example(Plan({}))
@example(plan_of(copies={Anchor("first"): (1,)}, policy="balanced:stages=2"))
def test_json_round_trip(plan):
    assert Plan.from_json(plan.to_json()) == plan


def test_json_has_one_line_a_value_so_that_it_diffs_line_by_line():
    one, other = (plan_of(second=stage).to_json().splitlines() for stage in (0, 1))
    assert [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]] == [
        ('  "second": 0,', '  "second": 1,')
    ]


def changed(**entries):
    return json.dumps(json.loads(plan_of().to_json()) | entries)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "KeyError: 'version'"),
        ("[]", "TypeError: list indices must be integers or slices, not str"),
        ("a plan", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        (
            changed(version="one"),
            "TypeError: '>' not supported between instances of 'str' and 'int'",
        ),
        (
            changed(stage_of=[]),
            "AttributeError: 'list' object has no attribute 'items'",
        ),
        (
            changed(stage_of={"first": -1}),
            "ValueError: a stage is a number from 0 up, not -1",
        ),
        (
            changed(stage_of={"first": True}),
            "ValueError: a stage is a number from 0 up, not True",
        ),
        (
            changed(copies={"first": [0.5]}),
            "ValueError: a stage is a number from 0 up, not 0.5",
        ),
    ],
    ids=["empty", "list", "text", "version", "no map", "negative", "bool", "copies"],
)
def test_a_text_that_is_not_a_plan_is_refused(text, says):
    with pytest.raises(SpecError, match=f"^{re.escape('this is not the JSON of a plan: ' + says)}$"):
        Plan.from_json(text)


def test_a_plan_of_a_newer_version_is_refused():
    with pytest.raises(SpecError, match=r"^this plan has version 2, newer than 1\.$"):
        Plan.from_json(changed(version=2))


def test_a_plan_has_as_many_stages_as_it_names_and_tells_their_sizes():
    assert len(plan_of()) == 2
    assert str(plan_of(policy="balanced:stages=2")) == "2 stages of 2, 2 values, by balanced:stages=2"
    assert str(plan_of(second=0)) == "2 stages of 3, 1 values, by hand"


def test_assign_gives_every_computed_node_the_stage_of_its_anchor(graph):
    assigned = plan_of().assign(graph)
    computed = [node for node in graph.nodes if node.op not in {"placeholder", "output"}]
    assert list(assigned) == computed
    assert {anchor_of(node): stage for node, stage in assigned.items()} == dict(plan_of().stage_of)


def test_a_value_unknown_to_the_plan_is_in_the_latest_stage_it_reads_from(graph):
    """Another mode's graph may hold a few more values than the one that the plan was made for."""
    known = Plan({"first": 1, "second": 3})
    assert {anchor_of(node): stage for node, stage in known.assign(graph).items()} == {
        "first": 1,
        ":relu": 1,
        "second": 3,
        ":add": 3,
    }


@given(st.lists(stages, min_size=4, max_size=4))
def test_a_plan_without_problems_is_total_and_contiguous_and_runs_forwards(chosen):
    traced = fx.symbolic_trace(Chain()).graph
    set_anchors(traced)
    plan = plan_of(*chosen)
    first, relu, second, add = chosen
    good = first <= relu <= second <= add and set(chosen) == set(range(max(chosen) + 1))
    assert (list(plan.problems(traced)) == []) == good


@pytest.mark.parametrize(
    ("plan", "problems"),
    [
        (plan_of(), []),
        (plan_of(0, 0, 0, 0), []),
        (
            Plan({"first": 0, "second": 1, ":add": 1}),
            ["the plan gives no stage to :relu; it belongs to another graph"],
        ),
        (
            Plan({**plan_of().stage_of, "third": 1}),
            ["the plan speaks of third, not in this graph; it belongs to another graph"],
        ),
        (
            Plan({"first": 0, "third": 1, ":add": 1}),
            [
                "the plan gives no stage to :relu, second; it belongs to another graph",
                "the plan speaks of third, not in this graph; it belongs to another graph",
            ],
        ),
        (plan_of(0, 0, 3, 3), ["no value is in stage 1, 2"]),
        (plan_of(1, 0, 1, 1), ["first (stage 1) feeds :relu (stage 0); no edge may run backwards"]),
        (
            plan_of(2, 0, 2, 0),
            [
                "no value is in stage 1",
                "first (stage 2) feeds :relu (stage 0); no edge may run backwards",
                "second (stage 2) feeds :add (stage 0); no edge may run backwards",
                "first (stage 2) feeds :add (stage 0); no edge may run backwards",
            ],
        ),
        (plan_of(1, 0, 1, 1, copies={Anchor("first"): (0,)}), []),
        (
            plan_of(1, 0, 1, 1, copies={Anchor("first"): (2,)}),
            ["first (stage 1) feeds :relu (stage 0); no edge may run backwards"],
        ),
    ],
)
def test_problems_lists_all_that_is_wrong_at_once(graph, plan, problems):
    assert list(plan.problems(graph)) == problems


def test_a_long_list_of_values_is_cut_short(graph):
    plan = Plan({**plan_of().stage_of, **{Anchor(f"layers.{at}"): 1 for at in range(7)}})
    shown = ", ".join(f"layers.{at}" for at in range(5))
    assert list(plan.problems(graph)) == [
        f"the plan speaks of {shown} and 2 more, not in this graph; it belongs to another graph"
    ]
