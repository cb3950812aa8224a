"""Hooks around a cut model and its parts: they run as on the model, or are refused."""

import copy

import pytest
from torch import nn

import dni_fx
from dni_fx.errors import CaptureError, ExportError
from tests.equality import assert_same, gradients
from tests.everyday import (
    assert_trains_alike,
    captures,
    captures_again,
    learned,
    net,
    pair,
    refused,
    rows,
    works,
)

HOOKS = "hooks on the model, on a layer, on a parameter"
OUTER = "hooks on a module that holds layers"
LOST = "hooks that a graph or a file would lose"


def forward_hook(module, seen):
    return module.register_forward_hook(lambda _, args, out: seen.append(out.detach()) or out * 2)


def forward_pre_hook(module, seen):
    return module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()) or (args[0] * 2,))


def recording_hook(module, seen):
    return module.register_forward_hook(lambda _, args, out: seen.append(out.mean().item()))


def backward_hook(module, seen):
    return module.register_full_backward_hook(
        lambda _, into, out: seen.append(out[0]) or tuple(g if g is None else g * 2 for g in into)
    )


def backward_pre_hook(module, seen):
    return module.register_full_backward_pre_hook(lambda _, out: seen.append(out[0]) or (out[0] * 2,))


def parameter_hook(module, seen):
    return next(module.parameters()).register_hook(lambda g: seen.append(g) or g * 2)


FORWARD = [forward_hook, forward_pre_hook, recording_hook]
BACKWARD = [backward_hook, backward_pre_hook]


@pytest.mark.parametrize("path", ["", "3"], ids=["model", "layer"])
@pytest.mark.parametrize("register", [*FORWARD, *BACKWARD])
@works(HOOKS)
def test_hooks_that_were_there_before_run_as_on_the_model(register, path):
    """Hooks on the model itself were in its graph as well, and ran twice."""
    x, seen, model = rows().requires_grad_(), [], net()
    register(model.get_submodule(path), seen)
    cut = pair(model, x=x)[1]
    assert_trains_alike(model, cut, x)
    found = []
    for each in (cut, model):
        seen.clear()
        gradients(each, (x,))
        found.append(list(seen))
    assert_same(*found, tolerance=1e-10)
    assert len(seen) == 1


@pytest.mark.parametrize("path", ["", "3"], ids=["model", "layer"])
@pytest.mark.parametrize("register", [*FORWARD, *BACKWARD, parameter_hook])
@works(HOOKS)
def test_hooks_may_be_registered_after_the_cut_and_removed_again(register, path):
    x, ours, theirs = rows().requires_grad_(), [], []
    model, cut = pair(x=x)
    handles = [register(each.get_submodule(path), seen) for each, seen in ((cut, ours), (model, theirs))]
    assert_trains_alike(model, cut, x)
    ours.clear(), theirs.clear()
    assert_trains_alike(model, cut, x)
    assert_same(ours, theirs, tolerance=1e-10)
    assert ours
    for handle in handles:
        handle.remove()
    ours.clear()
    assert_trains_alike(model, cut, x)
    assert not ours


def nested():
    return nn.Sequential(net(), nn.Linear(4, 4).double(), nn.Tanh(), nn.Linear(4, 2).double())


@pytest.mark.parametrize("register", FORWARD)
@captures_again(OUTER)
def test_forward_hooks_on_a_block_run_at_every_step(register):
    """The graph went through the block: a hook that records ran at capture, and never again."""
    x, ours, theirs = rows().requires_grad_(), [], []
    model, cut = pair(nested(), plan="at:after=0.2+2", x=x)
    register(model[0], theirs), register(cut[0], ours)
    assert_trains_alike(model, cut, x)
    ours.clear(), theirs.clear()
    assert_trains_alike(model, cut, x)
    assert_same(ours, theirs)
    assert len(ours) == 2
    assert captures(cut) == 2


@pytest.mark.parametrize("register", BACKWARD)
@captures_again(OUTER)
def test_backward_hooks_on_a_block_run_if_they_were_there_before(register):
    x, seen, model = rows().requires_grad_(), [], nested()
    register(model[0], seen)
    cut = pair(model, plan="at:after=0+2", x=x)[1]
    seen.clear()
    assert_trains_alike(model, cut, x)
    assert_same(seen[0], seen[1], tolerance=1e-10)


@pytest.mark.parametrize("register", BACKWARD)
@pytest.mark.parametrize("way", [lambda cut: cut, copy.deepcopy], ids=["itself", "copy"])
@captures_again(OUTER)
def test_backward_hooks_on_a_block_after_the_cut_run_at_every_step(register, way):
    """They were in no key: the graph that was there went on to be used."""
    x, ours, theirs = rows().requires_grad_(), [], []
    model, cut = pair(nested(), plan="at:after=0.2+2", x=x)
    cut = way(cut)
    register(model[0], theirs), register(cut[0], ours)
    assert_trains_alike(model, cut, x)
    ours.clear(), theirs.clear()
    assert_trains_alike(model, cut, x)
    assert_same(ours, theirs, tolerance=1e-10)
    assert len(ours) == 1
    assert captures(cut) == 2


HAS_A_HOOK = "3 has a hook, which a graph would run once and never again"


@refused(LOST, CaptureError, HAS_A_HOOK)
def test_a_hook_that_records_on_a_layer_that_is_in_the_graph_as_operations_is_refused():
    cut = dni_fx.decouple(net(), (rows(),), frontend="export")
    recording_hook(cut[3], [])
    cut(rows())


@refused(LOST, CaptureError, HAS_A_HOOK)
def test_a_layer_with_a_hook_is_not_taken_apart():
    model = net()
    recording_hook(model[3], [])
    dni_fx.decouple(model, (rows(),), frontend="export")


@refused(
    LOST,
    CaptureError,
    "this file holds a graph that would not run the hook on 3. Remove it, or register it on the model "
    "itself.",
)
def test_a_hook_on_a_part_of_a_model_that_was_read_from_a_file_is_refused(tmp_path):
    dni_fx.save(learned(), tmp_path / "cut.pt2")
    cut = dni_fx.load(tmp_path / "cut.pt2")
    recording_hook(cut.get_submodule("3"), [])
    cut(rows())


@refused(
    LOST,
    ExportError,
    "cannot write Sequential to a file: a hook is registered on the model itself, which a file cannot hold. "
    "Remove it first.",
)
def test_a_model_with_a_hook_of_its_own_is_not_saved(tmp_path):
    cut = learned()
    forward_hook(cut, [])
    dni_fx.save(cut, tmp_path / "cut.pt2")
