"""What operators are made of that ONNX lacks gives what PyTorch's own operators give."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni_fx.exporters.training.decompositions import (
    convolution,
    copying,
    embedding,
    normalization,
    randomness,
    striding,
    table,
)
from dni_fx.exporters.training.tracing import Shapes, trace
from dni_fx.exporters.training.writing import MissingOperatorError, onnx_model
from dni_fx.exporters.translation import quiet

aten = torch.ops.aten


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "kernel"),
    [(1, 0, 1, 1, 1), (1, 1, 1, 1, 3), (2, 1, 1, 1, 3), (3, 2, 2, 1, 3), (2, 0, 1, 2, 2), (2, 1, 2, 4, 3)],
)
def test_the_gradients_of_a_convolution(dims, transposed, stride, padding, dilation, groups, kernel):
    sizes = [7 + at for at in range(dims)]
    value = drawn(3, 4, *sizes).requires_grad_()
    weight = drawn(*((4, 8 // groups) if transposed else (8, 4 // groups)), *[kernel] * dims, seed=1)
    weight.requires_grad_()
    options = [[each] * dims for each in (stride, padding, dilation)]
    rest = [min(stride - 1, 1)] * dims if transposed else [0] * dims
    out = aten.convolution(value, weight, drawn(8), *options, transposed, rest, groups)
    grad = drawn(*out.shape, seed=2)
    wanted = torch.autograd.grad(out, [value, weight], grad)
    found = convolution.convolution_backward(
        grad, value.detach(), weight.detach(), [8], *options, transposed, rest, groups, [True] * 3
    )
    for mine, theirs in zip(found, [*wanted, grad.sum([0, *range(2, 2 + dims)])], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_what_is_not_wanted_of_a_convolution_is_not_computed():
    given = drawn(2, 3, 5, 5), drawn(2, 3, 5, 5), drawn(3, 3, 1, 1)
    options = [[1, 1], [0, 0], [1, 1], False, [0, 0], 1]
    assert convolution.convolution_backward(*given, [3], *options, [False] * 3) == (None, None, None)


@pytest.mark.parametrize("padding", [-1, 2])
@pytest.mark.parametrize("by_frequency", [False, True])
def test_the_gradient_of_an_embedding(padding, by_frequency):
    table_, indices = drawn(6, 4).requires_grad_(), torch.tensor([[0, 2, 5], [2, 2, 0]])
    known = None if padding < 0 else padding
    out = F.embedding(indices, table_, known, scale_grad_by_freq=by_frequency)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, table_, grad)
    found = embedding.embedding_dense_backward(grad, indices, 6, padding, by_frequency)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def uniform(seed, *shape):
    with randomness.drawing(torch.tensor(seed)):
        return randomness.uniform(shape, torch.float32)


def test_numbers_are_told_by_the_seed_and_the_draw():
    with randomness.drawing(torch.tensor(3)):
        first, second = (randomness.uniform((1000,), torch.float32) for _ in range(2))
    assert torch.equal(first, uniform(3, 1000))
    assert not torch.equal(first, second)
    assert not torch.equal(first, uniform(4, 1000))


def test_numbers_are_spread_evenly_and_independent_of_their_neighbors():
    count = 100_000
    for seed in (0, 1, 2, 12_345_678):
        found = uniform(seed, count)
        assert float(found.min()) >= 0
        assert float(found.max()) < 1
        parts = torch.histc(found, 20, 0, 1)
        assert float((parts - count / 20).abs().max()) < 5 * (count / 20) ** 0.5
        other = uniform(seed + 1, count)
        for one, two in [(found[:-1], found[1:]), (found[:-7], found[7:]), (found, other)]:
            assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 5 / count**0.5


def test_normal_numbers_have_their_mean_and_variance():
    with randomness.drawing(torch.tensor(1)):
        found = randomness.randn((100_000,))
    assert abs(float(found.mean())) < 0.02
    assert abs(float(found.var()) - 1) < 0.02
    assert abs(float((found**3).mean())) < 0.05


def test_memory_is_filled_with_numbers_of_a_distribution():
    with randomness.drawing(torch.tensor(1)):
        between = randomness.uniform_(torch.empty(100_000), 2.0, 5.0)
        normal = randomness.normal_(torch.empty(100_000), 2.0, 0.5)
        waits = randomness.exponential_(torch.empty(100_000), 4.0)
    assert 2 <= float(between.min()) < 2.01 < 4.99 < float(between.max()) <= 5
    assert abs(float(normal.mean()) - 2) < 0.01
    assert abs(float(normal.std()) - 0.5) < 0.01
    assert float(waits.min()) > 0
    assert abs(float(waits.mean()) - 0.25) < 0.005
    assert abs(float((waits > 0.25).double().mean()) - torch.e**-1) < 0.01


@pytest.mark.parametrize("draw", [torch.poisson, lambda x: torch.multinomial(x.abs() + 1, 1)])
def test_random_numbers_that_a_seed_does_not_tell_are_refused(draw):
    with pytest.raises(MissingOperatorError, match=r"computes aten\.(poisson|multinomial)"), quiet():
        onnx_model(traced(draw), 0, "a graph")


def test_dropout_keeps_its_part_and_makes_it_larger_by_as_much():
    value = torch.ones(200, 500)
    with randomness.drawing(torch.tensor(1)):
        found, stays = randomness.native_dropout(value, 0.3, True)
    assert torch.equal(found, stays / 0.7)
    assert abs(float(stays.float().mean()) - 0.7) < 0.01
    same, everything = randomness.native_dropout(value, 0.3, False)
    assert torch.equal(same, value)
    assert bool(everything.all())


def test_a_leaky_slope_is_drawn_between_its_bounds():
    value = drawn(100, 100)
    with randomness.drawing(torch.tensor(1)):
        found, slopes = randomness.rrelu_with_noise_functional(value, torch.zeros_like(value), 0.1, 0.3, True)
    assert torch.equal(found, value * slopes)
    assert bool((slopes[value > 0] == 1).all())
    below = slopes[value <= 0]
    assert 0.1 <= float(below.min()) < 0.11
    assert 0.29 < float(below.max()) < 0.3
    mean, _ = randomness.rrelu_with_noise_functional(value, torch.zeros_like(value), 0.1, 0.3, False)
    torch.testing.assert_close(mean, F.rrelu(value, 0.1, 0.3, False))


@pytest.mark.parametrize("function", [lambda x: x * 2, lambda x: x * x.shape[0]], ids=["no size", "a size"])
def test_a_program_takes_any_batch(function):
    assert not traced(function).is_fixed


def test_a_program_says_that_it_takes_one_batch_alone():
    assert traced(lambda x: x * int(x.shape[0])).is_fixed


def traced(function):
    shapes, x = Shapes(), torch.ones(3, 2)
    with quiet():  # as a step is written: torch warns of hardware that is not there
        return trace(lambda given: {"y": function(given["x"])}, {"x": x}, {"x": shapes.of(x, frozenset([0]))})


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_gradients_of_a_weight_that_is_normalized(dim):
    value = drawn(3, 4, 2).requires_grad_()
    length = drawn(*(size if at == dim else 1 for at, size in enumerate((3, 4, 2))), seed=1).requires_grad_()
    norms = torch.norm_except_dim(value, 2, dim)
    grad = drawn(3, 4, 2, seed=2)
    wanted = torch.autograd.grad(value * (length / norms), [value, length], grad)
    found = normalization.weight_norm_backward(grad, value.detach(), length.detach(), norms.detach(), dim)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_copy_of_one_element_fills_all():
    into = torch.zeros(3, 2, dtype=torch.int64)
    assert torch.equal(copying.copy(into, torch.tensor(2.0)), torch.full((3, 2), 2))
    assert copying.copy_(into, torch.ones_like(into)) is NotImplemented
    assert torch.equal(copying.copy_(into, torch.tensor(3)), torch.full((3, 2), 3))
    assert torch.equal(into, torch.full((3, 2), 3))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        *[((6, 4), (4, 1), 0), ((24, 1), (1, 7), None), ((2, 12), (12, 1), 0), ((4, 6), (1, 4), 0)],
        *[((6, 3), (4, 1), 0), ((6, 4), (0, 1), 0), ((2, 4), (4, 1), 4)],
    ],
)
def test_strides_are_said_in_another_way_only_where_they_are_the_same_elements(size, stride, offset):
    value = drawn(6, 4)
    found = striding.as_strided(value, size, stride, offset)
    is_all_in_order = torch.equal(value.as_strided(size, stride, offset).reshape(-1), value.reshape(-1))
    assert (found is not NotImplemented) == is_all_in_order
    if is_all_in_order:
        assert torch.equal(found, value.as_strided(size, stride, offset))


def test_strides_of_dimensions_with_one_element_say_nothing():
    value = drawn(2, 16, 1, 1)
    assert striding.as_strided_(value, (2, 16, 1, 1), (16, 1, 16, 16)) is value
    assert striding.as_strided_(value, (2, 16, 1, 1), (1, 2, 1, 1)) is NotImplemented
    assert striding.as_strided_(value, (2, 8, 1, 1), (16, 1, 1, 1)) is NotImplemented


def test_the_table_takes_batch_norm_apart():
    # Its translation in torch's exporter is off by order 1 in train mode, and says nothing.
    assert aten._native_batch_norm_legit_functional.default in table()
    norm, value = nn.BatchNorm2d(3).double(), drawn(4, 3, 5, 5)
    made = table()[aten._native_batch_norm_legit_functional.default](
        value, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, 0.1, 1e-5
    )
    expected = norm(value)
    for mine, theirs in zip(
        (made[0], made[3], made[4]), (expected, norm.running_mean, norm.running_var), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
