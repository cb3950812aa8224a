"""`--carry`: models that return state for their next step, on the command line."""

import json
from itertools import pairwise

import pytest
import torch

import dni_fx
from dni_fx.cli.arrays import Streams, streams_of
from dni_fx.decoupled import cutting_of
from tests.commands import in_an_empty_folder, module, refusal, run
from tests.equality import assert_same

__all__ = ["in_an_empty_folder"]

READER = """
class Reader(nn.Module):
    def __init__(self, swapped=False):
        super().__init__()
        torch.manual_seed(0)
        self.core, self.out, self.swapped = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 4), swapped

    def forward(self, x, state):
        h, state = self.core(x, state)
        return (state, self.out(h)) if self.swapped else (self.out(h), state)

def make():
    return Reader(), (torch.randn(4, 5, 3), torch.zeros(1, 4, 8))

def swapped():
    return Reader(True), (torch.randn(4, 5, 3), torch.zeros(1, 4, 8))

def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(26, 5, 3, generator=draw), torch.randint(4, (26, 5), generator=draw)
"""
CUT = "--carry state={} --plan balanced:stages=1 --synthesizer linear"


def test_a_file_holds_the_edge_back(tmp_path):
    module(tmp_path, "carry_file", READER)
    run(f"decouple carry_file:make {CUT.format(1)} -o cut.pt2")
    cut = dni_fx.load("cut.pt2")
    assert cutting_of(cut).carry.paths == {"state": "1"}
    assert list(dni_fx.boundaries(cut)) == ["carried_state"]
    assert json.loads(run("verify cut.pt2 --json"))["ok"]
    assert run("inspect cut.pt2")


@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_training_carries_state_through_streams_and_sees_the_first_output(runtime, tmp_path):
    module(tmp_path, f"carry_{runtime}", READER)
    name = f"carry_{runtime}"
    run(f"decouple {name}:make {CUT.format(1)} -o cut.pt2")
    report = json.loads(
        run(
            f"train cut.pt2 --data {name}:data --batch-size 4 --lr 0.1 --optimizer sgd --runtime {runtime} "
            "-o trained.pt2 --json"
        )
    )
    assert report["epochs"][0]["steps"] == 6
    cut = dni_fx.load("cut.pt2")
    x, y = (each.unflatten(0, (4, 6)) for each in map(lambda t: t[:24], __import__(name).data()))

    def loss(outputs, target):
        return torch.nn.functional.cross_entropy(outputs[0].flatten(0, 1), target.flatten())

    trainer = dni_fx.Trainer(cut, loss=loss, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), runtime=runtime)
    for at in range(6):
        trainer.step((x[:, at], y[:, at]))
    ours, theirs = dni_fx.load("trained.pt2").state_dict(), cut.state_dict()
    assert_same(
        {name: ours[name] for name in dni_fx.recouple(cut).state_dict()},
        dict(dni_fx.recouple(cut).state_dict()),
    )
    assert ours.keys() == theirs.keys()


def test_the_loss_sees_the_output_that_is_not_carried_wherever_it_is(tmp_path):
    module(tmp_path, "carry_swapped", READER)
    command = "train carry_swapped:{} --data carry_swapped:data --batch-size 4 --json " + CUT
    one, other = (json.loads(run(command.format(*each))) for each in (("make", 1), ("swapped", 0)))
    for report in (one, other):
        report["epochs"][0].pop("seconds")
    assert one["epochs"] == other["epochs"]


def test_a_data_set_comes_in_streams_too(tmp_path):
    more = "\ndef pairs():\n    return torch.utils.data.TensorDataset(*data())\n"
    module(tmp_path, "carry_sets", "import torch.utils.data\n" + READER + more)
    command = f"train carry_sets:make --batch-size 4 --json {CUT.format(1)} --data carry_sets:"
    one, other = (json.loads(run(command + name)) for name in ("data", "pairs"))
    assert one["epochs"][0]["loss"] == other["epochs"][0]["loss"]


def test_streams_hold_every_sample_but_what_is_left_over_and_follow_on():
    x = torch.arange(26)
    batches = [batch for batch, _ in Streams(x, x, 4)]
    assert [len(batch) for batch in batches] == [4] * 6
    assert all(torch.equal(b - a, torch.ones(4, dtype=torch.long)) for a, b in pairwise(batches))
    assert torch.equal(torch.cat(batches).sort().values, x[:24])
    assert [each.tolist() for each in streams_of(x[:4], 2)] == [[0, 2], [1, 3]]


def test_streams_can_be_resumed_in_the_middle():
    x = torch.arange(12)
    whole, part = Streams(x, x, 3), Streams(x, x, 3)
    walk = iter(whole)
    next(walk)
    part.load_state_dict(whole.state_dict())
    assert [b.tolist() for b, _ in part] == [b.tolist() for b, _ in walk]


@pytest.mark.parametrize(
    ("option", "says", "code"),
    [
        ("state", "is not of the form ARGUMENT=OUTPUT", 2),
        ("=1", "is not of the form ARGUMENT=OUTPUT", 2),
        ("state=1 --carry state=0", "state is given two outputs", 2),
        ("state=7", "the model returns a tuple of 2", 1),
        ("memory=1", "this call passes no tensor in it", 1),
    ],
)
def test_an_edge_that_is_none_is_refused(option, says, code, tmp_path):
    name = f"carry_wrong_{abs(hash(option))}"
    module(tmp_path, name, READER)
    assert says in refusal(f"decouple {name}:make --carry {option} -o cut.pt2", code)


def test_too_few_samples_for_the_streams_are_told(tmp_path):
    module(tmp_path, "carry_few", READER)
    said = refusal(f"train carry_few:make {CUT.format(1)} --data carry_few:data --batch-size 99")
    assert "26 samples cannot fill 99 streams" in said


def test_a_model_that_is_cut_already_takes_no_edges(tmp_path):
    run("decouple dni_fx.demo:mlp -o cut.pt2")
    assert "--carry would do nothing" in refusal("verify cut.pt2 --carry state=1", 2)
    assert "--carry would do nothing" in refusal("plan cut.pt2 --carry state=1", 2)


def test_the_boundary_on_the_edge_back_is_shown_wherever_boundaries_are(tmp_path):
    module(tmp_path, "carry_shown", READER)
    made = json.loads(run(f"decouple carry_shown:make {CUT.format(1)} -o cut.pt2 --json"))
    (crossing,) = made["boundaries"]
    assert crossing["boundary"] == "carried_state"
    assert crossing["shape"] == ["b", 8]
    (shown,) = json.loads(run("inspect cut.pt2 --json"))["boundaries"]
    assert {name: shown[name] for name in crossing} == crossing
    assert (shown["synthesizer"], shown["interface"]) == ("linear", "dni")
    assert "carried_state" in run("inspect cut.pt2")
    assert "carried_state: state (b, 8) float32, linear" in run(
        f"decouple carry_shown:make {CUT.format(1)} -o again.pt2"
    )
    run(f"decouple carry_shown:make {CUT.format(1).replace('linear', 'zero')} -o other.pt2")
    assert list(json.loads(run("diff cut.pt2 other.pt2 --json", 1))["boundaries"]["changed"]) == [
        "carried_state"
    ]
    shown = run(f"decouple carry_shown:make {CUT.format(1)} -o once.pt2")
    assert "once.pt2: 1 stage, 1 boundary\n" in shown


@pytest.mark.parametrize(("make", "place"), [("make", 1), ("swapped", 0)])
def test_who_forgets_to_carry_state_is_told_of_the_output_that_is_like_it(make, place, tmp_path):
    name = f"forgotten_{make}"
    data = "\ndef samples():\n    return torch.utils.data.TensorDataset(*data())\n"
    module(tmp_path, name, READER + data)
    for source in ("data", "samples"):
        said = refusal(f"train {name}:{make} --data {name}:{source} --batch-size 4")
        assert "missing a required argument: 'state'" in said
        assert said.endswith(f"pass --carry state={place}.")
    run(f"decouple {name}:{make} -o cut.pt2")
    said = refusal(f"train cut.pt2 --data {name}:data --batch-size 4")
    assert said.endswith(f"cut the model again with --carry state={place}.")


def test_who_forgets_an_input_that_is_no_state_is_told_of_no_option(tmp_path):
    text = READER.replace(
        "return (state, self.out(h)) if self.swapped else (self.out(h), state)", "return self.out(h)"
    )
    module(tmp_path, "no_state", text)
    said = refusal("train no_state:make --data no_state:data --batch-size 4")
    assert "missing a required argument: 'state'" in said
    assert "--carry" not in said
