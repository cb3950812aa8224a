"""Recurrent layers are found in graphs of every front-end, with what is to be known of them."""

import pytest
import torch
from torch import nn

from passes.layers import layer_of, name_of, state_of
from tests.passes.recurrent import KINDS, Net, exported, traced


def layers(gm):
    found = ((node, layer_of(gm, node)) for node in gm.graph.nodes)
    return [(node, layer) for node, layer in found if layer is not None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("capture", [exported, traced])
def test_a_layer_is_found_with_its_length_and_its_state(capture, batch_first, kind):
    gm = capture(Net(KINDS[kind], num_layers=2, batch_first=batch_first), length=9, batch=2)
    ((node, layer),) = layers(gm)
    assert (layer.refusal, layer.steps) == ("", 9 if batch_first else 2)
    assert layer.kind in {"", kind}
    assert name_of(node.meta["anchor"]) == "core"
    batch = 2 if batch_first else 9
    assert [value.shape for value in state_of(gm, node, layer)] == [(batch, 8)] * (2 if kind == "lstm" else 1)


@pytest.mark.parametrize("capture", [exported, traced])
def test_projections_make_one_part_of_the_state_smaller(capture):
    gm = capture(Net(nn.LSTM, proj_size=2, num_layers=3, batch_first=True))
    ((node, layer),) = layers(gm)
    assert [value.shape for value in state_of(gm, node, layer)] == [(2, 6), (2, 12)]


@pytest.mark.parametrize("capture", [exported, traced])
def test_a_second_direction_is_a_reason_to_refuse(capture):
    ((_, layer),) = layers(capture(Net(nn.GRU, bidirectional=True)))
    assert "bidirectional" in layer.refusal


def test_so_is_a_hook():
    net = Net(nn.GRU)
    net.core.register_forward_pre_hook(lambda *_: None)
    ((_, layer),) = layers(traced(net))
    assert "it has hooks" in layer.refusal


def test_other_nodes_are_no_layers():
    class Other(nn.Module):
        def forward(self, x):
            return torch.tanh(x).sum()

    assert layers(traced(Other())) == []
