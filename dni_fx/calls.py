"""A call of a model, taken apart into its tensors and everything else.

A captured graph is a function of tensors alone. What else a call passes (numbers, flags, None, the
nesting of tuples and dictionaries) is fixed at capture, so a graph serves the calls of one form.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dni_fx.errors import CaptureError
from dni_fx.fields import with_fields

PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, Enum, torch.dtype, torch.device)
_SIMPLE = (Tensor, *PLAIN)


@dataclass(frozen=True)
class Form:
    """Everything about a call except the values of its tensors. Two calls of one form share a graph."""

    spec: pytree.TreeSpec
    constants: tuple[tuple[int, Any], ...]
    kinds: tuple[tuple[torch.dtype, bool], ...]
    names: tuple[str, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> Form:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # torch warns about its own classes when it unpickles a tree's specification.
        return form_of, (pytree.treespec_dumps(self.spec), self.constants, self.kinds, self.names)

    def rebuild(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with `leaves` in the places of the tensors, in order."""
        fixed = dict(self.constants)
        rest = iter(leaves)
        total = len(fixed) + len(self.names)
        return pytree.tree_unflatten(
            [fixed[i] if i in fixed else next(rest) for i in range(total)], self.spec
        )


def form_of(
    spec: str,
    constants: tuple[tuple[int, Any], ...],
    kinds: tuple[tuple[torch.dtype, bool], ...],
    names: tuple[str, ...],
) -> Form:
    """The form whose tree of arguments is written in `spec`, as `treespec_dumps` writes it."""
    return Form(pytree.treespec_loads(spec), constants, kinds, names)


@dataclass(frozen=True)
class Call:
    """A form and the tensors that fill it, each named after the argument that it came in.

    `varying` holds, for each tensor, the dimensions whose size other calls are known to change.
    """

    form: Form
    leaves: tuple[Tensor, ...]
    varying: tuple[frozenset[int], ...] = ()

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of the call."""
        return self.form.rebuild(self.leaves)

    def named(self) -> dict[str, Tensor]:
        """The tensors by the names of the arguments that hold them."""
        return dict(zip(self.form.names, self.leaves, strict=True))

    def like(self, model: nn.Module) -> Call:
        """The same call for a model that has moved or changed its type since."""
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        if first is None:
            return self
        leaves = tuple(
            leaf.to(first.device, first.dtype if leaf.is_floating_point() else leaf.dtype)
            for leaf in self.leaves
        )
        kinds = tuple((leaf.dtype, leaf.requires_grad) for leaf in leaves)
        return Call(Form(self.form.spec, self.form.constants, kinds, self.form.names), leaves)

    def copies(self) -> list[Tensor]:
        """Copies of the tensors, for a model may write to them; those that are no leaves stay none."""
        copies = [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in self.leaves]
        # A leaf that requires a gradient is the one tensor that may not be written to.
        return [
            copy if leaf.is_leaf else copy.clone() for leaf, copy in zip(self.leaves, copies, strict=True)
        ]

    def apart(self) -> Call:
        """The same call for those who look at no values: parts of larger tensors are tensors of their own.

        Where a tensor begins in a larger one is nothing that a graph should be found to ask for.
        """
        own = {leaf: _apart(leaf) for leaf in self.leaves}
        return replace(self, leaves=tuple(own[leaf] for leaf in self.leaves))

    def opened(self, earlier: Iterable[Sequence[Sequence[int]]]) -> Call:
        """The same call, with the dimensions noted in which it differs from these shapes of other calls.

        The batch always varies: the first dimension of every tensor that has the first one's size there.
        """
        open_dims = [{0} if leaf.dim() and leaf.shape[0] == self.batch else set() for leaf in self.leaves]
        for shapes in earlier:
            for leaf, shape, dims in zip(self.leaves, shapes, open_dims, strict=True):
                if len(shape) == leaf.dim():
                    dims |= {at for at, size in enumerate(leaf.shape) if size != shape[at]}
        return replace(self, varying=tuple(map(frozenset, open_dims)))

    @property
    def cuda_devices(self) -> list[int]:
        """The CUDA devices that hold tensors of the call, whose generators a run may draw from."""
        return sorted({leaf.device.index for leaf in self.leaves if leaf.device.type == "cuda"})

    @property
    def batch(self) -> int:
        """The first size of the first tensor that has one, 1 if there is none."""
        return next((leaf.shape[0] for leaf in self.leaves if leaf.dim()), 1)


def call_of(signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
    """The call `f(*args, **kwargs)` of a function with this signature.

    `f(x)` and `f(x=x)` are the same call.

    Raises:
        TypeError: the arguments do not fit the signature.
        CaptureError: an argument is neither tensors nor a plain value.
    """
    bound = signature.bind(*args, **kwargs)
    # By far the most calls pass tensors side by side; a walk through the arguments would cost them time.
    if not all(map(_is_simple, bound.arguments.values())):
        bound = inspect.BoundArguments(signature, _opened(bound.arguments))
    flat, spec = pytree.tree_flatten((bound.args, bound.kwargs))
    tensors = [item for item in flat if isinstance(item, Tensor)]
    constants = tuple((i, item) for i, item in enumerate(flat) if not isinstance(item, Tensor))
    if odd := [item for _, item in constants if not isinstance(item, PLAIN)]:
        raise CaptureError(
            f"cannot capture a call that passes a {type(odd[0]).__name__}: what is in it would be fixed for "
            "ever. Pass tensors, plain values, and lists, tuples, dictionaries or data classes of them; a "
            "class of your own can be registered with torch.utils._pytree.register_pytree_node."
        )
    kinds = tuple((tensor.dtype, tensor.requires_grad) for tensor in tensors)
    return Call(Form(spec, constants, kinds, _names(signature, bound)), tuple(tensors))


def _is_simple(value: object) -> bool:
    """Whether there is no class in it that torch does not know: state is tensors in tuples, as a rule."""
    if type(value) in (tuple, list):
        return all(map(_is_simple, cast("Sequence[object]", value)))
    return isinstance(value, _SIMPLE)


def _opened(arguments: Mapping[str, Any]) -> OrderedDict[str, Any]:
    for name, value in arguments.items():
        if isinstance(value, PackedSequence):
            raise CaptureError(
                f"cannot capture a call that passes a PackedSequence ({name}): its first dimension is not "
                "the batch. Pass the padded tensor and the lengths, and pack them inside of the layer that "
                "needs it."
            )
    return OrderedDict(with_fields(dict(arguments)))


def _names(signature: inspect.Signature, bound: inspect.BoundArguments) -> tuple[str, ...]:
    # By far the most calls pass tensors side by side; walking paths would cost them 20 microseconds.
    if all(isinstance(value, Tensor) for value in bound.arguments.values()):
        return tuple(bound.arguments)
    positional = [
        f"{name}_{i}" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else name
        for name, parameter in signature.parameters.items()
        if name in bound.arguments and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        for i in range(len(bound.arguments[name]) if parameter.kind is parameter.VAR_POSITIONAL else 1)
    ]
    # `bound.args` ends where a keyword-only argument begins; those are named by their keys.
    names: list[str] = []
    paths, _ = pytree.tree_flatten_with_path((bound.args, bound.kwargs))
    for (where, *path), value in paths:
        if isinstance(value, Tensor):
            first, *rest = (
                str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path
            )
            is_positional = getattr(where, "idx", 0) == 0
            names.append("_".join([positional[int(first)] if is_positional else first, *rest]))
    return tuple(names)


def _apart(leaf: Tensor) -> Tensor:
    """A tensor of the same form that begins where its memory does; any other stays."""
    is_part = type(leaf) is Tensor and leaf.layout == torch.strided and leaf.storage_offset()
    if not is_part or (leaf.requires_grad and not leaf.is_leaf):
        return leaf
    own = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return own.requires_grad_(leaf.requires_grad)
