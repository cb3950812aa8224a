"""Capturing and cutting alter nothing of the model, whether they succeed or fail."""

import contextlib
import copy
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dni_fx import capture, decouple, decouple_
from dni_fx.errors import CaptureError
from dni_fx.frontends import FRONTENDS
from passes import GraphError
from tests.untouched import seen
from tests.zoo import ZOO, made
from tests.zoo.plain import Chain


def marked(model):
    """The model in a state that nothing would leave by itself: modes, gradients and flags are mixed."""
    model.train()
    for child in list(model.children())[::2]:
        child.eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, i) if i % 3 else None
    for parameter in list(model.parameters())[1:][-1:]:
        parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", ZOO)
def test_no_front_end_alters_anything_of_a_model(name):
    model, inputs = made(name)
    marked(model)
    kept = [copy.deepcopy(value) for value in inputs]
    before = seen(model)
    for frontend in FRONTENDS:
        with contextlib.suppress(CaptureError):  # a failure leaves the model alone as well
            capture(model, inputs, frontend=frontend)
        assert seen(model) == before, frontend
    assert str(inputs) == str(tuple(kept))


class Fails(Chain):
    """Half of the forward runs, statistics and random numbers included, before it raises."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout()
        self.log = []

    def forward(self, x):
        x = self.drop(self.norm(self.layers[0](x)))
        self.log.append(random.random() + np.random.rand())
        self.mark = torch.rand(3)
        raise ValueError("in the middle")


class Draws(Chain):
    """Numbers are drawn from every generator that there is."""

    def forward(self, x):
        x = super().forward(x)
        return x * random.random() * np.random.rand() + torch.rand_like(x)


class FailsBelow(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Linear(6, 6), Fails()

    def forward(self, x):
        return self.inner(self.first(x))


class KeepsLists(Chain):
    """State lies in plain attributes: a list, a dictionary, a set, a tensor."""

    def __init__(self):
        super().__init__()
        self.tensors, self.numbers, self.names = [torch.ones(6)], {"scale": 2.0}, {"a", "b"}
        self.offset = torch.ones(6)

    def forward(self, x):
        return super().forward(x) + (x * self.tensors[0] * self.numbers["scale"] + self.offset).sum()


def hooked():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3))
    model.register_forward_hook(lambda module, args, result: result * 2)
    model[1].register_forward_pre_hook(lambda module, args: None)
    model[1].register_full_backward_hook(lambda module, into, out: None)
    model[0].register_state_dict_post_hook(lambda *args: None)
    model[0].weight.register_hook(lambda gradient: gradient)
    return model


def instance_forward():
    model = Chain()
    original = model.forward
    model.forward = lambda x: original(x) + 1
    model.layers[0].forward = lambda x: x * 2
    return model


def reparametrized():
    model = Chain()
    nn.utils.parametrizations.weight_norm(model.layers[0])
    nn.utils.parametrizations.spectral_norm(model.layers[1])
    nn.utils.spectral_norm(model.layers[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older kind, which many checkpoints still have
        nn.utils.weight_norm(model.layers[3])
    return model


ODD = {
    "raises": Fails,
    "raises below": FailsBelow,
    "draws": Draws,
    "plain attributes": KeepsLists,
    "hooks": hooked,
    "forward of an instance": instance_forward,
    "parametrizations": reparametrized,
    "traced": lambda: torch.fx.symbolic_trace(Chain()),
}


@pytest.mark.parametrize("frontend", list(FRONTENDS))
@pytest.mark.parametrize("name", ODD)
def test_neither_capture_nor_decouple_alters_an_odd_model(name, frontend):
    torch.manual_seed(0)
    model, (x,) = marked(ODD[name]().double()), made("chain")[1]
    before = seen(model)
    for verb in (capture, decouple):
        try:
            verb(model, (x,), frontend=frontend)
        except (CaptureError, GraphError):
            assert name not in {"plain attributes", "traced"} or frontend not in {"auto", "export"}
        assert seen(model) == before


def test_a_model_that_cannot_be_decoupled_in_place_stays_what_it_was():
    model, (x,) = marked(Fails().double()), made("chain")[1]
    before = seen(model)
    with pytest.raises(CaptureError, match="Fails itself fails on the example: ValueError: in the middle"):
        decouple_(model, (x,))
    assert seen(model) == before
    model = marked(made("chain")[0])
    before = seen(model)
    with pytest.raises(GraphError, match="asks for 99 stages"):
        decouple_(model, (x,), plan="bottleneck:stages=99")
    assert seen(model) == before


def test_what_is_seen_of_a_model_shows_a_change_of_any_kind():
    def alter(change):
        model = marked(reparametrized())
        before = seen(model)
        change(model)
        return seen(model) != before

    layer = "layers.4"
    changes = [
        lambda m: m.layers[4].weight.data.add_(1),
        lambda m: m.layers[4].train(not m.layers[4].training),
        lambda m: m.get_submodule(layer).register_forward_hook(lambda *args: None),
        lambda m: setattr(m, "new", 1),
        lambda m: setattr(m.layers[4].weight, "grad", torch.zeros_like(m.layers[4].weight)),
        lambda m: m.layers[4].weight.requires_grad_(not m.layers[4].weight.requires_grad),
        lambda m: m.layers.append(nn.Linear(1, 1)),
        lambda m: torch.rand(1),
        lambda m: random.random(),
        lambda m: np.random.rand(),
    ]
    assert [alter(change) for change in changes] == [True] * len(changes)


def test_the_first_use_leaves_pythons_random_state_as_it_was():
    says = (
        "import random, dni_fx; before = random.getstate(); dni_fx.train; print(random.getstate() == before)"
    )
    found = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"
