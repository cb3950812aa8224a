"""A loss is one that the command line knows, or a function that it looks up."""

import json
import re

import numpy as np
import pytest

import dni_fx.device
from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

TRAIN = f"train {MLP} --plan balanced:stages=2 --data dni_fx.demo:clusters --runtime local --json"
EXPORT = f"export {MLP} --plan balanced:stages=2 --form training -o step"
FUNCTIONS = """
class_numbers = [0, 1]

def smoothed(outputs, target):
    return nn.functional.cross_entropy(outputs, target, label_smoothing=0.1)

def same(outputs, target):
    return nn.functional.cross_entropy(outputs, target)

def of_both(outputs, targets):
    first, second = targets
    return (outputs * second).square().mean() + nn.functional.cross_entropy(outputs, first)

def raises(outputs, target):
    raise ValueError("no such target")
"""


@pytest.fixture
def functions(tmp_path):
    module(tmp_path, "their_losses", FUNCTIONS)
    return "their_losses"


def losses(text):
    return [epoch["loss"] for epoch in json.loads(run(text))["epochs"]]


def test_a_model_is_trained_by_a_function(functions):
    named = losses(f"{TRAIN} --loss cross-entropy")
    assert losses(f"{TRAIN} --loss {functions}:same") == named
    assert losses(f"{TRAIN} --loss {functions}:smoothed") != named


def test_a_device_minimizes_a_function(functions):
    run(f"{EXPORT} --loss {functions}:of_both --target 32:int64<10,32x10")
    session = dni_fx.device.open("step", mode="exact")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((6, *session.manifest.inputs[0].shape[1:]), np.float32)
    first, second = generator.integers(10, size=6), generator.standard_normal((6, 10), np.float32)
    (scores,) = session.predict(x)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    expected = ((scores * second) ** 2).mean() - logs[np.arange(6), first].mean()
    assert session.evaluate([(x, [first, second])])["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ask", [TRAIN, EXPORT])
def test_what_is_no_loss_is_refused(ask, functions):
    told = "no loss named 'mae'. Did you mean 'mse'? Known: cross-entropy, mse."
    assert told in refusal(f"{ask} --loss mae")
    assert "has no 'smooth'. Did you mean 'smoothed'?" in refusal(f"{ask} --loss {functions}:smooth")
    assert "is a list, and it has to be a function" in refusal(f"{ask} --loss {functions}:class_numbers")


def test_a_function_does_not_tell_its_targets(functions):
    assert "add --target SHAPE" in refusal(f"{EXPORT} --loss {functions}:same", exit_code=2)


def test_what_a_loss_raises_is_told_with_its_line(functions):
    said = refusal(f"{TRAIN} --loss {functions}:raises")
    assert re.search(r"raises raised ValueError: no such target \(\S*their_losses.py, line 17\)", said)
    said = refusal(f"{EXPORT} --target 32 --loss {functions}:raises")
    assert "cannot trace the graph loss, which is given" in said
    assert "ValueError: no such target" in said


def test_targets_that_do_not_fit_the_example_are_told_with_their_shape(functions):
    said = refusal(f"{EXPORT} --loss {functions}:of_both --target 8:int64<10,8x10")
    assert "the graph loss, which is given v:_6 (32, 10), target.0 (8,), target.1 (8, 10): " in said
