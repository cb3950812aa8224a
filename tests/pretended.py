"""Devices that are not there: tensors that say they are on `cpu:1` or `cpu:2`, and raise where devices meet.

Their numbers are those of the CPU, so whatever is trained on them can be compared to the bit. Autograd knows
the devices that they say, and checks them as it does on GPUs.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dni_fx import foresight, predictor
from dni_fx.runtimes import aside, places

PAIR = ("cpu:1", "cpu:2")
HALF = ("cpu", "cpu:2")
"""Here constants that a graph has from its capture are on the first of both, as on GPUs."""
CPU = torch.device("cpu")
_PRETENDED = [torch.device(each) for each in PAIR]
_ANYWHERE = {"aten::copy_", "aten::_to_copy", "aten::is_same_size", "aten::set_"}


class MixedError(RuntimeError):
    """One operation has met tensors of several devices."""


class Pretended(torch.Tensor):
    """A tensor on a device that is not there."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner, place):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=place,
        )

    def __init__(self, inner, place):
        self.inner = inner

    def __repr__(self):
        return f"Pretended({self.inner}, {self.device})"

    def tolist(self):
        return self.inner.tolist()

    @property
    def data(self):
        return torch._C.TensorBase.data.__get__(self)

    @data.setter
    def data(self, other):
        torch._C.TensorBase.data.__set__(self, other)
        self.inner = other.inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Machine(TorchDispatchMode):
    """Inside, tensors can be made on devices that are not there, in this thread."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """The operation on the numbers of its operands, its results on their device or the one it names."""
    tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    place = kwargs.get("device")
    if place not in _PRETENDED and not any(isinstance(each, Pretended) for each in tensors):
        return func(*args, **kwargs)
    if place is None:
        place = _common_device(func, tensors)
    else:
        kwargs = kwargs | {"device": CPU}
    inner_args, inner_kwargs = pytree.tree_map_only(Pretended, lambda each: each.inner, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    known = {id(each.inner): each for each in tensors if isinstance(each, Pretended)}

    def outer(tensor):
        if func._schema.is_mutable and (id(tensor) in known or any(tensor is each for each in tensors)):
            return known.get(id(tensor), tensor)
        return Pretended(tensor, place)

    return pytree.tree_map_only(torch.Tensor, outer, out)


def _common_device(func, tensors):
    """Where an operation runs: numbers of the CPU may meet what is elsewhere, element by element."""
    if func._schema.name in _ANYWHERE:
        return tensors[0].device
    is_pointwise = torch.Tag.pointwise in func.tags
    found = [each.device for each in tensors if not (is_pointwise and each.dim() == 0 and each.device == CPU)]
    if len(set(found)) > 1:
        raise MixedError(f"{func} on {', '.join(sorted(map(str, set(found))))}")
    return found[0] if found else CPU


def pretended(model):
    """The same model, its tensors such that they can be moved to devices that are not there."""
    known = {}

    def lifted(tensor):
        if id(tensor) not in known:
            twin = Pretended(tensor.detach(), CPU)
            is_parameter = isinstance(tensor, nn.Parameter)
            twin = nn.Parameter(twin, requires_grad=tensor.requires_grad) if is_parameter else twin
            known[id(tensor)] = tensor, twin
        return known[id(tensor)][1]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: lifted(each) for name, each in tensors.items() if each is not None})
    return model


@pytest.fixture
def machine(monkeypatch):
    """A machine that has the devices of `PAIR`; the threads of runtimes know them, too."""

    class Pool(ThreadPoolExecutor):
        def submit(self, work):
            def inside():
                with Machine():
                    return work()

            return super().submit(inside)

    def network_for(*args):
        return pretended(foresight.network_for(*args))

    monkeypatch.setattr(aside, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(predictor, "network_for", network_for)
    monkeypatch.setattr(places, "_present", lambda: [CPU, *_PRETENDED])
    with Machine():
        yield
