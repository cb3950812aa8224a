"""What tables, distances and orders are made of gives what PyTorch's own operators give."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dni_fx.exporters.training.decompositions import Replaced, distances, ordering
from dni_fx.exporters.training.tracing import Shapes, trace
from dni_fx.exporters.training.writing import onnx_model
from dni_fx.exporters.translation import quiet

WORDS, FEATURES = 7, 3


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def words(*shape, seed=0):
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(function, *tensors):
    """What a function gives, and the gradients of what it is given; dense, where they are sparse."""
    given = [each.clone().requires_grad_() for each in tensors]
    found = function(*given)
    grads = torch.autograd.grad(found, given, drawn(*found.shape, seed=9))
    return [found.detach(), *(each.to_dense() for each in grads)]


class Seen(TorchDispatchMode):
    """Inside, bags are noted that are made and taken apart by torch's own operators."""

    def __enter__(self):
        self.bags = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.bags += [func] * ("embedding_bag" in str(func))
        return func(*args, **(kwargs or {}))


def assert_replaced(function, *tensors, still=False):
    wanted = with_gradients(function, *tensors)
    with Replaced(), Seen() as seen:
        found = with_gradients(function, *tensors)
    assert bool(seen.bags) == still
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2, -1])
@pytest.mark.parametrize("offsets", [None, [0, 3, 3, 9, 12], [0, 0, 5]])
def test_a_bag_of_rows(mode, padding, offsets):
    given = words(4, 3) if offsets is None else words(12)
    starts = None if offsets is None else torch.tensor(offsets)
    options = {"mode": mode, "padding_idx": padding}
    table = drawn(WORDS, FEATURES)
    assert_replaced(
        lambda table: F.embedding_bag(given, table, starts, **options), table, still=mode == "max"
    )


def test_a_bag_whose_rows_have_weights_of_their_own_and_the_end_of_the_last_is_told():
    given, ends = words(10), torch.tensor([0, 4, 4, 10])

    def bag(table, weights):
        more = {"per_sample_weights": weights, "include_last_offset": True, "mode": "sum"}
        return F.embedding_bag(given, table, ends, **more)

    assert_replaced(bag, drawn(WORDS, FEATURES), drawn(10))


@pytest.mark.parametrize("by_frequency", [False, True])
def test_a_layer_whose_gradient_would_be_sparse(by_frequency):
    given = words(4, 3)
    options = {"padding_idx": 1, "scale_grad_by_freq": by_frequency}
    assert_replaced(lambda table: F.embedding(given, table, **options, sparse=not by_frequency), drawn(7, 3))
    assert_replaced(
        lambda table: torch.embedding(table, given, 1, by_frequency, not by_frequency), drawn(7, 3)
    )
    with Replaced():
        (grad,) = torch.autograd.grad(
            F.embedding(given, table := drawn(7, 3).requires_grad_(), sparse=True).sum(), table
        )
    assert not grad.is_sparse


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, float("inf")])
def test_distances_of_rows(p):
    one, other = drawn(2, 4, 3), drawn(2, 5, 3, seed=1)
    other[:, 0] = one[:, 0]  # no distance at all
    wanted = with_gradients(lambda *given: torch.cdist(*given, p=p), one, other)
    found = distances.cdist_forward(one, other, p)
    torch.testing.assert_close(found, wanted[0], rtol=1e-10, atol=1e-10)
    grad = drawn(*found.shape, seed=9)
    ours = [
        distances.cdist_backward(grad, one, other, p, found),
        distances.cdist_backward(grad.mT, other, one, p, found.mT),
    ]
    for mine, theirs in zip(ours, wanted[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (3, 6), (2, 3, 4)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_the_element_that_so_many_are_below(shape, keepdim):
    value = drawn(*shape)
    for dim in range(-len(shape), len(shape)):
        for k in range(1, shape[dim] + 1):
            wanted = torch.kthvalue(value, k, dim, keepdim)
            for mine, theirs in zip(ordering.kthvalue(value, k, dim, keepdim), wanted, strict=True):
                assert torch.equal(mine, theirs)
        for mine, theirs in zip(
            ordering.median_dim(value, dim, keepdim), value.median(dim, keepdim), strict=True
        ):
            assert torch.equal(mine, theirs)
    assert torch.equal(ordering.median(value), value.median())


@pytest.mark.parametrize("right", [False, True])
def test_where_values_go_among_others(right):
    ordered = torch.tensor([[0.0, 1, 1, 2], [1, 3, 5, 7]])
    values = torch.tensor([[1.0, 2.5, -1], [7, 8, 3]])
    found = ordering.searchsorted(ordered, values, right=right)
    assert torch.equal(found, torch.searchsorted(ordered, values, right=right))
    mixed, order = ordered.flip(1), torch.tensor([[3, 2, 1, 0]] * 2)
    side = "right" if right else "left"
    found = ordering.searchsorted(mixed, values, sorter=order, side=side, out_int32=True)
    assert torch.equal(found, torch.searchsorted(mixed, values, sorter=order, side=side, out_int32=True))
    found = ordering.searchsorted(ordered[0], values, right=right)
    assert torch.equal(found, torch.searchsorted(ordered[0], values, right=right))


BOUNDS = torch.tensor([-1.0, 0.0, 1.0])
FUNCTIONS = {
    "cdist": lambda x: torch.cdist(x, x + 1),
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "median of a row": lambda x: x.median(1)[0],
    "median": torch.median,
    "searchsorted": lambda x: torch.searchsorted(BOUNDS, x),
    "bucketize": lambda x: torch.bucketize(x, BOUNDS),
    "exponential": lambda x: torch.empty_like(x).exponential_(),
    "uniform": lambda x: torch.empty_like(x).uniform_(),
    "normal": lambda x: torch.empty_like(x).normal_(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_operator_is_left_that_onnx_lacks(name):
    """The table names them: what it does not, no graph can be written of."""
    shapes, x = Shapes(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    real = {"x": x, "seed": torch.zeros((), dtype=torch.int64)}
    fake = {"x": shapes.of(x, frozenset([0])), "seed": shapes.of(real["seed"])}
    with quiet():
        model = onnx_model(trace(lambda given: {"y": FUNCTIONS[name](given["x"])}, real, fake), 0, name)
    assert {node.domain for node in model.graph} == {""}
