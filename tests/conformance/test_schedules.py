"""What every registered schedule must do. A new one is tested by being registered."""

from collections import Counter

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_fx.schedules import SCHEDULES
from dni_fx.schedules.actions import BACKWARDS, RECEIVES, SENDS, Kind
from dni_fx.schedules.costs import Handling, Network
from dni_fx.schedules.problems import check
from dni_fx.schedules.simulation import simulate
from dni_fx.schedules.timetable import parse_timetable
from passes import parse
from tests.layouts import costs, layouts

names = pytest.mark.parametrize("name", sorted(SCHEDULES))


def critical_path(timetable, seconds):
    """The longest chain of actions of which each needs the one before."""
    needs = nx.DiGraph()
    ends = {}
    for rank, actions in enumerate(timetable.ranks):
        needs.add_node((rank, 0), seconds=0)
        for at, action in enumerate(actions):
            needs.add_node((rank, at + 1), seconds=seconds[action.stage].seconds(action.kind))
            needs.add_edge((rank, at), (rank, at + 1))
            if action.message:
                ends.setdefault(action.message, {})[action.kind.value[0]] = (rank, at + 1)
    needs.add_edges_from((each["S"], each["R"]) for each in ends.values())
    longest = {}
    for node in nx.topological_sort(needs):
        before = max((longest[each] for each in needs.predecessors(node)), default=0)
        longest[node] = before + needs.nodes[node]["seconds"]
    return max(longest.values())


@names
@given(layout=layouts(), steps=st.integers(1, 4))
def test_every_stage_is_trained_on_every_batch_once(name, layout, steps):
    schedule = parse(name, SCHEDULES)
    timetable = schedule.timetable(layout, steps)
    check(timetable, layout)
    count = Counter()
    for actions in timetable.ranks:
        for action in actions:
            count[action.kind is Kind.FORWARD, action.stage, action.batch] += (
                action.kind is Kind.FORWARD or action.kind in BACKWARDS
            )
    every = [(stage, batch) for stage in range(layout.stages) for batch in range(steps * schedule.batches)]
    assert count == {(way, *each): 1 for way in (True, False) for each in every}


@names
@given(layout=layouts(), steps=st.integers(1, 3))
def test_the_text_of_a_timetable_reads_as_the_same(name, layout, steps):
    timetable = parse(name, SCHEDULES).timetable(layout, steps)
    assert parse_timetable(str(timetable)) == timetable


@names
@given(data=st.data(), layout=layouts())
def test_without_a_network_between_them_ranks_take_as_long_as_the_critical_path(name, data, layout):
    timetable = parse(name, SCHEDULES).timetable(layout, 3)
    seconds = data.draw(costs(layout))
    outcome = simulate(timetable, layout, seconds)
    assert outcome.seconds == critical_path(timetable, seconds)
    assert outcome.seconds >= max(map(outcome.busy, range(layout.ranks)))


@names
@given(data=st.data(), layout=layouts(), bandwidth=st.sampled_from([1, 0.5]), latency=st.integers(0, 3))
def test_a_network_never_makes_it_faster_and_nothing_comes_before_it_can(
    name, data, layout, bandwidth, latency
):
    timetable = parse(name, SCHEDULES).timetable(layout, 3)
    seconds = data.draw(costs(layout))
    outcome = simulate(timetable, layout, seconds, Network(bandwidth, latency))
    assert outcome.seconds >= critical_path(timetable, seconds)
    for message, arrived in outcome.arrived.items():
        size = outcome.bytes[message[:3]]
        assert arrived >= outcome.sent[message] + size / bandwidth + latency
    lines = Counter()
    for message in outcome.sent:
        lines[timetable.rank_of[message.sender], "out"] += outcome.bytes[message[:3]] / bandwidth
        lines[timetable.rank_of[message.receiver], "in"] += outcome.bytes[message[:3]] / bandwidth
    assert max(lines.values(), default=0) + latency * bool(lines) <= max(outcome.arrived.values(), default=0)


@names
@given(data=st.data(), layout=layouts())
def test_ranks_are_busy_with_what_they_compute_and_with_the_messages_that_they_send_and_take(
    name, data, layout
):
    timetable = parse(name, SCHEDULES).timetable(layout, 3)
    seconds = data.draw(costs(layout))
    network = Network(sending=Handling(1, 2), receiving=Handling(3, 1))
    outcome = simulate(timetable, layout, seconds, network)
    for rank, actions in enumerate(timetable.ranks):
        work = 0
        for action in actions:
            size = outcome.bytes[action.message[:3]] if action.message else 0
            work += 1 + 2 * size if action.kind in SENDS else 3 + size if action.kind in RECEIVES else 0
            work += seconds[action.stage].seconds(action.kind)
        assert outcome.busy(rank) == work
    assert outcome.seconds >= simulate(timetable, layout, seconds).seconds


@names
@given(data=st.data(), layout=layouts())
def test_all_that_is_held_is_given_back(name, data, layout):
    outcome = simulate(parse(name, SCHEDULES).timetable(layout, 2), layout, data.draw(costs(layout)))
    for rank in range(layout.ranks):
        assert sum(change for _, change in outcome._changes(rank)) == 0
        assert outcome.peak(rank) >= max(outcome.costs[stage].saved for stage in layout.own(rank))


@names
def test_the_text_of_a_schedule_reads_as_the_same(name):
    schedule = parse(name, SCHEDULES)
    assert schedule.name == name
    assert parse(str(schedule), SCHEDULES) == schedule
