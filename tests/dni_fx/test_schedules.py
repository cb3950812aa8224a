"""Timetables that can be read, and what they are worth by hand."""

from fractions import Fraction

import pytest

from dni_fx.errors import ScheduleError
from dni_fx.schedules import SCHEDULES
from dni_fx.schedules.costs import Bookkeeping, Handling, Network, StageCost
from dni_fx.schedules.drawing import draw
from dni_fx.schedules.layout import Connection, Layout, chain
from dni_fx.schedules.simulation import simulate
from passes import parse
from tests.layouts import UNIT

EXACT = StageCost(Fraction(1), Fraction(2), Fraction(1), saved=1)


def timetable_of(spec, layout, steps=1):
    return parse(spec, SCHEDULES).timetable(layout, steps)


def outcome_of(spec, ranks, cost=EXACT, network=None):
    schedule, layout = parse(spec, SCHEDULES), chain(ranks)
    return simulate(schedule.timetable(layout, schedule.enough), layout, [cost] * ranks, network)


def each(measure, outcome):
    return [measure(rank) for rank in range(len(outcome.spans))]


def test_gpipe_runs_all_forward_passes_before_the_first_backward_pass():
    assert str(timetable_of("gpipe:micro=2", chain(2))) == (
        "0: F0.0 SV0>1.0 F0.1 SV0>1.1 RG0<1.0 B0.0 RG0<1.1 B0.1 U0.1\n"
        "1: RV1<0.0 F1.0 RV1<0.1 F1.1 B1.0 SG1>0.0 B1.1 SG1>0.1 U1.1"
    )


def test_1f1b_begins_with_as_many_forward_passes_as_ranks_follow():
    assert str(timetable_of("1f1b:micro=3", chain(2))) == (
        "0: F0.0 SV0>1.0 F0.1 SV0>1.1 RG0<1.0 B0.0 F0.2 SV0>1.2 RG0<1.1 B0.1 RG0<1.2 B0.2 U0.2\n"
        "1: RV1<0.0 F1.0 B1.0 SG1>0.0 RV1<0.1 F1.1 B1.1 SG1>0.1 RV1<0.2 F1.2 B1.2 SG1>0.2 U1.2"
    )


def test_zero_bubble_puts_off_gradients_of_parameters():
    assert str(timetable_of("zero-bubble:micro=2", chain(2))) == (
        "0: F0.0 SV0>1.0 F0.1 SV0>1.1 RG0<1.0 I0.0 W0.0 RG0<1.1 I0.1 W0.1 U0.1\n"
        "1: RV1<0.0 F1.0 I1.0 SG1>0.0 RV1<0.1 F1.1 I1.1 SG1>0.1 W1.0 W1.1 U1.1"
    )


def test_dni_waits_for_no_gradient_younger_than_its_lag_and_for_all_in_the_end():
    assert str(timetable_of("dni:lag=1", chain(2), 2)) == (
        "0: F0.0 SV0>1.0 S0.0 U0.0 F0.1 SV0>1.1 S0.1 U0.1 RG0<1.0 R0.0 RG0<1.1 R0.1\n"
        "1: RV1<0.0 F1.0 B1.0 SG1>0.0 U1.0 RV1<0.1 F1.1 B1.1 SG1>0.1 U1.1"
    )


def test_what_stays_on_a_rank_is_not_sent():
    assert str(timetable_of("dni:lag=0", chain(1, 2))) == "0: F0.0 S0.0 U0.0 F1.0 B1.0 U1.0 R0.0"
    assert str(timetable_of("gpipe:micro=1", chain(1, 2))) == "0: F0.0 F1.0 B1.0 B0.0 U0.0 U1.0"


def test_no_gradient_comes_back_for_what_carries_none():
    layout = Layout(2, 2, (Connection(0, 1, 8, carries=False),))
    assert str(timetable_of("dni", layout)) == "0: F0.0 SV0>1.0 B0.0 U0.0\n1: RV1<0.0 F1.0 B1.0 U1.0"


@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (2, 3), (4, 4), (8, 2), (3, 16)])
def test_the_bubble_of_gpipe_is_what_its_authors_say(ranks, micro):
    outcome = outcome_of(f"gpipe:micro={micro}", ranks)
    assert outcome.bubble == Fraction(ranks - 1, micro + ranks - 1)
    assert outcome.period == Fraction(3 * (micro + ranks - 1), micro)
    assert each(outcome.in_flight, outcome) == each(outcome.peak, outcome) == [micro] * ranks


@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (2, 3), (4, 4), (8, 2), (3, 16)])
def test_1f1b_takes_as_long_as_gpipe_and_holds_fewer_batches(ranks, micro):
    outcome = outcome_of(f"1f1b:micro={micro}", ranks)
    assert outcome.period == outcome_of(f"gpipe:micro={micro}", ranks).period
    held = [min(ranks - rank, micro) for rank in range(ranks)]
    assert each(outcome.in_flight, outcome) == each(outcome.peak, outcome) == held


@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (2, 4), (4, 8), (3, 16)])
def test_zero_bubble_waits_a_third_as_long_as_1f1b_and_holds_no_more_than_its_first_rank(ranks, micro):
    outcome = outcome_of(f"zero-bubble:micro={micro}", ranks)
    assert outcome.period == Fraction(3 * micro + ranks - 1, micro)
    assert max(each(outcome.in_flight, outcome)) == min(ranks, micro)


@pytest.mark.parametrize("ranks", [1, 2, 4, 64])
def test_dni_has_no_bubble_in_the_steady_state(ranks):
    outcome = outcome_of("dni:lag=1", ranks, StageCost(Fraction(1), Fraction(2), guess=1, regress=2, step=1))
    # The last stage guesses nothing, and has no guess to learn from: of 7 seconds it has work for 4.
    assert each(outcome.idle, outcome) == [0] * (ranks - 1) + [Fraction(3, 7) if ranks > 1 else 0]
    assert outcome_of("dni:lag=1", ranks).bubble == 0
    assert outcome_of("dni:lag=1", ranks).period == 3


def test_the_slowest_stage_bounds_the_throughput_of_dni_and_nothing_else_does():
    schedule, layout = parse("dni", SCHEDULES), chain(5)
    costs = [StageCost(Fraction(each), Fraction(each)) for each in (1, 2, 5, 3, 1)]
    outcome = simulate(schedule.timetable(layout, 30), layout, costs)
    assert outcome.period == 10
    assert each(outcome.idle, outcome) == [1 - Fraction(own, 5) for own in (1, 2, 5, 3, 1)]


@pytest.mark.parametrize("lag", [0, 1, 10, 33, 34, 40])
def test_a_lag_that_covers_the_round_trip_hides_it(lag):
    outcome = outcome_of(f"dni:lag={lag}", 2, EXACT, Network(latency=50))
    # A pass forward (1), the way there (50), all of the last stage (3) and the way back take 104 seconds.
    assert outcome.period == max(Fraction(104, lag + 1), 3)


def test_who_waits_for_whom_is_told_and_how_long_the_way_is():
    (wait, *_) = outcome_of("dni:lag=0", 2, EXACT, Network(latency=50)).waits()
    assert (wait.rank, wait.sender) in {(0, 1), (1, 0)}
    assert 0 < wait.on_the_way <= wait.share < 1
    assert outcome_of("dni", 3).waits() == []


def test_handling_messages_is_no_waiting():
    network = Network(latency=50, sending=Handling(1), receiving=Handling(2))
    outcome = outcome_of("dni:lag=0", 2, UNIT, network)
    # A pass forward (1), all of the last stage (3), and twice to send (1), the way (50) and to take (2).
    assert outcome.period == 110
    assert {(wait.rank, wait.sender, round(110 * wait.share)) for wait in outcome.waits()} == {
        (0, 1, 110 - 1 - 2 - 1 - 2),
        (1, 0, 110 - 3 - 1 - 2),
    }
    picture = draw({"dni": outcome}, steps=2)
    assert "<title>SV0&gt;1.0 handles messages, 1 s to 2 s</title>" in picture
    assert "<title>waits at RV1&lt;0.0 for rank 0, 0 s to 52 s</title>" in picture
    assert "<title>RV1&lt;0.0 handles messages, 52 s to 54 s</title>" in picture


@pytest.mark.parametrize(("ranks", "micro"), [(1, 1), (2, 4), (4, 3)])
def test_the_bookkeeping_of_a_runtime_takes_time_of_every_pass_and_every_step(ranks, micro):
    cost = Bookkeeping(passing=Fraction(1, 2), step=7).around(EXACT)
    outcome = outcome_of(f"gpipe:micro={micro}", ranks, cost)
    assert outcome.period * micro == (1 + 2 + 2 * Fraction(1, 2)) * (micro + ranks - 1) + 7


def test_ranks_with_several_stages_do_the_work_of_all():
    layout = chain(2, 5)
    outcome = simulate(timetable_of("gpipe:micro=2", layout, 4), layout, [EXACT] * 5)
    assert [list(layout.own(rank)) for rank in range(2)] == [[0, 1], [2, 3, 4]]
    assert [layout.rank_of(stage) for stage in range(5)] == [0, 0, 1, 1, 1]
    assert each(outcome.busy, outcome) == [4 * 2 * 2 * 3, 4 * 2 * 3 * 3]


def test_thousands_of_ranks_take_no_more_memory_each_than_four():
    few, many = (outcome_of("1f1b:micro=4", ranks, UNIT) for ranks in (8, 2000))
    assert max(each(few.peak, few)) == max(each(many.peak, many)) == 4
    assert many.bubble == pytest.approx(1999 / 2003, rel=1e-12)  # times are sums of floats


@pytest.mark.parametrize(
    ("spec", "message"),
    [("gpipe:micro=0", "cannot split a batch into 0"), ("dni:lag=-1", "lag by -1 batches")],
)
def test_options_that_make_no_sense_are_refused(spec, message):
    with pytest.raises(ScheduleError, match=message):
        parse(spec, SCHEDULES)


def test_layouts_that_make_no_sense_are_refused_with_all_that_is_wrong():
    with pytest.raises(ScheduleError, match="each rank needs a stage") as caught:
        Layout(3, 2, (Connection(1, 0), Connection(0, 1), Connection(0, 1)))
    assert "stage 1 cannot send to stage 0" in str(caught.value)
    assert "connected with stage 1 twice" in str(caught.value)


def test_the_speed_of_a_rank_that_takes_one_step_is_not_known():
    layout = chain(2)
    outcome = simulate(timetable_of("gpipe", layout), layout, [UNIT] * 2)
    assert outcome.seconds == 3 * 5
    with pytest.raises(ScheduleError, match="simulate two or more"):
        _ = outcome.period


def test_a_picture_has_a_box_for_all_that_takes_time_and_is_the_same_every_time():
    outcome = outcome_of("gpipe:micro=2", 2, UNIT)
    picture = draw({"gpipe": outcome}, steps=1)
    assert picture == draw({"gpipe": outcome}, steps=1)
    assert "<title>F0.0 forward, 0 s to 1 s</title>" in picture
    assert "<title>B1.1 backward, 5 s to 7 s</title>" in picture
    assert "<title>waits at RV1&lt;0.0 for rank 0, 0 s to 1 s</title>" in picture
    assert "9 s</text>" in picture


def test_a_picture_of_many_ranks_shows_the_first_and_the_last_of_them():
    picture = draw({"1f1b": outcome_of("1f1b", 100, UNIT)})
    assert "rank 23<" in picture
    assert "rank 50<" not in picture
    assert "rank 99<" in picture


def test_a_picture_of_thousands_of_actions_puts_those_together_that_nobody_could_see():
    schedule, layout = parse("gpipe:micro=2000", SCHEDULES), chain(2)
    outcome = simulate(schedule.timetable(layout, 3), layout, [UNIT] * 2)
    picture = draw({"gpipe": outcome}, steps=1)
    assert picture.count("<rect") < 2 * 1000 / 3 + 20
    assert "<title>F0.0 to F0.18, 0 s to 19 s</title>" in picture
