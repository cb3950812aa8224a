"""A cut model that was saved and loaded goes on as if it never had been."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from tests.archives import rewrite
from tests.equality import assert_same, gradients
from tests.zoo import made
from tests.zoo.plain import Chain

# Running statistics, random draws, shared weights, a value that skips a stage, regions without gradients or
# under autocast, weights that hooks compute: a model for each.
REGIONS = ["regions-without-gradient", "regions-in-children"]
NORMS = ["old-weight-norm", "old-spectral-norm"]
MODELS = ["chain", "batch-norm", "dropout", "tied-layer", "skips-two-stages", *REGIONS, *NORMS]


def losses(model, optimizer, x, steps):
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = model(x)
        loss = F.mse_loss(outputs, torch.ones_like(outputs))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_next_losses_are_the_same_to_the_bit(name, tmp_path):
    model, (x,) = made(name)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2", synthesizer="linear")
    optimizer = torch.optim.Adam(cut.parameters(), lr=1e-2)
    losses(cut, optimizer, x, steps=3)
    dni_fx.save(cut, tmp_path / "cut.pt2")
    state, random = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    expected = losses(cut, optimizer, x, steps=4)

    again = dni_fx.load(tmp_path / "cut.pt2")
    optimizer = torch.optim.Adam(again.parameters(), lr=1e-2)
    optimizer.load_state_dict(state)
    torch.set_rng_state(random)
    assert losses(again, optimizer, x, steps=4) == expected


@pytest.mark.parametrize("name", [*REGIONS, *NORMS])
def test_gradients_in_eval_mode_are_those_of_the_original(name, tmp_path):
    model, (x,) = made(name)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2", synthesizer="linear")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    ours, theirs = gradients(again.eval(), (x,)), gradients(model.eval(), (x,))
    assert_same({name: ours[name] for name in theirs}, theirs)


class MovesItsMean(Chain):
    """A running mean is moved where no gradient is wanted, and nothing else is done there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        x = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x))))
        with torch.no_grad():
            self.mean.lerp_(x.mean(0), 0.1)
        return self.layers[3](torch.tanh(self.layers[2](x - self.mean)))


def test_a_region_that_returns_nothing_still_does_what_it_did(tmp_path):
    model, x = MovesItsMean().double(), torch.randn(3, 6, dtype=torch.float64)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    assert torch.equal(again(x), cut(x))
    assert torch.equal(again.get_buffer("mean"), model.mean)
    assert model.mean.any()


@pytest.mark.parametrize("name", NORMS)
def test_saving_leaves_weights_that_hooks_compute_alone(name, tmp_path):
    model, (x,) = made(name)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2")
    before, state = model.layers[1].weight, copy.deepcopy(model.state_dict())
    dni_fx.save(cut, tmp_path / "cut.pt2")
    assert model.layers[1].weight is before
    assert_same(dict(model.state_dict()), dict(state))


def test_tied_weights_stay_one_parameter(tmp_path):
    model, (x,) = made("tied-layer")
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    ours, theirs = ([n for n, _ in each.named_parameters()] for each in (again, cut))
    assert ours == theirs
    assert list(again.state_dict()) == list(cut.state_dict())


def cut_with_two_interfaces():
    model, (x,) = made("chain")
    plan = "balanced:stages=3"
    first, second = dni_fx.boundaries(dni_fx.decouple(model, (x,), plan=plan))
    interfaces = {first: "dni:mix=0.25,classes=9", second: "dni:mix=0.75,warmup=2"}
    return dni_fx.decouple(model, (x,), plan=plan, interface=interfaces), x, interfaces


def test_each_boundary_comes_back_with_its_own_interface(tmp_path):
    cut, x, interfaces = cut_with_two_interfaces()
    cut(x).sum().backward()
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    assert {name: str(dni.interface) for name, dni in dni_fx.boundaries(again).items()} == interfaces
    assert {dni.spec.classes for dni in dni_fx.boundaries(again).values()} == {9}
    dni_fx.save(again, tmp_path / "again.pt2")
    third = dni_fx.load(tmp_path / "again.pt2")
    assert [dni.interface for dni in dni_fx.boundaries(third).values()] == [
        dni.interface for dni in dni_fx.boundaries(cut).values()
    ]
    for each in (cut, again):
        each.zero_grad()
        each(x).sum().backward()
    for ours, theirs in zip(cut.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_a_file_of_an_earlier_version_can_still_be_read(tmp_path):
    """It had one interface for all boundaries, no guards, no count of steps, and the scale had no module."""
    cut, _, interfaces = cut_with_two_interfaces()
    now = list(cutting_of(cut).interfaces.state_dict())
    dni_fx.save(cut, tmp_path / "cut.pt2")

    def meta(content):
        found = json.loads(content)
        assert found["meta"].pop("interfaces") == interfaces
        found["meta"]["interface"] = "dni:mix=0.5"
        return json.dumps(found).encode()

    def state(content):
        found = json.loads(content)
        table = found["config"]
        assert set(table) == set(now)
        older = {key.replace("scale.", ""): each for key, each in table.items() if "guard" not in key}
        del older["steps"]
        return json.dumps(found | {"config": older}).encode()

    rewrite(tmp_path / "cut.pt2", {"extra/dni_fx.json": meta, "data/dni_fx/state_config.json": state})
    again = dni_fx.load(tmp_path / "cut.pt2")
    assert [str(dni.interface) for dni in dni_fx.boundaries(again).values()] == ["dni:mix=0.5"] * 2
    assert {dni.spec.classes for dni in dni_fx.boundaries(again).values()} == {9}
    torch.testing.assert_close(again.state_dict(), cut.state_dict(), rtol=0, atol=0)


def test_a_synthesizer_larger_than_its_state_is_refused_before_it_takes_up_memory(tmp_path):
    cut, _, _ = cut_with_two_interfaces()
    dni_fx.save(cut, tmp_path / "cut.pt2")

    def meta(content):
        found = json.loads(content)
        found["meta"]["synthesizers"] = dict.fromkeys(
            found["meta"]["synthesizers"], "mlp:hidden=65000,depth=2"
        )
        return json.dumps(found).encode()

    rewrite(tmp_path / "cut.pt2", {"extra/dni_fx.json": meta})
    # A layer of 65,000 to 65,000 takes 17 GB.
    with pytest.raises(dni_fx.DniError, match=r"synthesizers have 8,\d+,\d+,\d+ parameters"):
        dni_fx.load(tmp_path / "cut.pt2")


def test_an_example_that_passes_one_tensor_twice_is_saved_with_two_inputs(tmp_path):
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, a, b):
            return self.layer(a) - b

    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 3)
    cut = dni_fx.decouple(Difference(), (x, x), plan="balanced:stages=1")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    for mode in (True, False):
        assert torch.equal(again.train(mode)(x, y), cut.train(mode)(x, y))
