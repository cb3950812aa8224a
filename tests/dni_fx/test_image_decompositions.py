"""Pools, and the gradients of pools, resizing, padding and reading at places, are those of PyTorch."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from dni_fx.exporters.training.decompositions import pooling, resizing, sampling

aten = torch.ops.aten


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"), [(2, 2, 0, False), (3, 2, 1, True), (3, 1, 1, False)]
)
def test_the_gradient_of_a_max_pool(kernel, stride, padding, ceil):
    value = drawn(2, 3, 7, 8).requires_grad_()
    out, indices = F.max_pool2d(value, kernel, stride, padding, 1, ceil, return_indices=True)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    both = [[each] * 2 for each in (kernel, stride, padding, 1)]
    assert torch.equal(pooling.max_pool_backward(grad, value.detach(), *both, ceil, indices), wanted)


POOLS = list(itertools.product([(2, 2, 0), (3, 2, 1), (3, 1, 1)], [False, True], [False, True], [None, 5]))


@pytest.mark.parametrize(("sizes", "ceil", "pads", "divisor"), POOLS)
def test_the_gradient_of_an_average_pool(sizes, ceil, pads, divisor):
    value = drawn(2, 3, 7, 8).requires_grad_()
    out = F.avg_pool2d(value, *sizes, ceil, pads, divisor)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    both = [[each] * 2 for each in sizes]
    found = pooling.avg_pool_backward(grad, value.detach(), *both, ceil, pads, divisor)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("out", [(1, 1), (3, 2), (5, 7), (9, 9)])
def test_the_gradient_of_an_adaptive_average_pool(out):
    value = drawn(2, 3, 7, 8).requires_grad_()
    pooled = aten._adaptive_avg_pool2d(value, out)
    grad = drawn(*pooled.shape, seed=1)
    (wanted,) = torch.autograd.grad(pooled, value, grad)
    found = pooling.adaptive_avg_pool2d_backward(grad, value.detach())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(14, 16), (5, 3), (1, 9)])
def test_the_gradient_of_bilinear_resizing(size, corners):
    value = drawn(2, 3, 7, 8).requires_grad_()
    out = F.interpolate(value, size, mode="bilinear", align_corners=corners)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    found = resizing.linear_backward(grad, size, value.shape, corners)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_resizing_by_a_factor():
    value = drawn(2, 3, 7, 8).requires_grad_()
    out = F.interpolate(value, scale_factor=1.7, mode="bilinear", recompute_scale_factor=False)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    found = resizing.linear_backward(grad, out.shape[2:], value.shape, False, 1.7, 1.7)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "nearest", "nearest-exact"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("how", [{"size": 5}, {"size": 11}, {"scale_factor": 1.5}, {"scale_factor": 0.6}])
def test_the_gradient_of_resizing_in_other_dimensions(kind, dims, how):
    value = drawn(2, 3, *(5 + at for at in range(dims))).requires_grad_()
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dims] if kind == "linear" else kind
    out = F.interpolate(value, mode=mode, **how)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    scales = [how["scale_factor"]] * dims if "scale_factor" in how else [None] * dims
    given = grad, out.shape[2:], value.shape
    backward = {"linear": resizing.linear_backward, "nearest": resizing.nearest_backward}.get(
        kind, resizing.nearest_exact_backward
    )
    found = backward(*given, *([False] if kind == "linear" else []), *scales)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_gradient_of_padding_by_the_edges(dims):
    value, padding = (
        drawn(2, 3, *(5 + at for at in range(dims))).requires_grad_(),
        [2, 1, 0, 3, 1, -1][: 2 * dims],
    )
    out = F.pad(value, padding, mode="replicate")
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    found = resizing.replication_pad_backward(grad, value.detach(), padding)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_gradients_of_pools_of_volumes():
    value = drawn(2, 3, 5, 6, 7).requires_grad_()
    for pool, backward in (
        (aten._adaptive_avg_pool3d(value, (2, 3, 7)), pooling.adaptive_avg_pool3d_backward),
        (F.avg_pool3d(value, 3, 2, 1), None),
    ):
        grad = drawn(*pool.shape, seed=1)
        (wanted,) = torch.autograd.grad(pool, value, grad)
        given = [3] * 3, [2] * 3, [1] * 3, False, True, None
        found = (
            backward(grad, value.detach())
            if backward
            else pooling.avg_pool_backward(grad, value.detach(), *given)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (7, 8), (2, 4), (9, 3)])
def test_an_adaptive_max_pool_and_its_gradient(size):
    value = drawn(2, 3, 7, 8).requires_grad_()
    out, indices = F.adaptive_max_pool2d(value, size, return_indices=True)
    for mine, theirs in zip(pooling.adaptive_max_pool2d(value, size), (out, indices), strict=True):
        assert torch.equal(mine, theirs)
    grad = drawn(*out.shape, seed=1)
    (wanted,) = torch.autograd.grad(out, value, grad)
    assert torch.equal(pooling.adaptive_max_pool2d_backward(grad, value.detach(), indices), wanted)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_gradients_of_reading_at_places(mode, padding, corners):
    value = drawn(2, 3, 5, 4).requires_grad_()
    grid = (2 * drawn(2, 6, 7, 2, seed=1)).requires_grad_()  # far beyond the edges, too
    out = F.grid_sample(value, grid, mode, padding, corners)
    grad = drawn(*out.shape, seed=2)
    wanted = torch.autograd.grad(out, [value, grid], grad)
    kinds = ["bilinear", "nearest"].index(mode), ["zeros", "border", "reflection"].index(padding)
    given = grad, value.detach(), grid.detach(), *kinds, corners
    found = sampling.grid_sampler_2d_backward(*given, [True, True])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert sampling.grid_sampler_2d_backward(*given, [False, False]) == (None, None)
