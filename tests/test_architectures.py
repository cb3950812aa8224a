"""Published architectures are captured and cut as they are, and train as they did."""

import warnings

import pytest
import torch

import dni_fx
from tests.equality import assert_same, seeded
from tests.zoo.architecture import LIBRARY
from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.checks import CHECKS, Subject, examine

pytest.importorskip(LIBRARY, reason=f"the architectures are those of {LIBRARY}")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_in_three_stages_computes_and_learns_what_it_did(name):
    row = examine(Subject(name, "architectures", ARCHITECTURES[name].dtypes[-1]))
    assert row.failed == {}
    assert row.stages == 3
    assert row.checks == dict.fromkeys(CHECKS, True)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_hooks_that_the_library_puts_there_and_does_not_use_are_traced_through(name):
    """A call that asks for more leaves hooks on the layers, which do nothing from then on."""
    call = ARCHITECTURES[name].call(dtype=torch.float64)
    model, cut = ARCHITECTURES[name].model(torch.float64), ARCHITECTURES[name].model(torch.float64)
    for each in (model, cut):
        each.eval()(**call, output_hidden_states=True)
    cut = dni_fx.decouple(cut.train(), call, plan="balanced:stages=3", synthesizer="oracle")
    assert_same(seeded(cut, (), call), seeded(model.train(), (), call))
    assert_same(seeded(cut.eval(), (), call), seeded(model.eval(), (), call))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_checkpoints_that_the_library_sets_are_traced_through(name):
    call = ARCHITECTURES[name].call(dtype=torch.float64)
    model, plain = ARCHITECTURES[name].model(torch.float64), ARCHITECTURES[name].model(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its new name
        model.gradient_checkpointing_enable()
    cut = dni_fx.decouple(model, call, plan="balanced:stages=3", synthesizer="oracle")
    assert_same(seeded(cut, (), call).loss, seeded(plain, (), call).loss)


def test_the_zoo_holds_29_architectures():
    assert len(ARCHITECTURES) == 29
