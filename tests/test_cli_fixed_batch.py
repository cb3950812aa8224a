"""Models that compute with their batch size as a number, on the command line."""

import json

import pytest
import torch

from tests.commands import in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

FIXED = """
class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).reshape(int(x.shape[0]) * 8).reshape(4, 8))

def make():
    return Fixed(), torch.randn(4, 6)

def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 6, generator=draw), torch.randint(3, (ROWS,), generator=draw)
"""
SAID = "the batch size is fixed to 4, that of the example"


def test_what_is_written_says_that_the_batch_size_is_fixed(tmp_path):
    module(tmp_path, "fixed_written", FIXED)
    cut = "decouple fixed_written:make --plan balanced:stages=2 -o cut.pt2"
    assert SAID in run(cut)
    assert json.loads(run(f"{cut} --json"))["fixed_batch"] == 4
    assert SAID in run("recouple cut.pt2 -o plain.pt2")
    assert json.loads(run("recouple cut.pt2 -o plain.pt2 --json"))["fixed_batch"] == 4
    (sizes,) = [
        node.meta["val"].shape
        for node in torch.export.load("plain.pt2").graph.nodes
        if node.op == "placeholder" and node.name == "x"
    ]
    assert tuple(sizes) == (4, 6)
    assert "batch size" not in run("recouple cut.pt2 -o weights.pt")  # which any batch size can use


def test_a_free_batch_size_is_not_spoken_of():
    cut = "decouple dni_fx.demo:mlp --plan balanced:stages=2 -o cut.pt2"
    assert "batch size" not in run(cut)
    assert json.loads(run(f"{cut} --json"))["fixed_batch"] is None
    assert "batch size" not in run("recouple cut.pt2 -o plain.pt2")
    assert json.loads(run("recouple cut.pt2 -o plain.pt2 --json"))["fixed_batch"] is None


@pytest.mark.parametrize(
    ("rows", "size", "remedy"),
    [(32, 32, "use --batch-size 4."), (10, 4, "the samples of each part must be a multiple of 4.")],
)
def test_training_with_other_batches_says_which_size_to_pass(rows, size, remedy, tmp_path):
    name = f"fixed_trained_{size}"
    module(tmp_path, name, FIXED.replace("ROWS", str(rows)))
    run(f"decouple {name}:make --plan balanced:stages=2 -o cut.pt2")
    told = refusal(f"train cut.pt2 --data {name}:data --batch-size {size}")
    assert "takes inputs of sizes ((4, 6),)" in told
    assert told.endswith(f"The batch size is fixed: {remedy}")
    if rows % 4 == 0:
        assert "epoch 1" in run(f"train cut.pt2 --data {name}:data --batch-size 4")
