"""Timetables that are wrong are refused with the reason; who waits in a circle is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_fx.errors import ScheduleError
from dni_fx.schedules.actions import RECEIVES, SENDS, Action, Kind, parse_action
from dni_fx.schedules.bandwidth import parse_bandwidth
from dni_fx.schedules.costs import Handling, Network, StageCost
from dni_fx.schedules.layout import Connection, Layout, chain
from dni_fx.schedules.problems import check
from dni_fx.schedules.simulation import simulate
from dni_fx.schedules.timetable import parse_timetable
from passes import SpecError
from tests.layouts import UNIT

GOOD = "0: F0.0 SV0>1.0 RG0<1.0 B0.0 U0.0\n1: RV1<0.0 F1.0 B1.0 SG1>0.0 U1.0"

numbers = st.integers(0, 10**6)
computing = [kind for kind in Kind if kind not in {**SENDS, **RECEIVES}]
actions = st.one_of(
    st.builds(Action, st.sampled_from(computing), numbers, numbers, st.none()),
    st.builds(Action, st.sampled_from([*SENDS, *RECEIVES]), numbers, numbers, numbers),
)


@given(actions)
def test_the_text_of_an_action_reads_as_the_same(action):
    assert parse_action(str(action)) == action


@pytest.mark.parametrize("text", ["", "F", "F0", "X0.1", "F0>1.0", "SV0.1", "SV0<1.0", "RV0>1.0", "f0.1"])
def test_a_text_that_is_no_action_is_refused(text):
    with pytest.raises(SpecError, match="is no action"):
        parse_action(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F0.0", "rank 0 begins with '0:'"),
        ("1: F0.0", "rank 0 begins with '0:'"),
        ("0: F0.0\n0: F0.0", "rank 1 begins with '1:'"),
        ("0: F0.0\n1: F1", "rank 1: 'F1' is no action"),
    ],
)
def test_a_text_that_is_no_timetable_is_refused_with_the_rank(text, message):
    with pytest.raises(SpecError, match=message):
        parse_timetable(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" SV0>1.0", "", "value of batch 0 from stage 0 to stage 1 is sent never and received once"),
        (" RG0<1.0", "", "gradient of batch 0 from stage 1 to stage 0 is sent once and received never"),
        (" RG0<1.0 B0.0", " B0.0 RG0<1.0", "rank 0 does B0.0 before RG0<1.0"),
        (" RV1<0.0 F1.0", " F1.0 RV1<0.0", "rank 1 does F1.0 before RV1<0.0"),
        (" B1.0 SG1>0.0", " SG1>0.0 B1.0", "rank 1 does SG1>0.0 before B1.0 or I1.0 or S1.0"),
        (" F0.0", " F0.0 F0.0", "stage 0 runs batch 0 forward twice"),
        (" B1.0", "", "stage 1 runs batch 0 backward never"),
        (" B1.0", " I1.0", "stage 1 computes its gradients for batch 0 by halves"),
        (" B0.0", " S0.0", "stage 0 guesses for batch 0 and does not learn"),
        (" U1.0", "", "stage 1 is not updated after batch 0"),
        (" F0.0", " F0.0 F2.0", "rank 0 works on stage 2, which it does not hold"),
    ],
)
def test_a_timetable_that_does_not_train_is_refused_with_the_reason(old, new, message):
    check(parse_timetable(GOOD), chain(2))
    with pytest.raises(ScheduleError) as caught:
        check(parse_timetable(GOOD.replace(old, new)), chain(2))
    assert message in str(caught.value)


def test_a_timetable_for_other_ranks_is_refused():
    with pytest.raises(ScheduleError, match="it is for 2 ranks, and there are 3"):
        check(parse_timetable(GOOD), chain(3))


def test_ranks_that_wait_in_a_circle_are_named():
    # The first rank waits for a gradient before it sends what the other needs to compute it.
    wrong = parse_timetable(GOOD.replace("SV0>1.0 RG0<1.0", "RG0<1.0 SV0>1.0"))
    with pytest.raises(ScheduleError) as caught:
        simulate(wrong, chain(2), [UNIT] * 2)
    assert str(caught.value) == (
        "ranks wait for ever:\n"
        "  * in a circle: 0, 1\n"
        "  * rank 0 waits at RG0<1.0 for rank 1\n"
        "  * rank 1 waits at RV1<0.0 for rank 0"
    )


def test_a_rank_that_waits_for_what_nobody_sends_is_named_before_those_that_wait_for_it():
    text = "0: F0.0\n1: RV1<0.0 F1.0 SV1>2.0\n2: RV2<1.0 F2.0"
    with pytest.raises(ScheduleError) as caught:
        simulate(parse_timetable(text), chain(3), [UNIT] * 3)
    assert str(caught.value).splitlines()[1:] == [
        "  * rank 1 waits at RV1<0.0 for what no rank sends",
        "  * rank 2 waits at RV2<1.0 for rank 1",
    ]


def test_of_many_ranks_that_wait_some_are_named_and_the_others_counted():
    lines = [f"{rank}: RV{rank}<{rank - 1}.0 F{rank}.0 SV{rank}>{rank + 1}.0" for rank in range(1, 500)]
    with pytest.raises(ScheduleError, match="and 491 more ranks"):
        simulate(parse_timetable("\n".join(["0: F0.0", *lines])), chain(500), [UNIT] * 500)


def test_messages_of_one_rank_leave_one_after_another_and_come_in_so():
    # Two values of 10 bytes at 1 byte a second, 5 seconds away: the line out is shared, then the line in.
    layout = Layout(3, 3, (Connection(0, 1, 10, carries=False), Connection(0, 2, 10), Connection(1, 2, 10)))
    text = "0: F0.0 SV0>1.0 SV0>2.0\n1: RV1<0.0 F1.0 SV1>2.0\n2: RV2<0.0 RV2<1.0 F2.0"
    outcome = simulate(parse_timetable(text), layout, [StageCost(1, 0)] * 3, Network(1, 5))
    ends = [[float(span.end) for span in spans] for spans in outcome.spans]
    assert ends == [[1, 1, 1], [16, 17, 17], [26, 36, 37]]


def test_a_message_keeps_its_sender_busy_before_it_leaves_and_its_receiver_when_it_is_taken():
    # 10 bytes at 1 byte a second, 5 seconds away; to send takes 1 second and a tenth a byte, to take 2.
    network = Network(1, 5, sending=Handling(1, 0.1), receiving=Handling(2))
    outcome = simulate(parse_timetable(GOOD), chain(2, value_bytes=10), [UNIT] * 2, network)
    ends = [[span.end for span in spans] for spans in outcome.spans]
    assert ends == [[1, 3, 42, 44, 44], [20, 21, 23, 25, 25]]
    assert [outcome.busy(rank) for rank in range(2)] == [7, 7]


def test_costs_are_for_all_stages():
    with pytest.raises(ScheduleError, match="2 stages by the costs of 1"):
        simulate(parse_timetable(GOOD), chain(2), [UNIT])


@pytest.mark.parametrize(
    ("text", "speed"),
    [("50Mbit", 6.25e6), ("1.5 Gbit/s", 1.875e8), ("8kbps", 1e3), ("10MB", 1e7), ("1GB/s", 1e9)],
)
def test_speeds_are_read_in_bits_and_in_bytes(text, speed):
    assert parse_bandwidth(text) == speed


@pytest.mark.parametrize("text", ["", "50", "50M", "50Mb", "fast", "-1Mbit", "0Mbit", "1.2.3Mbit"])
def test_what_is_no_speed_is_refused(text):
    with pytest.raises(SpecError, match="is no speed of a network"):
        parse_bandwidth(text)
