"""What fake tensors tell of a backward pass, compared with the backward pass itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from passes.annotate_cost import attention_backward, recurrent_backward
from passes.annotate_shapes import annotate
from passes.values import value_of
from tests.passes.graphs import kept, last, whole

aten = torch.ops.aten
# These torch's counter takes for free.
MISSED: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    aten.mkldnn_rnn_layer_backward: recurrent_backward,
    aten.mv: lambda matrix, vector, **_: 2 * matrix[0] * matrix[1],
}


class Uses(nn.Module):
    """A function of a module of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Any], inner: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner, x)


class Twice(torch.autograd.Function):
    """Multiplies by a weight, and in backward twice by its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return grads[0] @ weight.T @ weight.T, None


def attend(_: nn.Module, x: Tensor) -> Tensor:
    heads = x.view(2, 5, 2, 4).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(x.shape)


def inside(reentrant: bool) -> nn.Module:
    inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    again = Uses(lambda inner, x: checkpoint(inner, x, use_reentrant=reentrant), inner)
    return nn.Sequential(nn.Linear(8, 8), again)


def with_frozen_middle() -> nn.Module:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    model[1].requires_grad_(False)
    return model


def images() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.Conv2d(6, 6, 1, bias=False), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(24, 3)),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 5), (2, 7, 8)),
    "images": (images, (2, 4, 9, 9)),
    "transposed convolution": (
        lambda: nn.Sequential(nn.Linear(9, 9), nn.ConvTranspose1d(4, 6, 3)),
        (2, 4, 9),
    ),
    "frozen middle": (with_frozen_middle, (2, 8)),
    "frozen": (lambda: nn.Linear(8, 8).requires_grad_(False), (2, 8)),
    "multi-head attention": (
        lambda: Uses(lambda m, x: m(x, x, x), nn.MultiheadAttention(8, 2, batch_first=True)),
        (2, 5, 8),
    ),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "fused attention": (lambda: nn.Sequential(nn.Linear(8, 8), Uses(attend, nn.Identity())), (2, 5, 8)),
    "product with itself": (
        lambda: nn.Sequential(nn.Linear(8, 8), Uses(lambda m, x: x @ x.mT, nn.Identity())),
        (2, 5, 8),
    ),
    "matrix times vector": (
        lambda: nn.Sequential(nn.Linear(8, 8), Uses(lambda m, x: m.weight @ x, nn.Linear(8, 8))),
        (8,),
    ),
    "norms": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Softmax(-1)), (3, 8)),
    "lookup": (lambda: Uses(lambda m, x: m(x.abs().long().clamp(0, 3)), nn.Embedding(4, 8)), (2, 8)),
    "checkpoint": (lambda: inside(False), (2, 8)),
    "reentrant checkpoint": (lambda: inside(True), (2, 8)),
    "autograd function": (
        lambda: nn.Sequential(nn.Linear(8, 8), Uses(lambda m, x: Twice.apply(x, m.weight), nn.Linear(8, 8))),
        (2, 8),
    ),
}
RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(8, 4, num_layers=2, bidirectional=True).double(),
    "lstm in one kernel": lambda: nn.LSTM(8, 4),
    "gru": lambda: nn.GRU(8, 4, num_layers=2),
    "gru of batches first": lambda: nn.GRU(8, 4, batch_first=True, bidirectional=True),
    "rnn": lambda: nn.RNN(8, 4, num_layers=2, batch_first=True),
}


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for item in value for each in tensors(item)] if isinstance(value, list | tuple) else []


def measured(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """FLOPs of the backward pass of a real run, and the bytes that autograd keeps for it."""
    own = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = [each for each in tensors(model(x)) if each.requires_grad]
    with FlopCounterMode(display=False, custom_mapping=MISSED) as counter:
        torch.autograd.backward(out, [torch.ones_like(each) for each in out])
    sizes = {place: each.untyped_storage().nbytes() for place, each in saved.items()}
    return counter.get_total_flops(), sum(size for place, size in sizes.items() if place not in own)


def told(gm: fx.GraphModule) -> tuple[int, int]:
    values = [value_of(node) for node in gm.graph.nodes]
    return sum(value.backward_flops for value in values), sum(value.saved for value in values)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_backward_costs_are_those_of_a_real_backward_pass(name: str, needs: bool) -> None:
    make, shape = MODELS[name]
    model = make()
    if name == "frozen" and not needs:
        assert told(whole(model, torch.zeros(shape))) == (0, 0)
        return
    x = torch.randn(shape).requires_grad_(needs)
    real = measured(model, x)
    assert told(whole(model, x)) == real
    if isinstance(model, nn.Sequential):
        gm = kept(model)
        annotate(gm, [x])
        assert told(gm) == real


@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_layer_costs_in_backward_what_all_its_steps_cost(name: str, needs: bool) -> None:
    model = RECURRENT[name]()
    x = torch.randn(6, 3, 8, dtype=next(model.parameters()).dtype).requires_grad_(needs)
    assert told(whole(model, x))[0] == measured(model, x)[0]


def test_grouped_convolutions_cost_one_forward_pass_for_each_factor() -> None:
    # torch's own counter forgets that the gradient of the weights is grouped as well.
    gm = whole(nn.Conv2d(4, 6, 3, groups=2), torch.zeros(2, 4, 9, 9, requires_grad=True))
    assert last(gm).backward_flops == 2 * last(gm).flops


def test_without_gradients_there_is_no_backward_pass() -> None:
    layer = nn.Linear(8, 8)
    assert told(whole(torch.no_grad()(lambda x: layer(x)), torch.zeros(2, 8))) == (0, 0)


def test_what_two_nodes_save_counts_for_the_first_and_parameters_for_none() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * self.second(x)

    gm = kept(Both())
    annotate(gm, [torch.zeros(4, 8)])
    assert [value_of(node).saved for node in gm.graph.nodes] == [0, 4 * 4 * 8, 0, 2 * 4 * 4 * 8, 0]


def test_where_the_graph_runs_on_data_the_costs_are_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    data = Uses(lambda m, x: m(x) if bool((x == x).all().item()) else x, model)
    assert told(whole(data, torch.ones(4, 8))) == told(whole(model, torch.ones(4, 8)))


def test_functions_of_torch_func_run_though_what_they_save_is_not_seen() -> None:
    layer = nn.Linear(8, 8)
    gradient = torch.func.grad(lambda x: layer(x).square().sum())
    assert last(whole(lambda x: layer(gradient(x)), torch.ones(4, 8))).shape == (4, 8)


def test_a_node_that_runs_backward_itself_can_be_annotated() -> None:
    layer = nn.Linear(8, 1)

    def slope(x: Tensor) -> Tensor:
        at = x.detach().requires_grad_()
        return torch.autograd.grad(layer(at).tanh().sum(), at, create_graph=True)[0]

    assert last(whole(slope, torch.ones(4, 8))).requires_grad
