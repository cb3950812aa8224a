"""What the aten operations that run in a node tell of it."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Generator, Iterable, Iterator
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from passes.annotate_cost import backward_flops, flops, is_counted
from passes.feature_dims import FeatureDims
from passes.values import Value

# Their schemas do not say that they write to the running statistics in training.
_BATCH_NORMS = frozenset({"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"})
# Arguments without which an operation that may draw random numbers draws none.
_SWITCHES = frozenset({"dropout_p", "dropout", "train", "training"})

_is_wrapped: Any = attrgetter("_C._functorch.is_functorch_wrapped_tensor")(torch)
_top_hooks: Any = attrgetter("_C._autograd._top_saved_tensors_default_hooks")(torch)
_unwrap: Any = attrgetter("_C._functorch.get_unwrapped")(torch)


class Watch(TorchDispatchMode):
    """Sees every aten operation under it, and sums up those of one node when told that it was made."""

    supports_higher_order_operators = True  # a nested graph runs as a whole, below this mode

    def __init__(self) -> None:
        super().__init__()
        keep = weakref.WeakMethod(self._keep)

        def hook(tensor: Tensor) -> list[Tensor]:
            # Autograd's graph holds this, and the watch holds tensors of that graph: a circle no one frees.
            found = keep()
            return [tensor] if found is None else found(tensor)

        self._hook = hook
        self._cells: list[list[Tensor]] = []
        self.found: dict[str, Value] = {}
        self._features = FeatureDims()
        self._owners: dict[StorageWeakRef, list[str]] = {}
        self._weights: set[StorageWeakRef] = set()
        self._free: set[StorageWeakRef] = set()  # what the model holds anyway, or is kept already
        self._made: dict[StorageWeakRef, int] = {}  # of the repeated operations, as often as they run
        self._times = 1
        self._begin()

    def weigh(self, parts: Iterable[Any]) -> None:
        """Take tensors, and those of modules, for the model's own, and its matrices for weights."""
        for part in parts:
            held = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]
            for each in held:
                storages = _storages([each]) if isinstance(each, Tensor) else set[StorageWeakRef]()
                self._free |= storages
                if isinstance(each, nn.Parameter) and each.dim() > 1:
                    self._weights |= storages

    @contextlib.contextmanager
    def saving(self) -> Generator[None]:
        """What autograd keeps for the backward pass of a node that runs inside is counted."""
        try:
            with saved_tensors_hooks(self._hook, _first):
                yield
        finally:
            for cell in self._cells:
                cell.clear()  # what is kept in autograd's graph is never freed if it leads back to the graph
            self._cells.clear()

    @property
    def is_backward_hidden(self) -> bool:
        """Whether the node made products that no operation's own backward pass need tell all of."""
        return self._hidden

    def replayed(self, backward: Iterator[None]) -> None:
        """Count what an iterator runs between its first and its last step as the node's backward pass."""
        flops = self._flops
        next(backward)
        start = self._flops
        for _ in backward:
            pass
        self._flops, self._backward_flops = flops, self._flops - start

    def start_over(self) -> None:
        """Forget what ran since the last node was made."""
        self._begin()

    def node_made(self, name: str, made: object) -> None:
        """Conclude a node: what ran since the last one was its work."""
        tensors = list(_tensors_in(made))
        storages = _storages(tensors)
        one = made if isinstance(made, Tensor) else None
        self.found[name] = Value(
            shape=None if one is None else tuple(one.shape),
            dtype=None if one is None else one.dtype,
            feature_dim=-1 if one is None else self._features.of(one),
            requires_grad=any(tensor.requires_grad for tensor in tensors),
            aliases=self._names(storages),
            mutates=self._names(self._written),
            random=self._random,
            flops=self._flops,
            backward_flops=self._backward_flops,
            saved=self._saved,
            bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            uncounted=frozenset(self._uncounted),
        )
        for storage in storages:
            self._owners.setdefault(storage, []).append(name)
        self._begin()

    @contextlib.contextmanager
    def repeated(self, times: int) -> Generator[None]:
        """What runs now stands for as many runs of it."""
        outer, self._times = self._times, self._times * times
        yield
        self._times = outer

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if isinstance(func, OpOverload) and func.namespace != "prim":
            self._note(func, args, kwargs, out)
        return out

    def _begin(self) -> None:
        self._written: set[StorageWeakRef] = set()
        self._random = False
        self._flops = 0
        self._backward_flops = 0
        self._saved = 0
        self._hidden = False
        self._uncounted: set[str] = set()

    def _note(
        self, func: OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        self._features.note(func, args, kwargs, _tensors_in(out))
        if counted := flops(func, args, kwargs, out):
            self._flops += self._times * counted
            self._hidden |= not torch.is_grad_enabled() or self._has_other_hooks()
        self._backward_flops += self._times * backward_flops(func, args, kwargs, out)
        if self._times > 1:
            self._made |= dict.fromkeys(_storages(_tensors_in(out)), self._times)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._random |= _draws(_bound(func, args, kwargs))
        if written := _written_arguments(func):
            bound = _bound(func, args, kwargs)
            if func.overloadpacket.__name__ not in _BATCH_NORMS or bound["training"]:
                self._written |= _storages(_tensors_in([bound.get(name) for name in written]))
        if not _is_counted(func) and not self._weights.isdisjoint(_storages(_tensors_in((args, kwargs)))):
            self._uncounted.add(str(func))

    def _keep(self, tensor: Tensor) -> list[Tensor]:
        for storage in _storages([tensor]) - self._free:
            self._free.add(storage)
            size = _unwrapped(tensor).untyped_storage().nbytes()
            self._saved += size * self._made.get(storage, 1)
        self._cells.append([tensor])
        return self._cells[-1]

    def _has_other_hooks(self) -> bool:
        """Whether what is saved now goes elsewhere, as it does inside of a checkpoint."""
        top: Any = _top_hooks(True)
        return top is not None and top[0] is not self._hook

    def _names(self, storages: Iterable[StorageWeakRef]) -> frozenset[str]:
        return frozenset(name for storage in storages for name in self._owners.get(storage, ()))


def _first(cell: list[Tensor]) -> Tensor:
    return cell[0]


_is_counted = functools.cache(is_counted)


@functools.cache
def _written_arguments(func: OpOverload[..., Any]) -> tuple[str, ...]:
    if func.overloadpacket.__name__ in _BATCH_NORMS:
        return "running_mean", "running_var"
    arguments = cast("Any", func)._schema.arguments
    return tuple(each.name for each in arguments if each.alias_info and each.alias_info.is_write)


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, with the schema's defaults."""
    arguments = func._schema.arguments
    defaults = {each.name: each.default_value for each in arguments}
    return defaults | dict(zip(defaults, args, strict=False)) | kwargs


def _draws(bound: dict[str, Any]) -> bool:
    """Whether none of the arguments turns the random numbers off (attention without dropout, say)."""
    switches = [bound[name] for name in _SWITCHES & bound.keys() if isinstance(bound[name], int | float)]
    return all(switches)


def _storages(tensors: Iterable[Tensor]) -> set[StorageWeakRef]:
    """The memory behind tensors, those of `torch.func` too. Sparse ones have none that could be shared."""
    plain = [_unwrapped(tensor) for tensor in tensors]
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in plain if tensor.layout is torch.strided}


def _unwrapped(tensor: Tensor) -> Tensor:
    """The tensor whose memory this one is a view of for `vmap`, `grad` and the like."""
    while _is_wrapped(tensor):
        tensor = _unwrap(tensor)
    return tensor


def _tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in a value, through containers, data classes and objects such as caches."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield from _tensors_in(item)
    elif isinstance(value, dict):
        for item in cast("dict[object, object]", value).values():
            yield from _tensors_in(item)
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        for item in vars(value).values():
            yield from _tensors_in(item)
