"""An overlay speaks of exactly the nodes that the file holds, and gives each the stage that the plan says."""

import json

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.overlay import write_overlay
from dni_fx.palette import HEAT, heat, mixed, stage_color
from passes import Plan, PreconditionError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + x)


INPUTS = (torch.rand(2, 4, 6, 6),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, what torch.export makes of it, and what a `.pt2` of that holds."""
    model = nn.Sequential(Block(), Block(), Block(), nn.Flatten(), nn.Linear(144, 3))
    exported = torch.export.export(model, INPUTS)
    file = tmp_path_factory.mktemp("model") / "model.pt2"
    torch.export.save(exported, file)
    return model, exported, torch.export.load(file)


def overlays(exported, plan, folder, **options):
    """The overlays by name, as they are read back."""
    files = write_overlay(exported, plan, folder / "plan.json", **options)
    read = [json.loads(file.read_text("utf-8")) for file in files]
    assert all(list(each) == ["graph"] for each in read)
    return {each["graph"]["name"]: each["graph"] for each in read}


@pytest.mark.parametrize("frontend", ["symbolic", "export", "dynamo"])
def test_every_operation_of_the_file_has_a_stage_bytes_and_a_cost(saved, tmp_path, frontend):
    model, exported, read = saved
    plan = dni_fx.plan(dni_fx.capture(model, INPUTS, frontend=frontend), "balanced:stages=3")
    found = overlays(exported, plan, tmp_path)
    assert list(found) == ["stage", "bytes", "flops"]
    operations = [node.name for node in read.graph.nodes if node.op not in {"placeholder", "output"}]
    assert all(list(each["results"]) == operations for each in found.values())


@pytest.mark.parametrize("frontend", ["symbolic", "export", "dynamo"])
def test_the_stage_of_a_node_is_that_of_the_module_call_that_it_comes_from(saved, tmp_path, frontend):
    model, exported, _ = saved
    plan = dni_fx.plan(dni_fx.capture(model, INPUTS, frontend=frontend), "at:after=0+1")
    results = overlays(exported, plan, tmp_path)["stage"]["results"]
    for node in exported.graph.nodes:
        if node.name in results and "running" not in node.name and not node.name.startswith("add_"):
            path = list(node.meta["nn_module_stack"].values())[-1][0].partition(".")[0]
            stage = min(int(path), 2)
            assert results[node.name]["value"] == f"stage {stage}"
            assert results[node.name]["bgColor"] == stage_color(stage)


def test_bytes_are_those_of_the_values_in_the_file(saved, tmp_path):
    _, exported, read = saved
    plan = dni_fx.plan(dni_fx.capture(exported), "balanced:stages=2")
    results = overlays(exported, plan, tmp_path)["bytes"]["results"]
    for node in read.graph.nodes:
        if node.name in results:
            value = node.meta["val"]
            assert results[node.name]["value"] == value.numel() * value.element_size()


def test_the_gradient_of_numbers_runs_from_0_to_1(saved, tmp_path):
    _, exported, _ = saved
    plan = dni_fx.plan(dni_fx.capture(exported), "balanced:stages=2")
    found = overlays(exported, plan, tmp_path, cost="parameters")
    for name in ("bytes", "parameters"):
        stops = [each["stop"] for each in found[name]["gradient"]]
        assert stops == sorted(stops)
        assert (stops[0], stops[-1]) == (0, 1)


def test_the_plan_of_another_model_is_refused(saved, tmp_path):
    with pytest.raises(dni_fx.DniError, match="belongs to another model"):
        write_overlay(saved[1], Plan({"other": 0}), tmp_path / "plan.json")


def test_another_suffix_and_an_unknown_cost_are_refused(saved, tmp_path):
    plan = dni_fx.plan(dni_fx.capture(saved[1]), "balanced:stages=2")
    with pytest.raises(dni_fx.DniError, match=r"ends in \.json"):
        write_overlay(saved[1], plan, tmp_path / "plan.txt")
    with pytest.raises(PreconditionError, match="one of flops"):
        write_overlay(saved[1], plan, tmp_path / "plan.json", cost="money")
    with pytest.raises(dni_fx.DniError, match="No such file"):
        write_overlay(saved[1], plan, tmp_path / "none" / "plan.json")


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_heat_gets_darker_and_black_can_be_read_on_all_of_it():
    scale = [luminance(heat(step / 40)) for step in range(41)]
    assert scale == sorted(scale, reverse=True)
    assert len(set(scale)) == len(scale)
    ink = luminance("#1a1a1a")
    assert all((light + 0.05) / (ink + 0.05) >= 4.5 for light in scale)  # WCAG 2, level AA


def test_heat_is_clamped_to_its_ends():
    assert heat(-1) == heat(0) == HEAT[0]
    assert heat(2) == heat(1) == HEAT[-1]
    assert mixed("#102030", "#405060", 0) == "#102030"


def test_neighboring_stages_differ_in_color():
    assert all(stage_color(stage) != stage_color(stage + 1) for stage in range(20))
