"""`dni-fx simulate`."""

import json

import pytest

from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]


def test_all_schedules_are_compared_on_as_many_ranks_as_stages():
    facts = json.loads(run(f"simulate {MLP} --plan balanced:stages=3 --json"))
    assert list(facts["schedules"]) == ["1f1b", "dni", "gpipe", "zero-bubble"]
    assert facts["plan"] == "balanced:stages=3"
    assert len(facts["stages"]) == facts["planned_stages"] == 3
    for outcome in facts["schedules"].values():
        assert len(outcome["idle"]) == len(outcome["peak_bytes"]) == 3
        assert outcome["throughput"] == pytest.approx(1 / outcome["period"], rel=1e-15)
    assert facts["schedules"]["gpipe"]["in_flight"] == [4, 4, 4]


def test_costs_and_what_crosses_are_those_of_the_plan():
    sheet = json.loads(run(f"plan {MLP} --plan balanced:stages=3 --json"))["sheet"]
    facts = json.loads(run(f"simulate {MLP} --plan balanced:stages=3 --tflops 0.5 --json"))
    for row, cost in zip(sheet["stages"], facts["stages"], strict=True):
        assert cost["forward"] + cost["backward"] == pytest.approx(row["flops"] / 0.5e12, rel=1e-12)
        assert cost["saved"] == row["saved"]
    assert [each["value_bytes"] for each in facts["connections"]] == [
        sum(value["bytes"] for value in row["crossings"]) for row in sheet["stages"][:-1]
    ]


def test_without_a_plan_there_is_a_stage_for_each_rank():
    assert json.loads(run(f"simulate {MLP} --ranks 4 --json"))["plan"] == "balanced:stages=4"
    message = refusal(f"simulate {MLP} --ranks 64")
    assert "asks for 64 stages" in message
    assert "name a plan of fewer stages with --plan" in message


def test_a_plan_of_fewer_stages_is_repeated_and_that_is_said():
    command = f"simulate {MLP} --plan balanced:stages=3 --ranks 7 --schedule gpipe"
    facts = json.loads(run(f"{command} --json"))
    costs = facts["stages"]
    assert costs == [costs[at % 3] for at in range(7)]
    assert [(each["producer"], each["consumer"]) for each in sorted(facts["connections"], key=list_key)] == [
        (at, at + 1) for at in range(6)
    ]
    assert "repeated in order, as in a model 2.33 times as deep" in run(command)


def list_key(connection):
    return connection["producer"]


def test_a_plan_of_one_stage_cannot_be_repeated():
    assert "no value crosses" in refusal(f"simulate {MLP} --plan balanced:stages=1 --ranks 2")


def test_a_slow_network_costs_locked_schedules_more():
    command = f"simulate {MLP} --ranks 3 --tflops 1e-5 --schedule dni --schedule 1f1b --json"
    near, far = (json.loads(run(f"{command} {network}"))["schedules"] for network in ("", "--rtt 500"))
    assert near["dni"]["period"] == pytest.approx(far["dni"]["period"], rel=1e-9)  # sums of floats
    assert far["1f1b"]["period"] > 1.2 * near["1f1b"]["period"]
    assert far["1f1b"]["waits"][0]["on_the_way"] > 0


def test_measured_times_are_used_and_said():
    facts = json.loads(run(f"simulate {MLP} --plan balanced:stages=2 --measure --json"))
    assert facts["cost"] == "seconds"
    assert all(cost["forward"] > 0 for cost in facts["stages"])
    assert "measured here" in facts["notes"][0]


def test_a_value_that_carries_no_gradient_is_sent_and_nothing_comes_back(tmp_path):
    text = """
class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    def forward(self, x):
        mask = (x > 0).float()
        for layer in self.layers:
            x = torch.relu(layer(x)) * mask
        return x
def make():
    return Masked(), torch.ones(4, 8)
"""
    module(tmp_path, "masked_for_simulation", text)
    facts = json.loads(run("simulate masked_for_simulation:make --plan balanced:stages=3 --json"))
    carries = {(each["producer"], each["consumer"]): each["carries"] for each in facts["connections"]}
    assert carries == {(0, 1): True, (1, 2): True, (0, 2): False}
    first = next(each for each in facts["connections"] if each["consumer"] == 1)
    assert first["value_bytes"] == 2 * first["gradient_bytes"] == 2 * 4 * 8 * 4


def test_a_cut_model_is_simulated_as_it_is_cut():
    run(f"decouple {MLP} --plan balanced:stages=3 -o cut.pt2")
    assert json.loads(run("simulate cut.pt2 --json"))["planned_stages"] == 3
    assert "cut already" in refusal("simulate cut.pt2 --plan balanced:stages=2", 2)


def test_a_timetable_is_printed_and_a_picture_drawn(tmp_path):
    shown = run(f"simulate {MLP} --schedule gpipe:micro=2 --timetable --picture steps.svg")
    assert "\ngpipe:micro=2\n0: F0.0 SV0>1.0 F0.1 SV0>1.1 RG0<1.0 B0.0 RG0<1.1 B0.1 U0.1\n1: " in shown
    assert "wrote steps.svg" in shown
    assert (tmp_path / "steps.svg").read_text("utf-8").startswith("<svg")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--measure --tflops 3", 2, "--measure finds the speed out"),
        ("--json --timetable", 2, "--json holds no timetable"),
        ("--picture steps.png", 1, "drawn as a .svg file"),
        ("--bandwidth 50Mb", 1, "is no speed of a network"),
        ("--schedule gpip", 1, "Did you mean 'gpipe'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_read(options, code, message):
    assert message in refusal(f"simulate nowhere:nothing {options}", code)
