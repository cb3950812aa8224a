"""Choices for all boundaries, or by pattern: of synthesizers and of interfaces alike."""

import pytest
import torch

import dni_fx
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from passes import UnknownNameError
from tests.zoo import made


def cut_by(**options):
    model, (x,) = made("chain")
    return dni_fx.decouple(model, (x,), plan="balanced:stages=3", **options), x


def names():
    return list(dni_fx.boundaries(cut_by()[0]))


def test_each_boundary_gets_the_interface_of_the_first_pattern_that_matches():
    first, second = names()
    cut, _ = cut_by(interface={first: "dni:mix=0.25", f"{first}*": "dni:mix=1", "*": Interface(mix=0.75)})
    found = dni_fx.boundaries(cut)
    assert (found[first].interface, found[second].interface) == (Interface(mix=0.25), Interface(mix=0.75))


def test_different_mixes_send_different_gradients():
    """Over one boundary a guess of zeros goes up, over the other one half of the truth."""
    for mixes, learning in (((0.5, 0), [False, False, True]), ((0, 0.5), [False, True, True])):
        interface = {name: Interface(mix=mix) for name, mix in zip(names(), mixes, strict=True)}
        cut, x = cut_by(interface=interface, synthesizer="linear")
        cut(x).sum().backward()
        gradients = [[p.grad for p in stage.parameters()] for stage in dni_fx.stages(cut)]
        assert [any(each.any() for each in stage) for stage in gradients] == learning


@pytest.mark.parametrize(("option", "spec"), [("synthesizer", "linear"), ("interface", "dni")])
def test_a_pattern_for_no_boundary_and_a_boundary_without_a_choice_are_refused(option, spec):
    with pytest.raises(SynthesizerError, match=r"no boundary matches nosuch\*\. There are: "):
        cut_by(**{option: {"nosuch*": spec, "*": spec}})
    first, second = names()
    with pytest.raises(SynthesizerError, match=f"no {option} was chosen for the boundary {second}"):
        cut_by(**{option: {first: spec}})


def test_a_choice_by_pattern_that_names_nothing_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'dni'"):
        cut_by(interface={"*": "dmi"})


@pytest.mark.parametrize(("asked", "classes"), [((0, 0), 6), ((10, 0), 10), ((3, 12), 12)])
def test_the_context_has_as_many_classes_as_any_interface_asks_for(asked, classes):
    first, second = names()
    one, other = asked
    interface = {first: Interface(classes=one), second: Interface(classes=other)}
    cut, x = cut_by(interface=interface, synthesizer="linear")
    assert {dni.spec.classes for dni in dni_fx.boundaries(cut).values()} == {classes}
    cut(x, dni_context=torch.full((len(x),), classes - 1)).sum().backward()


def test_interfaces_by_pattern_wait_for_the_first_batch():
    first, _ = names()
    model, (x,) = made("chain")
    options = {"plan": "balanced:stages=3", "interface": {first: "dni:mix=0.5", "*": "dni"}}
    cut = dni_fx.decouple(model, **options)
    cut(x).sum().backward()
    assert [dni.interface.mix for dni in dni_fx.boundaries(cut).values()] == [0.5, 0]
    late = dni_fx.decouple(model, plan="balanced:stages=3", interface={"nosuch": "dni", "*": "dni"})
    with pytest.raises(SynthesizerError, match="no boundary matches nosuch"):
        late(x)
