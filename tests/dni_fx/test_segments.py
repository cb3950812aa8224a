"""Boundaries that pass the true gradient join stages; segments between cut boundaries are released whole."""

import copy

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.segments import segments
from tests.equality import assert_same, copied, gradients, objective
from tests.stirred import stir, stirred_zoo, through_the_nodes
from tests.zoo import made

MODELS = ["chain", "residual", "skips-two-stages", "tied-layer", "u-net", "batch-norm", "in-place-relu"]


def joined(cut):
    """Which stages wait for one another now."""
    graph = cutting_of(cut).graphs[0]
    found = segments(graph.road, dni_fx.boundaries(cut))
    return [[stage.index for stage in segment.stages] for segment in found]


def turned(cut, inputs, steps):
    """The model after some steps that change no weight of its own."""
    for _ in range(steps):
        objective(cut(*inputs)).backward()
    cut.zero_grad()
    return cut


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_graph_of_nodes_whoevers_turn_it_is(name, window):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=4", interface=f"dni:window={window},lr=1e-30")
    for _ in range(window):
        twin = copied(cut)
        torch.manual_seed(0)
        objective(through_the_nodes(twin, *(value.clone() for value in inputs))).backward()
        theirs = {n: p.grad for n, p in twin.named_parameters() if not n.startswith("dni.")}
        ours = {n: g for n, g in gradients(cut, inputs).items() if not n.startswith("dni.")}
        assert_same(ours, theirs, tolerance=1e-12)
        for boundary, dni in dni_fx.boundaries(cut).items():
            other = dni_fx.boundaries(twin)[boundary]
            assert dni.scale.count == other.scale.count
            torch.testing.assert_close(dni.scale.mean_square, other.scale.mean_square, rtol=1e-6, atol=0)


def test_with_a_window_of_two_every_other_boundary_is_cut_and_the_others_next_time():
    cut, inputs = stirred_zoo("chain", plan="every:module=Linear,step=1", interface="dni:window=2")
    seen, cuts = [], []
    for _ in range(4):
        turned(cut, inputs, 1)
        seen.append(joined(cut))
        cuts.append({name for name, dni in dni_fx.boundaries(cut).items() if not dni.mix})
    assert seen[0] != seen[1]
    assert seen[:2] == seen[2:]
    assert {len(group) for groups in seen for group in groups} == {1, 2}
    assert cuts[0] ^ cuts[1] == set(dni_fx.boundaries(cut))


def test_a_skip_over_a_cut_boundary_joins_all_that_it_spans():
    cut, inputs = stirred_zoo("skips-two-stages", plan="at:after=layers.0+layers.1+layers.2")
    turned(cut, inputs, 1)
    assert joined(cut) == [[0], [1], [2], [3]]
    first = next(dni for dni in dni_fx.boundaries(cut).values() if dni.spec.producer == 0)
    first.interface = dni_fx.Interface(mix=1.0)
    assert joined(cut) == [[0, 1, 2, 3]] if max(first.spec.consumers) == 3 else [[0, 1], [2], [3]]


def test_a_segment_frees_its_activations_before_the_next_one_runs():
    model, inputs = made("chain")
    cut = dni_fx.decouple(
        model, inputs, plan="at:after=layers.0+layers.1+layers.2+layers.3", interface="dni:window=2"
    )
    alive, expired = [], []
    for layer in cut.layers[:4]:
        layer.register_forward_pre_hook(
            lambda m, args: alive.append(StorageWeakRef(args[0].untyped_storage()))
        )
    cut.layers[4].register_forward_pre_hook(lambda m, args: expired.append([a.expired() for a in alive]))
    for _ in range(2):
        alive.clear()
        cut(*inputs).sum().backward()
    # The first is the caller's input. Where the last cut is not the model's last boundary, two stages remain.
    assert sorted(sum(not gone for gone in found) for found in expired) == [1, 2]


def test_fade_goes_in_a_straight_line_from_the_truth_to_the_mix():
    model, inputs = made("chain")
    cut = dni_fx.decouple(model, inputs, plan="bottleneck:stages=2", interface="dni:warmup=2,fade=4,mix=0.2")
    (dni,) = dni_fx.boundaries(cut).values()
    found = []
    for _ in range(8):
        cut(*inputs).sum().backward()
        found.append(dni.mix)
    assert found == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_whose_turn_it_is_is_saved_with_the_state():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=4", interface="dni:window=3")
    turned(cut, inputs, 2)
    twin, _ = stirred_zoo("chain", plan="balanced:stages=4", interface="dni:window=3")
    twin.load_state_dict(copy.deepcopy(cut.state_dict()))
    for _ in range(3):
        assert_same(gradients(twin, inputs), gradients(cut, inputs))
        assert joined(twin) == joined(cut)


def test_an_oracle_in_the_middle_of_a_segment_is_plain_backprop_there():
    model, inputs = made("chain")
    both = {"layers_1*": "oracle", "*": "mlp"}
    cut = stir(dni_fx.decouple(copied(model), inputs, plan="at:after=layers.1+layers.3", synthesizer=both))
    whole = dni_fx.decouple(copied(model), inputs, plan="at:after=layers.3", synthesizer="mlp")
    for name, dni in dni_fx.boundaries(whole).items():
        dni.load_state_dict(dni_fx.boundaries(cut)[name].state_dict())
    ours, theirs = gradients(cut, inputs), gradients(whole, inputs)
    for name, _ in model.named_parameters():
        assert_same(ours[name], theirs[name])
        assert ours[name].any()
