"""Options that would do nothing are wrong usage, and are refused by name, so that nobody counts on them."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

CLUSTERS = "--data dni_fx.demo:clusters"


def nothing_by(command):
    """The options that a command is refused for, since they would do nothing."""
    said = refusal(command, 2)
    assert "would do nothing" in said
    return said.partition("Invalid value for ")[2].partition(":")[0]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (f"inspect {MLP} --allow-pickle", "--allow-pickle"),
        (f"diff {MLP} {MLP} --allow-pickle", "--allow-pickle"),
        (f"plan {MLP} --optimizer sgd", "--optimizer"),
        (f"plan {MLP} --synthesizer linear", "--synthesizer"),
        (f"plan {MLP} --dry-run", "--dry-run"),
        (f"plan {MLP} --dry-run -o -", "--dry-run"),
        (f"simulate {MLP} --schedule gpipe --synthesizer linear", "--synthesizer"),
        (f"decouple {MLP} --allow-eval-graph -o cut.pt2", "--allow-eval-graph"),
        (f"train {MLP} {CLUSTERS} --allow-eval-graph", "--allow-eval-graph"),
        (f"train {MLP} {CLUSTERS} --image-size 32", "--image-size"),
        (f"export {MLP} --lr 0.1 -o model.onnx", "--lr"),
    ],
)
def test_an_option_that_goes_with_another_is_refused_without_it(command, option):
    assert nothing_by(command) == option


@pytest.mark.parametrize(
    "command", ["inspect cut.pt2", "plan cut.pt2", "simulate cut.pt2", f"train cut.pt2 {CLUSTERS}"]
)
def test_an_example_for_a_model_that_is_cut_already_is_refused(command):
    run(f"decouple {MLP} -o cut.pt2")
    assert nothing_by(f"{command} --example 8x64") == "--example"
    run(command)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("--plan at:after=3", "--plan"),
        ("--synthesizer linear --interface dni:mix=1", "--synthesizer and --interface"),
        ("--frontend export", "--frontend"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "verify", f"train {CLUSTERS}", "export -o cut.onnx"])
def test_a_way_to_cut_a_model_that_is_cut_already_is_refused(command, options, names):
    run(f"decouple {MLP} -o cut.pt2")
    assert nothing_by(f"{command} cut.pt2 {options}") == names


def test_an_example_for_a_state_dict_is_refused():
    run(f"decouple {MLP} -o cut.pt2")
    assert nothing_by("recouple cut.pt2 --example 8x64 -o plain.pt") == "--example"
    run("recouple cut.pt2 --example 8x64 -o plain.pt2")


def test_a_front_end_for_a_graph_is_refused():
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(4, 3),)), "graph.pt2")
    assert nothing_by("inspect graph.pt2 --frontend export") == "--frontend"


def test_a_size_of_batches_that_come_as_such_is_refused(tmp_path):
    module(tmp_path, "own_batches", "def make():\n    return [(torch.zeros(4, 64), torch.zeros(4).long())]\n")
    command = f"train {MLP} --data own_batches:make"
    assert nothing_by(f"{command} --batch-size 2") == "--batch-size"
    run(command)


@pytest.mark.parametrize("option", ["--frontend export", "--print-after-all"])
def test_what_needs_a_graph_is_not_passed_over_where_there_is_none(option, tmp_path):
    module(tmp_path, "without_example", "def make():\n    return nn.Linear(3, 2)\n")
    assert "an example of the inputs" in refusal(f"inspect without_example:make {option}")


def test_a_pickled_module_is_compared_with_a_state_dict():
    """The other file was taken for a module, too."""
    torch.save(nn.Linear(3, 2), "module.pt")
    found = torch.load("module.pt", weights_only=False)
    save_file({name: each.clone() for name, each in found.state_dict().items()}, "state.safetensors")
    assert "weights: equal" in run("diff module.pt state.safetensors --allow-pickle")


def test_a_boundary_that_is_called_like_an_option_can_be_named(tmp_path):
    text = (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.hidden, self.out = nn.Linear(4, 4), nn.Linear(4, 2)\n"
        "    def forward(self, x):\n        return self.out(self.hidden(x))\n"
        "def make():\n    return Net(), torch.ones(3, 4)\n"
    )
    module(tmp_path, "called_hidden", text)
    command = "inspect called_hidden:make --plan at:after=hidden"
    assert "zero" in run(f"{command} --synthesizer hidden=zero")
    assert "write mlp:hidden=3" in refusal(f"{command} --synthesizer hidden=3")
