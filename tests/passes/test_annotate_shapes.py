import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passes.annotate_shapes import annotate
from passes.errors import PreconditionError
from passes.values import Value, value_of

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


def exported(model: nn.Module, example: Tensor) -> fx.GraphModule:
    dims = ({0: torch.export.Dim("batch", min=2)},)
    return torch.export.export(model, (example,), dynamic_shapes=dims).module()


CAPTURES = [symbolic, exported]


def leaves(gm: fx.GraphModule, example: Tensor) -> list[Tensor]:
    assert sum(node.op == "placeholder" for node in gm.graph.nodes) == 1
    return [example]


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[request.param]
    return make(), torch.randn(shape)


pytestmark = [
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),  # exporting an LSTM says so
]


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


def trace(function: Callable[..., Any], *examples: Tensor, root: nn.Module | None = None) -> fx.GraphModule:
    gm = fx.symbolic_trace(root or function)
    annotate(gm, examples)
    return gm


def last(gm: fx.GraphModule) -> Value:
    """The value of the node before the output."""
    return value_of(list(gm.graph.nodes)[-2])


def test_values_too_large_to_compute_cost_nothing() -> None:
    gm = trace(lambda x: x[:, :, None] * x[:, None, :], torch.zeros(64, 1 << 17))
    assert last(gm).bytes == 4 * 64 << 34


def test_modules_run_in_their_own_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    model[1].eval()
    first, second = (value_of(node) for node in fx_nodes(trace(model, torch.zeros(2, 2))))
    assert first.random
    assert not second.random
    assert second.aliases == {"input_1", *()} | {"_0"}


def fx_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.op.startswith("call")]


def attend(x: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)


RANDOM: dict[str, Callable[[Tensor], Any]] = {
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "feature dropout": lambda x: F.dropout1d(x, 0.5, training=True),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "native dropout": lambda x: torch.native_dropout(x, 0.5, True),
    "rand_like": torch.rand_like,
    "bernoulli": torch.bernoulli,
    "normal_": lambda x: x.clone().normal_(),
    "attention with dropout": lambda x: attend(x, 0.5),
    "gumbel softmax": F.gumbel_softmax,
    "rrelu": lambda x: F.rrelu(x, training=True),
}
CALM: dict[str, Callable[[Tensor], Any]] = {
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
    "native dropout in eval": lambda x: torch.native_dropout(x, 0.5, False),
    "attention": lambda x: attend(x, 0.0),
    "rrelu in eval": lambda x: F.rrelu(x, training=False),
    "arithmetic": lambda x: (x + 1).softmax(-1),
}


class Call(nn.Module):
    """Any function, kept whole in a graph."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def whole(function: Callable[..., Any] | nn.Module, *examples: Tensor) -> fx.GraphModule:
    """A graph of one call, annotated."""
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{position}") for position in range(len(examples))]
    graph.output(graph.call_module("call", tuple(inputs)))
    call = function if isinstance(function, nn.Module) else Call(function)
    gm = fx.GraphModule({"call": call}, graph)
    annotate(gm, examples)
    return gm


@pytest.mark.parametrize("name", [*RANDOM, *CALM])
def test_a_node_is_random_exactly_if_it_draws_random_numbers(name: str) -> None:
    function, x = (RANDOM | CALM)[name], torch.rand(2, 3, 4)
    before = torch.get_rng_state()
    found = last(whole(function, x)).random
    assert torch.equal(torch.get_rng_state(), before)
    function(x)
    drew = not torch.equal(torch.get_rng_state(), before)
    assert found == drew == (name in RANDOM)


@pytest.mark.parametrize(("training", "dropout"), [(True, 0.5), (True, 0.0), (False, 0.5)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_is_random_only_while_it_drops(
    kind: type[nn.RNNBase], training: bool, dropout: float
) -> None:
    layer = kind(4, 4, num_layers=2, dropout=dropout).train(training)
    assert last(whole(layer, torch.zeros(3, 2, 4))).random == (training and dropout > 0)


def test_a_private_generator_is_not_advanced() -> None:
    generator = torch.Generator()
    before = generator.get_state()
    gm = whole(Call(lambda x: x + torch.rand(2, generator=generator)), torch.zeros(2))
    assert last(gm).random
    assert torch.equal(generator.get_state(), before)


IMAGE, SEQUENCE = torch.zeros(2, 8, 6, 6), torch.zeros(2, 8, 6)
CONV = nn.Conv2d(8, 8, 1)
FEATURES: dict[str, tuple[Callable[..., Any] | nn.Module, Tensor, int]] = {
    "nothing known": (torch.relu, IMAGE, 3),
    "scalar": (torch.sum, IMAGE, -1),
    "conv2d": (CONV, IMAGE, 1),
    "conv1d": (nn.Conv1d(8, 4, 1), SEQUENCE, 1),
    "conv1d of one sample": (nn.Conv1d(8, 4, 1), SEQUENCE[0], 0),
    "transposed conv": (nn.ConvTranspose2d(8, 4, 2), IMAGE, 1),
    "batch norm": (nn.BatchNorm1d(8), SEQUENCE, 1),
    "batch norm of a matrix": (nn.BatchNorm1d(8), SEQUENCE[..., 0], 1),
    "group norm": (nn.GroupNorm(2, 8), IMAGE, 1),
    "instance norm": (nn.InstanceNorm2d(8), IMAGE, 1),
    "layer norm": (nn.LayerNorm(6), SEQUENCE, 2),
    "max pool": (nn.MaxPool2d(2), IMAGE, 1),
    "max pool 1d": (nn.MaxPool1d(2), SEQUENCE, 1),
    "average pool": (nn.AvgPool2d(2), IMAGE, 1),
    "adaptive pool": (nn.AdaptiveAvgPool2d(3), IMAGE, 1),
    "pixel shuffle": (nn.PixelShuffle(2), IMAGE, 1),
    "unfold": (nn.Unfold(2), IMAGE, 1),
    "linear": (nn.Linear(6, 5), SEQUENCE, 2),
    "linear over pixels": (nn.Linear(6, 5), IMAGE, 3),
    "matmul": (lambda x: x @ x.transpose(1, 2), SEQUENCE, 2),
    "embedding": (nn.Embedding(3, 4), torch.zeros(2, 5, dtype=torch.long), 2),
    "conv then ReLU": (nn.Sequential(CONV, nn.ReLU()), IMAGE, 1),
    "conv then dropout": (nn.Sequential(CONV, nn.Dropout()), IMAGE, 1),
    "residual": (lambda x: x + CONV(x), IMAGE, 1),
    "gate": (lambda x: CONV(x) * CONV(x).mean((2, 3), keepdim=True), IMAGE, 1),
    "cat": (lambda x: torch.cat([CONV(x), CONV(x)], 1), IMAGE, 1),
    "channels last": (lambda x: CONV(x).permute(0, 2, 3, 1), IMAGE, 3),
    "tokens": (lambda x: CONV(x).flatten(2).transpose(1, 2), IMAGE, 2),
    "pixels in a row": (lambda x: CONV(x).flatten(2), IMAGE, 1),
    "flat": (lambda x: CONV(x).flatten(1), IMAGE, 1),
    "pooled away": (lambda x: CONV(x).mean((2, 3)), IMAGE, 1),
    "height pooled away": (lambda x: CONV(x).mean(2), IMAGE, 1),
    "squeezed": (lambda x: CONV(x).amax((2, 3), keepdim=True).squeeze(-1).squeeze(-1), IMAGE, 1),
    "stacked": (lambda x: torch.stack([CONV(x), CONV(x)], 1), IMAGE, 2),
    "shuffled channels": (
        lambda x: CONV(x).view(2, 2, 4, 6, 6).transpose(1, 2).reshape(2, 8, 6, 6),
        IMAGE,
        1,
    ),
    "repeated": (lambda x: CONV(x).repeat(2, 1, 1, 1), IMAGE, 1),
    "padded": (lambda x: F.pad(CONV(x), (1, 1)), IMAGE, 1),
    "heads": (lambda x: (x @ x.mT).view(2, 8, 2, 4).transpose(1, 2), SEQUENCE, 3),
    "first sample": (lambda x: CONV(x)[0], IMAGE, 0),
    "upsampled": (lambda x: F.interpolate(CONV(x), scale_factor=2.0), IMAGE, 1),
    "batch first LSTM": (lambda x: nn.LSTM(6, 5, batch_first=True)(x)[0], SEQUENCE, 2),
}


@pytest.mark.parametrize("name", FEATURES)
def test_the_feature_dimension_comes_from_what_made_the_value(name: str) -> None:
    function, x, expected = FEATURES[name]
    assert last(whole(function, x)).feature_dim == expected


def test_the_feature_dimension_follows_a_value_through_nodes() -> None:
    gm = trace(nn.Sequential(nn.Conv1d(8, 4, 1), nn.ReLU(inplace=True), nn.MaxPool1d(2)), SEQUENCE)
    assert [value_of(node).feature_dim for node in fx_nodes(gm)] == [1, 1, 1]


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
    gm = whole(lambda x: x.permute(0, 2, 3, 1).view(2, -1), x)
    assert last(gm).requires_grad
    assert last(gm).dims == ("b", 48)


def test_the_same_tensor_given_twice_is_one_memory() -> None:
    x = torch.zeros(2, 3)
    gm = whole(operator.add, x, x)
    assert value_of(list(gm.graph.nodes)[1]).aliases == {"x0"}


def test_statistics_of_an_opaque_batch_norm_are_not_a_value_that_it_writes() -> None:
    norm = nn.BatchNorm1d(3)
    assert last(whole(norm, torch.rand(4, 3))).mutates == frozenset()
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert int(norm.num_batches_tracked) == 0


@pytest.mark.parametrize("training", [True, False])
def test_statistics_in_the_graph_are_written_in_training_alone(training: bool) -> None:
    model = nn.BatchNorm1d(3).train(training)
    gm = exported(model, torch.rand(4, 3))
    annotate(gm, [torch.rand(4, 3)])
    written = set().union(*(value_of(node).mutates for node in gm.graph.nodes))
    assert written == ({"running_mean", "running_var", "num_batches_tracked"} if training else set())


def test_an_out_argument_is_written() -> None:
    gm = trace(lambda x, y: torch.add(x, 1, out=y), torch.zeros(2), torch.zeros(2))
    assert last(gm).mutates == last(gm).aliases == {"y"}


def test_a_write_through_a_view_reaches_all_that_share_its_memory() -> None:
    gm = trace(lambda x: x.view(-1)[:2].zero_(), torch.zeros(2, 2))
    assert last(gm).mutates == {"x", "view", "getitem"}


def test_tensors_inside_objects_are_seen() -> None:
    class Cache:
        def __init__(self, kept: Tensor) -> None:
            self.kept = {"layers": [kept]}

    value = last(whole(Cache, torch.zeros(2, 3)))
    assert not value.is_tensor
    assert value.aliases == {"x0"}
    assert value.bytes == 24


def test_gradients_follow_no_grad_and_integers() -> None:
    layer = nn.Linear(3, 3)
    assert last(whole(layer, torch.zeros(2, 3))).requires_grad
    assert not last(whole(lambda x: layer(x).argmax(1), torch.zeros(2, 3))).requires_grad
    assert not last(whole(torch.no_grad()(lambda x: layer(x)), torch.zeros(2, 3))).requires_grad


def test_the_callers_gradient_mode_does_not_matter() -> None:
    with torch.inference_mode():
        assert last(whole(nn.Linear(3, 3), torch.zeros(2, 3))).requires_grad


@pytest.mark.parametrize("capture", CAPTURES)
def test_exported_and_traced_graphs_without_gradient_regions(capture: Any) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.layer(x)
            return self.layer(x) + y

    gm = capture(Partly(), torch.zeros(4, 3))
    annotate(gm, [torch.zeros(4, 3)])
    assert last(gm).dims == ("b", 3)


def test_a_node_that_needs_numbers_is_named_with_its_module_and_reason() -> None:
    model = nn.Sequential(nn.ReLU(), Call(lambda x: x[: int(x.sum().item())]))
    with pytest.raises(PreconditionError) as caught:
        annotate(fx.Tracer_trace(model) if hasattr(fx, "Tracer_trace") else kept(model), [torch.zeros(2)])
    message = str(caught.value)
    assert message.startswith("cannot run node _1 (call_module 1, in 1) on shapes alone: DataDependentOutput")
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def kept(model: nn.Module) -> fx.GraphModule:
    """A graph in which every child of the model is one node."""

    class Whole(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    return fx.GraphModule(model, Whole().trace(model))


def test_examples_must_match_the_placeholders() -> None:
    with pytest.raises(PreconditionError, match=r"2 inputs \(x, y\) from 1 examples"):
        annotate(fx.symbolic_trace(lambda x, y: x + y), [torch.zeros(2)])


def test_an_annotated_graph_can_be_annotated_again() -> None:
    gm = trace(Images(), torch.randn(4, 3, 7, 7))
    first = {node.name: value_of(node) for node in gm.graph.nodes}
    annotate(gm, [torch.randn(4, 3, 7, 7)])
    assert first == {node.name: value_of(node) for node in gm.graph.nodes}
