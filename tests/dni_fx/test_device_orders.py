"""The orders of a step are whole: what a graph reads is there, and nothing is kept that nobody reads."""

from dataclasses import replace

import pytest

import dni_fx.device
from dni_fx.device.manifest import ORDERS
from dni_fx.exporters.training.orders import orders
from tests.device_nets import written
from tests.turns import shared_folder

pytest.importorskip("onnxruntime")
NUMBERS = {"lr", "step", "batch", "seed"}


@pytest.fixture(params=["tied", "two_heads", "norm_and_dropout", "layers", "counts"])
def session(request, tmp_path_factory):
    return dni_fx.device.open(written(request.param, shared_folder(tmp_path_factory)))


def given(manifest, mode):
    names = {each.value for each in manifest.inputs} | NUMBERS
    if mode != "evaluate":
        names |= {each.value for each in manifest.targets} | {"context"}
    return names


@pytest.mark.parametrize("mode", ORDERS)
def test_what_a_graph_reads_is_there_and_what_is_left_is_wanted(session, mode):
    manifest = session.manifest
    there, steps = given(manifest, mode), manifest.orders[mode]
    for order in steps:
        made_up = {*order.reads, *order.zeros}
        read = {*order.reads.values(), *order.zeros.values(), *(set(order.graph.inputs) - made_up)}
        assert {name for name in read if name not in there and name not in session.store} == set()
        written = {name for name in order.graph.outputs if not name.startswith("new:")}
        assert order.keeps.keys() <= set(order.graph.outputs)
        there |= written | set(order.keeps.values())
        assert set(order.drops) <= there
        there -= set(order.drops)
    left = there - given(manifest, mode)
    assert left == (set(manifest.predictions) if mode == "evaluate" else {"loss"})


@pytest.mark.parametrize("mode", ORDERS)
def test_graphs_run_as_often_as_a_step_has_work_for_them(session, mode):
    manifest = session.manifest
    ran = [order.graph.file for order in manifest.orders[mode]]
    assert len(ran) == len(set(ran))
    learned = [each.learn.file for each in manifest.boundaries if each.learn is not None]
    shared = [] if manifest.shared is None else [manifest.shared.graph.file]
    stages = manifest.stages
    expected = {
        "evaluate": [each.evaluate.file for each in stages],
        "exact": [
            *(each.forward.file for each in stages),
            "loss.onnx",
            *(each.backward.file for each in stages),
            *learned,
            *shared,
        ],
        "decoupled": [
            *(each.step.file if each.step else each.forward.file for each in stages),
            "loss.onnx",
            *(each.backward.file for each in stages if each.step is None),
            *(each.guess.file for each in manifest.boundaries if each.guess is not None),
            *learned,
            *shared,
        ],
    }[mode]
    assert sorted(ran) == sorted(expected)


def test_a_gradient_that_nobody_guesses_is_zeros_like_its_value(session):
    manifest = session.manifest
    silent = tuple(replace(each, guess=None, learn=None) for each in manifest.boundaries)
    waiting = tuple(replace(each, step=None) for each in manifest.stages)
    found = orders(replace(manifest, boundaries=silent, stages=waiting))["decoupled"]
    crossing = {name for each in silent for name in each.values}
    for order in found:
        wanted = {name for name in order.graph.inputs if name.startswith("g:")}
        assert {*order.zeros} >= {name for name in wanted if f"v:{name[2:]}" in crossing}
        assert all(f"v:{name[2:]}" == value for name, value in order.zeros.items())
