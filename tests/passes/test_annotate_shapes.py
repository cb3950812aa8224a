import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passes.annotate_shapes import annotate
from passes.errors import PreconditionError
from passes.values import value_of
from tests.passes.graphs import Call, exported, kept, last, trace, whole

BATCH = 4


class Block(nn.Module):
    """Attention with its heads taken apart by views."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = self.qkv(self.norm(x)).view(batch, time, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, time, width)
        return x + F.gelu(self.out(mixed))


class Images(nn.Module):
    """Batch norm in training mode, in-place ReLU, views, tuples, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(16, 16)
        self.tail = nn.Linear(16, 16)
        self.tail.weight = self.head.weight

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.pool(self.relu(self.norm(self.conv(x))))
        left, right = x.flatten(1).chunk(2, dim=-1)
        left = left.contiguous().mul_(2)
        wide = right.unsqueeze(1).expand(-1, 3, -1)
        return self.tail(self.head(left)), wide, torch.cat([left, right]), x.detach()


class Opaque(nn.Module):
    """Modules that the tracer keeps whole."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.LSTM(8, 6, num_layers=2, bidirectional=True)
        self.table = nn.Parameter(torch.zeros(5, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x + self.table
        mixed, weights = self.attention(x, x, x)
        return self.recurrent(mixed.transpose(0, 1))[0], weights


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "block": (lambda: nn.Sequential(Block(), Block()), (BATCH, 5, 8)),
    "images": (Images, (BATCH, 3, 7, 7)),
    "opaque": (Opaque, (BATCH, 5, 8)),
}


def symbolic(model: nn.Module, example: Tensor) -> fx.GraphModule:
    return fx.symbolic_trace(model)


CAPTURES = [symbolic, exported]


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[request.param]
    return make(), torch.randn(shape)


# Exporting an LSTM says that it keeps its weights in a list.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")


class Real(fx.Interpreter):
    """The model, run for real: what fake tensors claim is checked against it."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.made: dict[str, Any] = {}
        self.mutated: dict[str, set[str]] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = {name: [t.detach().clone() for t in tensors(value)] for name, value in self.made.items()}
        self.made[n.name] = super().run_node(n)
        self.mutated[n.name] = {
            name for name, old in before.items() if not all(map(torch.equal, old, tensors(self.made[name])))
        }
        return self.made[n.name]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for item in value for each in tensors(item)] if isinstance(value, list | tuple) else []


def storages(value: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(value)}


def annotated(capture: Callable[..., fx.GraphModule], case: tuple[nn.Module, Tensor]) -> fx.GraphModule:
    model, example = case
    gm = capture(model, example)
    annotate(gm, [example])
    return gm


@pytest.mark.parametrize("capture", CAPTURES)
def test_values_are_those_of_a_real_run(capture: Any, case: tuple[nn.Module, Tensor]) -> None:
    gm = annotated(capture, case)
    real = Real(gm)
    real.run(case[1])
    for node in gm.graph.nodes:
        value, made = value_of(node), real.made[node.name]
        assert value.bytes == sum(each.numel() * each.element_size() for each in tensors(made)), node
        assert value.requires_grad == any(each.requires_grad for each in tensors(made)), node
        if isinstance(made, Tensor):
            assert (value.shape, value.dtype) == (tuple(made.shape), made.dtype), node
        else:
            assert not value.is_tensor, node


@pytest.mark.parametrize("capture", CAPTURES)
def test_memory_is_shared_and_written_as_in_a_real_run(capture: Any, case: tuple[nn.Module, Tensor]) -> None:
    gm = annotated(capture, case)
    real = Real(gm)
    real.run(case[1])
    earlier: list[str] = []
    for node in gm.graph.nodes:
        own = storages(real.made[node.name])
        shared = {name for name in earlier if own & storages(real.made[name])}
        assert value_of(node).aliases == shared, node
        assert value_of(node).mutates == real.mutated[node.name], node
        earlier.append(node.name)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("batch", [2, 3, 7])
def test_sizes_at_any_batch_follow_from_dims(
    capture: Any, batch: int, case: tuple[nn.Module, Tensor]
) -> None:
    gm = annotated(capture, case)
    real = Real(gm)
    real.run(torch.randn(batch, *case[1].shape[1:]))
    for node in gm.graph.nodes:
        if (value := value_of(node)).is_tensor:
            sizes = tuple(eval(str(dim), {"b": batch}) for dim in value.dims)
            assert sizes == tuple(real.made[node.name].shape), node
            follows = [at for at, dim in enumerate(value.dims) if isinstance(dim, str)]
            assert value.batch_dim == (follows[0] if follows else -1), node


@pytest.mark.parametrize("capture", CAPTURES)
def test_nothing_of_the_model_moves(capture: Any, case: tuple[nn.Module, Tensor]) -> None:
    model, example = case
    gm = capture(model, example)
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    versions = {name: value._version for name, (value, _) in before.items()}
    random, kept = torch.get_rng_state(), example.clone()
    annotate(gm, [example])
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(example, kept)
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
        assert value._version == versions[name]
        assert value.grad is None


def test_values_too_large_to_compute_cost_nothing() -> None:
    gm = trace(lambda x: x[:, :, None] * x[:, None, :], torch.zeros(64, 1 << 17))
    assert last(gm).bytes == 4 * 64 << 34


@pytest.mark.parametrize(
    ("function", "dims"),
    [
        (lambda x: x.mean(), ()),
        (lambda x: x.flatten(0, 1), ("3*b", 5)),
        (lambda x: torch.cat([x, x.new_zeros(1, 3, 5)]), ("b+1", 3, 5)),
        (lambda x: torch.cat([x, x, x[:1]]), ("2*b+1", 3, 5)),
        (lambda x: x[1:], ("b-1", 3, 5)),
        (lambda x: x.transpose(0, 1), (3, "b", 5)),
        (lambda x: x[: x.shape[0] // 2 + 1 - x.shape[0] % 2], ("?", 3, 5)),
        (lambda x: torch.zeros(x.shape[0] ** 2), ("?",)),
        (lambda x: torch.zeros(3), (3,)),
    ],
)
def test_sizes_are_told_as_expressions_of_the_batch_size(
    function: Callable[[Tensor], Tensor], dims: tuple[int | str, ...]
) -> None:
    value = last(whole(function, torch.zeros(6, 3, 5)))
    assert value.dims == dims
    assert value.batch_dim == next((at for at, dim in enumerate(dims) if "b" in str(dim)), -1)


def test_every_input_of_the_batch_size_grows_with_it() -> None:
    gm = whole(
        lambda x, mask, table: x * mask[:, None] + table, torch.ones(4, 3), torch.ones(4), torch.ones(3)
    )
    assert [value_of(node).dims for node in list(gm.graph.nodes)[:4]] == [("b", 3), ("b",), (3,), ("b", 3)]


def test_a_model_with_one_batch_size_has_fixed_sizes() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.table).view(4, 3).T

    found = {node.name: value_of(node) for node in trace(Fixed(), torch.ones(4, 3)).graph.nodes}
    assert (found["x"].dims, found["x"].batch_dim) == ((4, 3), 0)
    assert (found["view"].dims, found["view"].batch_dim) == ((4, 3), 0)
    assert (found["getattr_1"].dims, found["getattr_1"].batch_dim) == ((3, 4), -1)
    assert (found["table"].dims, found["table"].batch_dim) == ((4, 3), -1)


def test_an_input_keeps_requires_grad_and_memory_format() -> None:
    x = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    gm = whole(lambda x: x.permute(0, 2, 3, 1).view(len(x), -1), x)
    assert last(gm).requires_grad
    assert last(gm).dims == ("b", 48)


def test_the_same_tensor_given_twice_is_one_memory() -> None:
    x = torch.zeros(2, 3)
    gm = whole(operator.add, x, x)
    assert value_of(list(gm.graph.nodes)[1]).aliases == {"x0"}


def test_the_callers_gradient_mode_does_not_matter() -> None:
    layer = nn.Linear(3, 3)
    with torch.inference_mode():
        assert last(whole(layer, torch.zeros(2, 3))).requires_grad
    with torch.no_grad():
        assert last(whole(layer, torch.zeros(2, 3))).requires_grad


def test_an_example_may_be_the_result_of_another_model() -> None:
    example = nn.Linear(3, 3)(torch.zeros(2, 3))
    gm = whole(lambda x: x.relu(), example)
    assert value_of(next(iter(gm.graph.nodes))).requires_grad
    assert last(gm).dims == ("b", 3)


def test_where_a_node_needs_numbers_the_graph_runs_on_the_examples() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(norm, Call(lambda x: x[: int(x.sum().abs().item()) + 1]), nn.Dropout())
    x, state = torch.randn(4, 3), torch.get_rng_state()
    value = last(whole(model, x))
    assert value.shape == (1, 3)
    assert value.random
    assert not norm.num_batches_tracked
    assert torch.equal(torch.get_rng_state(), state)


def test_a_node_that_cannot_run_is_named_with_its_module_and_reason() -> None:
    model = nn.Sequential(nn.ReLU(), Call(lambda x: x[: int(x.sum().item())] @ x[:1]))
    with pytest.raises(PreconditionError) as caught:
        annotate(kept(model), [torch.ones(2, 2)])
    message = str(caught.value)
    assert message.startswith("cannot run node _1 (call_module 1, in 1) on shapes alone: ")
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_examples_must_match_the_placeholders() -> None:
    with pytest.raises(PreconditionError, match=r"2 inputs \(x, y\) from 1 examples"):
        annotate(fx.symbolic_trace(lambda x, y: x + y), [torch.zeros(2)])


def test_an_annotated_graph_can_be_annotated_again() -> None:
    gm = trace(Images(), torch.randn(4, 3, 7, 7))
    first = {node.name: value_of(node) for node in gm.graph.nodes}
    annotate(gm, [torch.randn(4, 3, 7, 7)])
    assert first == {node.name: value_of(node) for node in gm.graph.nodes}
