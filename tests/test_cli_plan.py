"""What `dni-fx plan` prints and writes."""

import json

import pytest
import torch

import dni_fx
from dni_fx import demo
from dni_fx.errors import DniError, PlanError
from passes import Plan
from tests.commands import MLP, in_an_empty_folder, module, run

__all__ = ["in_an_empty_folder"]

THREE = f"plan {MLP} --plan at:after=1+3"


def shown(command):
    return json.loads(run(f"{command} --json"))


def test_the_table_has_a_line_for_each_stage_and_each_crossing_value():
    summary, stages, crossing, end = run(THREE).split("\n\n")
    assert summary == "3 stages of 2, 2, 3 values, by at:after=1+3"
    assert [line[:5].strip() for line in stages.splitlines()] == ["stage", "0", "", "1", "", "2", "", "all"]
    assert [line.split()[:2] for line in crossing.splitlines()[1:]] == [["0", "1"], ["1", "3"]]
    assert end.startswith("balance: ")


def test_a_plan_on_stdout_is_the_plan_in_a_file_and_nothing_else(tmp_path):
    run(f"{THREE} -o plan.json")
    assert run(f"{THREE} -o -") == (tmp_path / "plan.json").read_text("utf-8")
    assert json.loads(run(f"{THREE} -o -")) == shown(THREE)["plan"]


def test_a_plan_is_written_edited_and_read_again(tmp_path):
    run(f"{THREE} -o plan.json")
    text = (tmp_path / "plan.json").read_text("utf-8")
    (tmp_path / "edited.json").write_text(text.replace('"1": 0', '"1": 1'), "utf-8")
    edited = Plan.from_json(run(f"plan {MLP} --plan edited.json -o -"))
    assert edited.stage_of == {**Plan.from_json(text).stage_of, "1": 1}


def test_the_plan_of_a_cut_model_is_the_one_that_it_was_cut_by(tmp_path):
    run(f"{THREE} -o plan.json")
    run(f"decouple {MLP} --plan plan.json -o cut.pt2")
    run("plan cut.pt2 -o again.json --picture plan.svg")
    assert (tmp_path / "again.json").read_text("utf-8") == (tmp_path / "plan.json").read_text("utf-8")
    assert (tmp_path / "plan.svg").stat().st_size > 0
    assert shown("plan cut.pt2")["sheet"]["stages"] == shown(THREE)["sheet"]["stages"]


def test_nodes_are_listed_with_their_stages():
    lines = run(f"{THREE} --nodes").splitlines()
    rows = [line.split() for line in lines[1:8]]
    assert [(int(row[0]), row[1]) for row in rows] == list(
        zip([0, 0, 1, 1, 2, 2, 2], map(str, range(7)), strict=True)
    )


def test_times_are_there_if_they_were_measured():
    assert {node["seconds"] for node in shown(THREE)["nodes"]} == {None}
    measured = shown(f"{THREE} --measure")
    assert measured["sheet"]["cost"] == "seconds"
    assert all(node["seconds"] >= 0 for node in measured["nodes"])


@pytest.mark.parametrize(("limit", "fits"), [("8GiB", True), ("1kB", False)])
def test_memory_is_predicted_and_compared_with_the_limit(limit, fits):
    memory = shown(f"{THREE} --memory {limit} --optimizer sgd --synthesizer linear")["memory"]
    weights = sum(p.numel() * p.element_size() for p in demo.mlp()[0].parameters())
    assert (memory["weights"], memory["optimizer"]) == (weights, 0)
    assert all(method["fits"] == fits for method in memory["methods"])
    assert memory["advice"] in run(f"{THREE} --memory {limit} --optimizer sgd --synthesizer linear")


def test_memory_is_not_predicted_unasked():
    assert "memory" not in shown(THREE)


def test_an_overlay_is_written_for_an_exported_program(tmp_path):
    model, example = demo.mlp()
    torch.export.save(torch.export.export(model, (example,)), tmp_path / "model.pt2")
    said = run("plan model.pt2 --plan balanced:stages=2 --overlay overlay.json")
    written = [line.removeprefix("wrote ") for line in said.splitlines() if line.startswith("wrote ")]
    assert written == ["overlay.stage.json", "overlay.bytes.json", "overlay.flops.json"]
    assert all(json.loads((tmp_path / name).read_text("utf-8")) for name in written)


def test_the_plan_of_a_file_is_shown_whatever_front_end_made_its_graph(tmp_path):
    """A file holds an exported graph, with more values than the traced one that the plan was made for."""
    module(
        tmp_path,
        "normed",
        "def make():\n"
        "    layers = [each for _ in 'ab' for each in (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())]\n"
        "    return nn.Sequential(*layers), torch.ones(3, 4)\n",
    )
    run("decouple normed:make --plan at:after=2 -o cut.pt2")
    sheet = shown("plan cut.pt2")["sheet"]
    assert [row["crossings"][0]["anchor"] for row in sheet["stages"][:1]] == ["2"]
    assert json.loads(run("plan cut.pt2 -o -"))["policy"] == "at:after=2"
    run("plan cut.pt2 --picture plan.html")
    run("plan normed:make --plan at:after=2 --picture code.html")
    assert (tmp_path / "plan.html").read_text("utf-8").count("Stage") == (
        (tmp_path / "code.html").read_text("utf-8").count("Stage")
    )


def test_what_is_recomputed_costs_in_each_stage_that_does_so():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))

        def forward(self, x):
            weight = self.one @ self.other
            return torch.tanh(torch.tanh(x @ weight) @ weight)

    program = dni_fx.capture(Shared(), torch.ones(1, 4))
    whole, cut = (dni_fx.plan(program, plan).sheet for plan in ("at", "at:after=:tanh"))
    product = 3 * 2 * 4**3
    assert sum(row.flops for row in cut.stages) == sum(row.flops for row in whole.stages) + product


def test_a_plan_of_a_model_asks_for_a_program_and_a_plan_comes_back_with_its_table():
    model, x = demo.mlp()
    with pytest.raises(DniError, match="this is a Sequential and no program"):
        dni_fx.plan(model, "balanced")
    program = dni_fx.capture(model, (x,))
    plan = Plan.from_json(dni_fx.plan(program, "at:after=3").to_json())
    assert str(dni_fx.plan(program, plan)) == str(dni_fx.plan(program, "at:after=3"))
    with pytest.raises(PlanError, match="belongs to another graph"):
        dni_fx.plan(program, Plan({"nothing": 0}))
