"""A layer in chunks returns what the layer does, and calls its boundary in between."""

import pytest
import torch
from torch import nn

from passes.chunks import as_it_was, batch_in_front, call_in_chunks, operate_in_chunks

KINDS = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu", "num_layers": 2, "dropout": 0.5}),
    "gru": (nn.GRU, {"num_layers": 3, "dropout": 0.3, "batch_first": True, "bias": False}),
    "lstm": (nn.LSTM, {"num_layers": 2}),
    "projections": (nn.LSTM, {"num_layers": 3, "dropout": 0.3, "proj_size": 2}),
}


class Asked(nn.Module):
    """Identity that keeps the shapes of what goes through it."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, *values):
        self.shapes.append([tuple(value.shape) for value in values])
        return values if len(values) > 1 else values[0]


def layer_for(name):
    torch.manual_seed(0)
    kind, options = KINDS[name]
    return kind(3, 5, **options).double()


def inputs_for(layer, length):
    shape = (4, length, 3) if layer.batch_first else (length, 4, 3)
    return torch.randn(shape, dtype=torch.float64)


def flat(returned):
    return torch.utils._pytree.tree_leaves(returned)


@pytest.mark.parametrize("length", [1, 3, 4, 10])
@pytest.mark.parametrize("name", KINDS)
def test_it_returns_what_the_layer_returns_and_draws_the_same_random_numbers(name, length):
    layer = layer_for(name)
    x, boundary = inputs_for(layer, length), Asked()
    torch.manual_seed(1)
    wanted = [*flat(layer(x)), torch.rand(1)]
    torch.manual_seed(1)
    found = [*flat(call_in_chunks(layer, boundary, 3, x)), torch.rand(1)]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    assert [each.stride() for each in found] == [each.stride() for each in wanted]
    assert len(boundary.shapes) == (length - 1) // 3


@pytest.mark.parametrize("name", KINDS)
def test_the_operator_returns_what_the_layer_returns(name):
    layer = layer_for(name)
    x, boundary = inputs_for(layer, 10), Asked()
    torch.manual_seed(1)
    outputs, state = layer(x)
    first = torch.utils._pytree.tree_map(torch.zeros_like, state)
    weights = [weight for part in layer.all_weights for weight in part]
    options = (layer.bias, layer.num_layers, layer.dropout, True, False, layer.batch_first)
    torch.manual_seed(1)
    found = operate_in_chunks(layer.mode.lower(), boundary, 4, x, first, weights, *options)
    torch.testing.assert_close(list(found), [outputs, *flat(state)], rtol=0, atol=1e-14)


def test_a_boundary_sees_one_row_for_each_sample_with_all_layers_in_it():
    layer, boundary = layer_for("projections"), Asked()
    call_in_chunks(layer, boundary, 4, inputs_for(layer, 9))
    assert boundary.shapes == [[(4, 3 * 2), (4, 3 * 5)]] * 2


def test_nothing_is_drawn_in_eval():
    layer, boundary = layer_for("gru").eval(), Asked()
    x = inputs_for(layer, 9)
    before = torch.get_rng_state()
    torch.testing.assert_close(
        flat(call_in_chunks(layer, boundary, 4, x)), flat(layer(x)), rtol=0, atol=1e-14
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dim", [0, 1])
def test_rows_go_back_to_where_they_came_from(dim):
    state = torch.randn(4, 4, 5)
    assert torch.equal(as_it_was(batch_in_front(state, dim), state, dim), state)
