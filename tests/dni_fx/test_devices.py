"""Stages on several devices train to the weights that they have on one."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import nn

import dni_fx
from dni_fx.program import Program
from dni_fx.runtimes.local import Local
from tests.conformance.test_runtimes import MODELS
from tests.equality import assert_same
from tests.pretended import PAIR, machine
from tests.spread import (
    ADAM,
    assert_same_models,
    both,
    devices,
    is_pretended,
    spread,
    state_of,
    tolerance,
    whereabouts,
)
from tests.stirred import stir, stirred_zoo

__all__ = ["devices", "machine"]


def broadcast(outputs, target):
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(F.mse_loss(value, target.expand_as(value)) for value in values)


@pytest.mark.parametrize("interface", ["dni", "dni:warmup=2,fade=1"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_weights_that_it_has_on_one_device(name, interface, devices):
    assert_trains_alike(devices, *stirred_zoo(name, plan="balanced:stages=3", interface=interface))


@pytest.mark.parametrize("name", ["embedded", "lstm", "writes-pieces"])
def test_what_a_graph_makes_on_the_device_of_its_capture_is_moved(name, devices):
    if devices == PAIR:
        pytest.skip("it was captured on neither of them")
    assert_trains_alike(devices, *stirred_zoo(name, plan="balanced:stages=3", frontend="export"))


def assert_trains_alike(devices, cut, inputs):
    ours, theirs = both(cut, devices, loss=broadcast)
    for _ in range(4):
        for trainer in (ours, theirs):
            trainer.step((copy.deepcopy(inputs), torch.full((), 0.3).double()))
    assert_same_models(ours.cut, theirs.cut, devices)
    assert whereabouts(ours.cut) == set(devices)


class Net(nn.Module):
    """Weights that several stages read, buffers, and a value that skips stages."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.second, self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.third.weight = self.second.weight

    def forward(self, x):
        early = self.first(x).tanh()
        inside = self.second(self.norm(early)).relu()
        inside = F.linear(self.third(inside).relu(), self.second.weight) + early
        return self.last(inside)


def task(synthesizer="auto", interface="dni", dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(8, 6).to(dtype)
    batches = [(x + at, torch.arange(8) % 3) for at in range(3)]
    options = {"synthesizer": synthesizer, "interface": interface}
    return stir(dni_fx.decouple(Net().to(dtype), (x,), plan="balanced:stages=4", **options)), batches


CHOICES = [
    ("auto", "dni", ""),
    ("mlp", "dni", ",unlock=forward"),
    ("critic", "dni:stale=1,every=2", ""),
    ("auto", "dni:window=2", ",overlap=true"),
    ("delayed", "dni:warmup=2,fade=2", ",overlap=true"),
    ("sobolev", "dni", ",update_probability=0.5"),
    ("surrogate", "dni", ",update_probability=0.5,unlock=forward,overlap=true"),
    ("mlp", "dni:lr=0", ""),
]


@pytest.mark.parametrize(("synthesizer", "interface", "options"), CHOICES)
def test_every_choice_gives_the_weights_that_it_gives_on_one_device(synthesizer, interface, options, devices):
    cut, batches = task(synthesizer, interface)
    recipe = {"loss": F.cross_entropy, "labels_as_context": True, "accumulate": 2, "clip": 0.5}
    ours, theirs = both(cut, devices, options, **recipe)
    for trainer in (ours, theirs):
        for batch in batches * 3:
            trainer.step(batch)
    assert_same_models(ours.cut, theirs.cut, devices)
    assert whereabouts(ours.cut) == set(devices)


def accuracy(outputs, target):
    return (outputs.argmax(-1) == target).double().mean()


def test_epochs_metrics_and_validation_are_those_on_one_device(devices):
    cut, batches = task()
    both_trainers = both(cut, devices, loss=F.cross_entropy, metrics={"accuracy": accuracy})
    ours, theirs = [
        trainer.fit(batches, 2, validation=batches[:2], progress=False) for trainer in both_trainers
    ]
    for mine, other in zip(ours.epochs, theirs.epochs, strict=True):
        assert mine.metrics == pytest.approx(other.metrics, abs=tolerance(devices))
        assert mine.validation == pytest.approx(other.validation, abs=tolerance(devices))


def test_a_layer_that_is_frozen_on_the_way_is_captured_and_placed_anew(devices):
    cut, batches = task()
    trainers = both(cut, devices, loss=F.cross_entropy, accumulate=2)
    for trainer in trainers:
        for at, batch in enumerate(batches * 3):
            trainer.cut.first.requires_grad_(at < 3)  # while gradients wait
            trainer.step(batch)
    assert_same_models(trainers[0].cut, trainers[1].cut, devices)
    assert whereabouts(trainers[0].cut) == set(devices)


class Switched(nn.Module):
    """Its first layer is read again at the end, while a switch is in train mode."""

    def __init__(self):
        super().__init__()
        self.layers, self.switch = nn.ModuleList(nn.Linear(6, 6) for _ in range(4)), nn.Identity()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return self.layers[0](x) if self.switch.training else x


def test_what_an_optimizer_keeps_follows_parameters_to_another_stage(devices):
    torch.manual_seed(0)
    x = torch.randn(8, 6).double()
    cut = stir(dni_fx.decouple(Switched().double(), (x,), plan="at:after=layers.1", synthesizer="mlp"))
    trainers = both(cut, devices, loss=F.mse_loss, accumulate=2)
    seen = []
    for trainer in trainers:
        trainer.cut.train()
        for at in range(8):
            trainer.cut.switch.train(at not in {3, 4, 5})
            trainer.step((x + at, x))
            seen.append(str(trainer.cut.layers[0].weight.device))
            assert all(follows(optimizer) for optimizer in trainer.worker.updates.optimizers.values())
    assert_same_models(trainers[0].cut, trainers[1].cut, devices)
    first, last = devices
    assert seen[:8] == [last] * 3 + [first] * 3 + [last] * 2


def follows(optimizer):
    """Whether its state is where its parameters are; it counts its steps on the CPU."""
    pairs = [(parameter, each) for parameter, kept in optimizer.state.items() for each in kept.values()]
    return all(each.device == parameter.device for parameter, each in pairs if each.dim())


@pytest.mark.parametrize("number", [2, 3])
def test_a_run_goes_on_from_its_state_on_other_devices_or_on_one(number, devices, tmp_path):
    cut, batches = task("mlp", "dni:stale=1")
    ours, theirs = both(cut, devices, loss=F.cross_entropy)
    for trainer in (ours, theirs):
        for batch in batches * 2:
            trainer.step(batch)
    others = dni_fx.Trainer(
        spread(task("mlp", "dni:stale=1")[0], devices),
        loss=F.cross_entropy,
        optimizer=ADAM,
        runtime=Local(devices=devices[::-1]),
    )
    if is_pretended(devices):  # tensors that pretend are in no file
        others.load_state_dict(copied(ours.state_dict()))
    else:
        ours.save(tmp_path / "run")
        others.load(tmp_path / "run")
    for trainer in (others, theirs):
        for batch in batches[:number]:
            trainer.step(batch)
    assert_same_models(others.cut, theirs.cut, devices)
    assert whereabouts(others.cut) == set(devices)


def copied(state):
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), state)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_and_a_scaled_loss_work_on_devices_of_one_type(kind, devices):
    if devices == ("cpu", "cuda:0"):
        pytest.skip("these are of two types")
    cut, batches = task(dtype=torch.float32)
    trainers = both(cut, devices, loss=F.cross_entropy, autocast=kind, clip=1.0)
    for trainer in trainers:
        for batch in batches * 2:
            trainer.step(batch)
    ours, theirs = [state_of(trainer.cut) for trainer in trainers]
    if tolerance(devices):  # a GPU rounds, and casts, in other places
        assert all(each.isfinite().all() for each in ours.values())
    else:
        assert_same(ours, theirs)


def test_a_model_that_was_moved_is_put_in_its_places_anew_and_can_be_gathered(devices):
    cut, batches = task()
    trainers = both(cut, devices, loss=F.cross_entropy)
    for trainer in trainers:
        for batch in batches * 2:
            trainer.step(batch)
            if trainer is trainers[0]:
                assert whereabouts(trainer.cut) == set(devices)
                for parameter in trainer.cut.parameters():
                    assert parameter.grad is None
                trainer.cut.to(devices[0])
    assert_same_models(trainers[0].cut, trainers[1].cut, devices)
    assert whereabouts(trainers[0].cut) == {devices[0]}
    x = batches[0][0].to(devices[0])
    assert trainers[0].cut.eval()(x).shape == (8, 3)
    trainers[0].cut.train()(x).sum().backward()  # without a trainer, stages are where the model is


def test_graphs_are_captured_with_the_model_on_one_device_and_nothing_moved(devices, monkeypatch):
    cut, batches = task()
    trainer, _ = both(cut, devices, loss=F.cross_entropy)
    seen, annotated = [], Program.annotated

    def noting(*args):
        seen.append((whereabouts(trainer.cut), torch.overrides._get_current_function_mode()))
        return annotated(*args)

    monkeypatch.setattr(Program, "annotated", noting)
    for flag in (True, False, True):
        trainer.cut.first.requires_grad_(flag)  # the first graph is there already
        trainer.step(batches[0])
        assert whereabouts(trainer.cut) == set(devices)
    assert seen == [({devices[0]}, None)]


def test_labels_are_where_the_value_is_that_a_synthesizer_guesses_for(devices):
    cut, batches = task("critic")
    trainer, _ = both(cut, devices, loss=F.cross_entropy, labels_as_context=True)
    seen = []
    for dni in dni_fx.boundaries(trainer.cut).values():
        dni.learner.register_forward_pre_hook(
            lambda module, args: seen.append((str(args[0][0].device), str(args[1].device)))
        )
    trainer.step(batches[0])
    assert {value for value, _ in seen} == set(devices)
    assert all(value == context for value, context in seen)
