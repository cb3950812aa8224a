"""Data sets whose samples are dictionaries, as those of many libraries are."""

import json

import pytest

from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

SAMPLES = """
import torch.utils.data

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, left, right):
        return self.out(torch.relu(self.two(torch.relu(self.one(torch.cat([left, right], -1))))))

class Samples(torch.utils.data.Dataset):
    def __init__(self, **names):
        self.names = names
        self.x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        parts = {"left": self.x[at, :2], "right": self.x[at, 2:], "labels": at % 3}
        return {self.names.get(name, name): each for name, each in parts.items()}

def samples():
    return Samples()

def both():
    return Samples(), Samples()

def renamed():
    return Samples(labels="kind")
"""


def test_the_entries_are_inputs_by_name_and_the_labels_are_the_target(tmp_path):
    module(tmp_path, "dictionaries", SAMPLES)
    command = "train dictionaries:Net --batch-size 8 --json --data dictionaries:"
    found = [json.loads(run(f"{command}{each}")) for each in ("samples", "both", "renamed --target kind")]
    losses = [each["epochs"][0]["loss"] for each in found]
    assert losses[0] == losses[1] == losses[2]
    assert found[1]["test"]


def test_a_target_that_is_not_there_is_told_with_what_is(tmp_path):
    module(tmp_path, "dictionaries_without", SAMPLES)
    said = refusal("train dictionaries_without:Net --data dictionaries_without:renamed")
    assert "dictionaries of left, right, kind, and have no labels" in said
    assert "--target" in said


@pytest.mark.parametrize("data", ["dni_fx.demo:clusters", "pairs:make"])
def test_a_target_of_samples_that_are_no_dictionaries_is_refused(data, tmp_path):
    text = "import torch.utils.data\ndef make():\n    x = torch.zeros(4, 64)\n"
    module(tmp_path, "pairs", text + "    return torch.utils.data.TensorDataset(x, torch.zeros(4).long())\n")
    assert "--target would do nothing" in refusal(f"train {MLP} --data {data} --target labels", 2)
