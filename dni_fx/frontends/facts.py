"""What Python can learn of a tensor between two graphs, and whether a graph can look at it again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from dni_fx.errors import CaptureError
from dni_fx.frontends.backwards import TENSOR_HOOKS

LEGAL = (
    *(type(None), bool, int, float, complex, str, type(...)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_DESCRIPTORS = {"method_descriptor", "wrapper_descriptor", "method-wrapper"}
SHAPELY = frozenset(
    [
        "size",
        "dim",
        "ndimension",
        "numel",
        "nelement",
        "__len__",
        "stride",
        "storage_offset",
        "element_size",
        "get_device",
        "type",
        "is_floating_point",
        "is_complex",
        "is_signed",
        "is_inference",
        "is_tensor",
        "is_storage",
        "is_grad_enabled",
        "is_set_to",
        "is_shared",
        "is_pinned",
    ]
)
"""Questions about the form of a tensor, which its sizes and its type answer."""
HARMLESS = {"__repr__", "__str__", "__hash__"}  # for print, and for tables that know tensors by identity
_LEAVES_TORCH = {"numpy", "__array__", "data_ptr", "storage", "untyped_storage", "__reduce_ex__"}


class Sizing(TorchDispatchMode):
    """Notices whether the numbers in tensors decide how large a result is."""

    def __init__(self) -> None:
        super().__init__()
        self.by_numbers = False

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packs = "pack_padded" in func.__name__ or "pad_packed" in func.__name__
        self.by_numbers |= packs or torch.Tag.dynamic_output_shape in func.tags
        return func(*args, **(kwargs or {}))


def refuse_lost(name: str) -> None:
    """Do nothing if a graph can hold what the function of this name does with a tensor.

    Raises:
        CaptureError: it cannot.
    """
    if name in TENSOR_HOOKS:
        raise CaptureError(f"it calls {name} on a tensor between graphs, whose backward would be lost")
    if name in _LEAVES_TORCH:
        raise CaptureError(f"Python takes the numbers out of a tensor ({name}) and may do anything with them")


def noted(graph: fx.Graph, func: Any, args: Any, kwargs: dict[str, Any]) -> fx.Node:
    """The node for a call that a mode of torch functions has caught, its tensors replaced by nodes."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return graph.call_function(getattr, (args[0], func.__self__.__name__))
    if type(func).__name__ in _DESCRIPTORS:
        return graph.call_method(name, args, kwargs)
    return graph.call_function(func, args, kwargs)


def shape_of(value: Tensor) -> Tensor:
    """The sizes of a tensor as a tensor."""
    return torch.tensor(value.shape)
