import copy
import dataclasses
import json
import pickle
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import fx, nn

from passes import Anchor, Plan, SpecError
from passes.anchors import anchor_of, set_anchors
from tests.flows import Sketch

stages = st.integers(0, 5)
anchors = st.text(max_size=12).map(Anchor)
plans = st.builds(
    Plan,
    st.dictionaries(anchors, stages, max_size=8),
    st.dictionaries(anchors, st.lists(stages, max_size=3).map(tuple), max_size=3),
    st.text(max_size=12),
    st.lists(st.lists(anchors, max_size=3).map(tuple), max_size=3).map(tuple),
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


def edge(source, high, reader, low):
    return (
        f"{source} (stage {high}) feeds {reader} (stage {low}); no edge may run backwards. "
        f"Put {source} into stage {low} or below, or {reader} into stage {high} or above"
    )


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
        ("a plan", "Expecting value: line 1 column 1"),
        ("[" * 10**5, "recursion"),
        ("[]", "an object in braces, but a list"),
        ("{}", 'write "version": 1'),
        ("{}", "it has no stage_of"),
        (changed(version="one"), 'its version is one; write "version": 1'),
        (changed(stage_of=[]), "its stage_of is a list; write an object"),
        (changed(copys={}), "it has the entry copys, which no plan has; did you mean copies?"),
        (changed(stage_of={"first": -1}), "the stage of first is -1; a stage is a number from 0 up"),
        (changed(stage_of={"first": True}), "the stage of first is true; a stage is a number"),
        (changed(stage_of={"first": "1"}), 'is the text "1"; write the number 1 without quotes'),
        (changed(copies={"first": [0.5]}), "the copies of first are [0.5]; write a list of stages"),
        (changed(copies={"first": 1}), "the copies of first are 1; write a list of stages"),
        (changed(joint={"first": 1}), 'its joint is {"first": 1}; write a list of lists of names of values'),
        (changed(joint=["first"]), 'its joint is ["first"]; write a list of lists of names of values'),
        ('{"version": 1, "stage_of": {"a": 0, "a": 1}}', "a is there twice, as 0 and as 1; leave one"),
    ],
)
def test_a_text_that_is_not_a_plan_is_refused_with_what_to_write(text, says):
    with pytest.raises(SpecError, match=re.escape(says)) as refused:
        Plan.from_json(text)
    assert str(refused.value).startswith("this is not the JSON of a plan")


def test_all_that_is_wrong_with_a_text_is_told_at_once():
    with pytest.raises(SpecError) as refused:
        Plan.from_json('{"version": 1, "stage_of": {"a": "0", "b": -1, "b": -1}, "copies": []}')
    assert str(refused.value).count("\n  * ") == 4


def test_the_policy_and_the_copies_may_be_left_out_of_a_text():
    assert Plan.from_json('{"version": 1, "stage_of": {"first": 0}}') == Plan({"first": 0})


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
            plan_of(0, 0, 3, 4),
            ["no value is in stage 1, 2, and stages are numbered without a gap: write 1 for 3, 2 for 4"],
        ),
        (plan_of(1, 0, 1, 1), [edge("first", 1, ":relu", 0)]),
        (
            plan_of(2, 0, 2, 0),
            [
                "no value is in stage 1, and stages are numbered without a gap: write 1 for 2",
                edge("first", 2, ":relu", 0),
                edge("second", 2, ":add", 0),
                edge("first", 2, ":add", 0),
            ],
        ),
        (
            plan_of(0, 0, 0, 10**30),
            [
                (
                    "no value is in stage 1, 2, 3, 4, 5, 6, 7, 8, and stages are numbered without a gap: "
                    f"write 1 for {10**30}"
                )
            ],
        ),
        (
            plan_of(copies={Anchor("first"): (1,), Anchor("third"): (1,)}),
            [
                (
                    "first is to be recomputed in stage 1, and only what is made of weights alone, the same "
                    "each time, can be: take it out of copies"
                ),
                "copies speak of third, which is not in this graph",
            ],
        ),
    ],
)
def test_problems_lists_all_that_is_wrong_at_once(graph, plan, problems):
    assert list(plan.problems(graph)) == problems


def test_what_is_made_of_weights_alone_may_be_recomputed_in_the_stages_there_are():
    sketch = Sketch()
    weight = sketch.add(sketch.weight)
    gm = sketch.done(sketch.add(sketch.add(sketch.inputs[0], weight), weight))
    first, second, third = (anchor_of(node) for node in gm.graph.nodes if "anchor" in node.meta)
    assert list(Plan({first: 0, second: 0, third: 1}, {first: (1,)}).problems(gm.graph)) == []
    assert list(Plan({first: 0, second: 0, third: 1}, {first: (2,)}).problems(gm.graph)) == [
        f"{first} is to be recomputed in stage 2, and the plan has 2 stages"
    ]
    assert list(Plan({first: 1, second: 0, third: 1}, {first: (0,)}).problems(gm.graph)) == []


def test_a_graph_without_values_has_a_plan():
    gm = Sketch().done()
    assert list(Plan({}).problems(gm.graph)) == []


def test_of_many_edges_that_run_backwards_a_few_are_told_and_the_others_counted():
    traced = fx.symbolic_trace(nn.Sequential(*[nn.ReLU() for _ in range(20)])).graph
    set_anchors(traced)
    problems = list(Plan({Anchor(str(at)): 19 - at for at in range(20)}).problems(traced))
    assert len(problems) == 9
    assert problems[-1] == "11 more edges run backwards"


def test_the_sheet_of_a_plan_is_its_text_and_nothing_else_of_it():
    plan = plan_of()
    with_sheet = dataclasses.replace(plan, sheet="a table")
    assert str(with_sheet) == "a table"
    assert with_sheet.summary == plan.summary == str(plan)
    assert with_sheet == plan
    assert with_sheet.to_json() == plan.to_json()
    assert repr(with_sheet) == repr(plan)
    for copied in (copy.deepcopy(with_sheet), pickle.loads(pickle.dumps(with_sheet))):
        assert str(copied) == "a table"
