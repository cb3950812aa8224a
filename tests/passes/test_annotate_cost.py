from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from passes.annotate_cost import uncounted
from passes.annotate_shapes import annotate
from passes.values import value_of
from tests.passes.graphs import last, whole


class Uses(nn.Module):
    """A function of a weight matrix and of the modules that it needs."""

    def __init__(self, function: Callable[..., Any], *needs: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.needs = nn.ModuleList(needs)
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, *args: Tensor) -> Any:
        return self.function(self, *args)


def cost(gm: fx.GraphModule) -> int:
    return sum(value_of(node).flops for node in gm.graph.nodes)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(3, 5), (2, 7, 3)),
    "conv": (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 9)),
    "transposed conv": (nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
    "bilinear": (Uses(lambda m, x: torch.einsum("bi,ij,bj->b", x, m.weight, x)), (2, 3)),
    "matmul": (Uses(lambda m, x: x @ x.mT), (2, 5, 3)),
    "norm and arithmetic": (nn.Sequential(nn.LayerNorm(3), nn.GELU()), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_costs_are_those_that_torch_counts_in_a_real_run(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert cost(whole(layer, x)) == counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_multiplies_every_weight_once_a_sample_and_step(
    kind: type[nn.RNNBase], batch_first: bool, bidirectional: bool, layers: int, dtype: torch.dtype
) -> None:
    layer = kind(5, 4, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    batch, time = 3, 6
    x = torch.zeros(*((batch, time) if batch_first else (time, batch)), 5, dtype=dtype)
    weights = sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
    gm = whole(layer, x)
    assert cost(gm) == 2 * batch * time * weights
    assert uncounted(gm) == ()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_costs_its_two_products_by_any_kernel(dropout: float) -> None:
    batch, heads, length, memory, width = 2, 3, 5, 7, 4

    def attend(_: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

    q = torch.zeros(batch, heads, length, width, requires_grad=True)
    k = torch.zeros(batch, heads, memory, width)
    assert cost(whole(Uses(attend), q, k, k)) == 2 * 2 * batch * heads * length * memory * width


def test_a_matrix_times_a_vector_costs_two_for_each_entry() -> None:
    assert cost(whole(Uses(lambda m, x: m.weight @ x), torch.zeros(3))) == 18
    assert cost(whole(Uses(lambda m, x: torch.addmv(x, m.weight, x)), torch.zeros(3))) == 18
    assert cost(whole(Uses(lambda m, x: x @ x), torch.zeros(3))) == 6


def test_only_the_forward_pass_counts_and_each_node_for_itself() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7)))
    annotate(gm, [torch.zeros(2, 3)])
    assert [value_of(node).flops for node in gm.graph.nodes] == [0, 2 * 2 * 3 * 5, 0, 2 * 2 * 5 * 7, 0]


def test_the_bytes_of_a_value_are_those_of_all_its_tensors() -> None:
    gm = whole(nn.LSTM(5, 4, dtype=torch.float64), torch.zeros(6, 3, 5, dtype=torch.float64))
    assert last(gm).bytes == 8 * (6 * 3 * 4 + 3 * 4 + 3 * 4)


FREE: dict[str, Callable[[Any, Tensor], Any]] = {
    "elementwise": lambda m, x: x * m.weight + m.weight,
    "view": lambda m, x: (m.weight.T.reshape(-1), x),
    "copy": lambda m, x: (m.weight.clone(), m.weight.double(), x),
    "lookup": lambda m, x: F.embedding(x.long(), m.weight),
    "index": lambda m, x: m.weight[x.long()],
    "token": lambda m, x: torch.cat([x, m.weight]),
    "norm": lambda m, x: (m.weight.norm(), m.weight.sum(), m.weight.softmax(0), x),
    "product": lambda m, x: x @ m.weight,
}


@pytest.mark.parametrize("name", FREE)
def test_weights_that_are_moved_added_or_multiplied_are_counted(name: str) -> None:
    assert uncounted(whole(Uses(FREE[name]), torch.zeros(3, 3))) == ()


def test_a_node_whose_kernel_no_formula_knows_is_named() -> None:
    with torch.library._scoped_library("dni_fx_tests", "DEF") as library:
        library.define("hidden_product(Tensor x, Tensor weight) -> Tensor")
        library.impl("hidden_product", lambda x, weight: x @ weight, "CompositeExplicitAutograd")
        library.impl("hidden_product", lambda x, weight: torch.empty_like(x), "Meta")
        opaque = Uses(
            lambda m, x: torch.ops.dni_fx_tests.hidden_product(m.needs[0](x), m.weight), nn.Linear(3, 3)
        )
        gm = whole(opaque, torch.zeros(2, 3))
        found = last(gm)
    assert uncounted(gm) == ("call",)
    assert found.uncounted == {"dni_fx_tests.hidden_product.default"}
    assert found.flops == 2 * 2 * 3 * 3  # of the linear layer beside it
