"""One model trained twice: on several devices, which may be pretended, and on one."""

import copy
from functools import partial

import pytest
import torch

import dni_fx
from tests.equality import assert_same
from tests.pretended import HALF, PAIR, pretended

COUNT = torch.cuda.device_count() if torch.cuda.is_available() else 0
PAIRS = [
    pytest.param(("cpu", "cpu"), id="twice"),
    pytest.param(PAIR, id="pretended"),
    pytest.param(HALF, id="half"),
    pytest.param(
        ("cpu", "cuda:0"), id="mixed", marks=pytest.mark.skipif(COUNT < 1, reason="there is no GPU")
    ),
    pytest.param(
        ("cuda:0", "cuda:1"), id="gpus", marks=pytest.mark.skipif(COUNT < 2, reason="there are no two GPUs")
    ),
]
ADAM = partial(torch.optim.Adam, lr=0.01)


@pytest.fixture(params=PAIRS)
def devices(request):
    if is_pretended(request.param):
        request.getfixturevalue("machine")
    return request.param


def is_pretended(devices):
    return devices in (PAIR, HALF)


def tolerance(devices):
    return 1e-5 if "cuda:0" in devices else 0.0


def spread(cut, devices):
    """A twin that can be put on these devices."""
    twin = copy.deepcopy(cut)
    return pretended(twin) if is_pretended(devices) else twin


def state_of(cut):
    return {name: each.detach().cpu() for name, each in cut.state_dict().items()}


def assert_same_models(ours, theirs, devices):
    assert_same(state_of(ours), state_of(theirs), tolerance(devices))


def whereabouts(cut):
    return {str(each.device) for each in cut.parameters()}


def both(cut, devices, options="", **recipe):
    """A trainer without devices, and one of a twin with them."""
    runtime = f"local:devices={'+'.join(devices)}{options}"  # what the command line takes, too
    ours = dni_fx.Trainer(spread(cut, devices), runtime=runtime, optimizer=ADAM, **recipe)
    plain = f"local:{options[1:]}" if options else "local"
    return ours, dni_fx.Trainer(cut, runtime=plain, optimizer=ADAM, **recipe)
