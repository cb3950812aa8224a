"""What holds in float64 holds in every type, memory format and device that a model may be trained in."""

import contextlib
import copy

import pytest
import torch
from torch.utils._pytree import tree_map

import dni_fx
from tests.equality import assert_same, buffers_of, gradients, seeded
from tests.processors import runs_in_half
from tests.zoo import made

NAMES = [
    "chain",
    "masked",
    "dict-between-layers",
    "convolutions",
    "u-net",
    "lstm",
    "padding-mask",
    "batch-norm",
    "dropout",
    "own-parametrization",
    "mixture-of-experts",
    "embedded",
    "writes-what-crosses",
]
IMAGES = ["convolutions", "u-net", "dense", "resized"]
TYPES = {torch.float32: 1e-6, torch.bfloat16: 2**-6}
"""How far gradients may be apart: those of several readers add up in another order, a rounding each."""


def pair(name, dtype=torch.float32, device="cpu", **options):
    """The model and a cut copy of it, with the inputs, in a type and on a device."""
    model, inputs = made(name)
    model = model.to(device, dtype)
    inputs = tuple(value.to(device, dtype if value.is_floating_point() else None) for value in inputs)
    return model, dni_fx.decouple(copy.deepcopy(model), inputs, plan="balanced:stages=3", **options), inputs


def assert_transparent(model, cut, inputs, around=contextlib.nullcontext):
    """Both modes give the same bits and leave the same buffers behind."""
    for training in (True, False):
        model.train(training), cut.train(training)
        with around():
            assert_same(*(tree_map(_exactly, seeded(each, inputs)) for each in (cut, model)))
        assert_same(buffers_of(cut), buffers_of(model))


def assert_same_gradients(model, cut, inputs, tolerance, around=contextlib.nullcontext):
    model.train(), cut.train()
    with around():
        ours, theirs = gradients(cut, inputs), gradients(model, inputs)
    assert any(each is not None and each.any() for each in theirs.values())
    assert_same({name: ours[name] for name in theirs}, theirs, tolerance=tolerance)


def half():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_lower_precision_keeps_its_bits(name, dtype):
    assert_transparent(*pair(name, dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_true_gradients_of_a_model_of_lower_precision_are_backprops(name, dtype):
    assert_same_gradients(*pair(name, dtype, synthesizer="oracle"), TYPES[dtype])


def running(parts):
    """A pair whose model torch can run under autocast here."""
    model, _, inputs = parts
    if not runs_in_half(model, *inputs):
        pytest.skip("torch has no such layer for this processor")
    return parts


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_the_bits_are_the_models(name):
    assert_transparent(*running(pair(name)), half)


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_true_gradients_are_backprops(name):
    assert_same_gradients(*running(pair(name, synthesizer="oracle")), TYPES[torch.bfloat16], half)


@pytest.mark.parametrize("name", IMAGES)
def test_channels_may_come_last(name):
    model, cut, (x,) = pair(name, synthesizer="oracle")
    model, cut = (each.to(memory_format=torch.channels_last) for each in (model, cut))
    x = x.to(memory_format=torch.channels_last)
    assert_transparent(model, cut, (x,))
    assert seeded(cut, (x,)).stride() == seeded(model, (x,)).stride()
    assert_same_gradients(model, cut, (x,), TYPES[torch.float32])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_bits_and_gradients_are_the_models(name, dtype):
    model, cut, inputs = pair(name, dtype, "cuda", synthesizer="oracle")
    assert_transparent(model, cut, inputs)
    assert_same_gradients(model, cut, inputs, TYPES[dtype])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_on_a_gpu_the_bits_are_the_models(name):
    assert_transparent(*pair(name, device="cuda"), lambda: torch.autocast("cuda", torch.bfloat16))


def _exactly(value):
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
