"""A cut model that stands in for the model it was made from."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from types import MethodType
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from dni_fx.cutting import Cutting
from dni_fx.dni import DNI
from dni_fx.errors import DniError
from dni_fx.hooks import guard_hooks
from dni_fx.refusals import refuse_shards
from passes.boundary import CONTAINER
from passes.shell import shell


class Decoupled(nn.Module):
    """A drop-in: it trains in any loop, and in `eval()` it is the original model.

    It is an instance of the model's own class as well, keeps its methods, attributes and parameter
    names, and shares its parameters and buffers. What it adds is underscored, but for
    `gradient_scale` and the child module `dni`, which holds the synthesizers.
    """

    _dni: Cutting

    @property
    def gradient_scale(self) -> float:
        """What the user's loop multiplies its loss by (a loss scaler; 1/k when accumulating k batches)."""
        return self._dni.step.gradient_scale

    @gradient_scale.setter
    def gradient_scale(self, value: float) -> None:
        self._dni.step.gradient_scale = float(value)

    def __prepare_scriptable__(self) -> nn.Module:
        """Nothing: TorchScript is refused, since it would leave the boundaries out.

        Raises:
            DniError: always.
        """
        raise DniError(
            f"torch.jit.script cannot compile {type(self).__name__}: it is cut, and TorchScript knows no "
            "boundaries. Script dni_fx.recouple(model)."
        )

    @override
    def forward(
        self,
        *args: Any,
        dni_context: torch.Tensor | None = None,
        dni_reset: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the original model returns for the same arguments, bit for bit.

        In train mode with gradients enabled, backward then sends synthetic gradients across the cuts;
        `dni_context` is handed to the synthesizers, usually the labels. The first such call captures
        and cuts the model if no example was given before. Where state is carried, `dni_reset`, `(batch,)`,
        marks the samples whose episode ends with this step: their state is returned as zeros. A first state
        that is learned, a parameter or made from some, gets the true gradient of the call that it begins.

        Raises:
            CaptureError: no front-end can capture the model.
            PlanError: the captured graph cannot be cut as asked.
            DniError: the call is one that would go around the boundaries.
        """
        if not (self.training and torch.is_grad_enabled()):
            outputs = run_original(self, args, kwargs)
            return outputs if dni_reset is None else self._dni.ended(self, args, kwargs, outputs, dni_reset)
        if torch.compiler.is_dynamo_compiling():
            from dni_fx.traced import run_traced  # brings in the compiler, which takes long to import

            return run_traced(self._dni, self, args, kwargs, dni_context, dni_reset)
        return self._dni.forward(self, args, kwargs, dni_context, dni_reset)


def attach(tree: nn.Module, cutting: Cutting) -> Decoupled:
    """Turn a model into a drop-in of its own class, in place.

    Raises:
        DniError: the model is decoupled already, or has an attribute where the synthesizers would live.
    """
    if isinstance(tree, Decoupled):
        raise DniError("this model is decoupled already; dni_fx.recouple(model) undoes that.")
    if hasattr(tree, CONTAINER):
        raise DniError(
            f"cannot decouple {type(tree).__name__}: it has an attribute {CONTAINER!r}, where the "
            "synthesizers would live. Rename it, or decouple a module that holds the model."
        )
    # A forward that was set on the instance would hide the one of the class.
    cutting.instance_forward = vars(tree).pop("forward", None)
    tree.__class__ = _with_cuts(type(tree))
    assert isinstance(tree, Decoupled)
    vars(tree)["_dni"] = cutting
    tree.add_module(CONTAINER, cutting.interfaces)
    cutting.interfaces.training = tree.training
    return tree


def detach(model: nn.Module) -> nn.Module:
    """A shell of a model with its own class and without its DNIs; of any other model, a plain shell.

    Raises:
        DniError: a part of the model is sharded.
        ShellError: something in it cannot be copied.
    """
    return shell(_undressed(model))


def _undressed(model: nn.Module) -> nn.Module:
    refuse_shards(model)
    if not isinstance(model, Decoupled):
        return model
    twin = object.__new__(type(model).__mro__[2])
    # A forward that was set since then is somebody's wrapper around ours, as for mixed precision.
    kept = {name: value for name, value in vars(model).items() if name not in ("_dni", "forward")}
    state = {name: _bound_anew(value, model, twin) for name, value in kept.items()}
    state["_modules"] = {name: child for name, child in state["_modules"].items() if name != CONTAINER}
    if cutting_of(model).instance_forward is not None:
        state["forward"] = cutting_of(model).instance_forward
    state.pop("_ddp_params_and_buffers_to_ignore", None)
    twin.__dict__.update(state)
    return twin


def _bound_anew(value: Any, model: Decoupled, twin: nn.Module) -> Any:
    """The same method of the twin, if the value is one of the model; else the value."""
    if not (isinstance(value, MethodType) and value.__self__ is model):
        return value
    return twin.forward if value.__func__ is type(model).forward else MethodType(value.__func__, twin)


def bare(model: nn.Module) -> nn.Module:
    """Like `detach`, but with dictionaries of its own, so that whoever scribbles on it alters nothing.

    It is to be traced, so its hooks are guarded.
    """
    tree = shell(_undressed(model), replace=lambda tensor: tensor)
    guard_hooks(tree)
    return tree


def run_original(model: Decoupled, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the forward of the model that was decoupled returns; it does not meet the DNIs."""
    # A model may walk over its children, as nn.Sequential does; ours is no layer of it.
    interfaces = vars(model)["_modules"].pop(CONTAINER, None)
    try:
        if (own := cutting_of(model).instance_forward) is not None:
            return own(*args, **kwargs)
        return super(Decoupled, model).forward(*args, **kwargs)
    finally:
        if interfaces is not None:
            vars(model)["_modules"][CONTAINER] = interfaces


def cutting_of(model: Decoupled) -> Cutting:
    """How a drop-in is cut: its plan, its graphs so far and its interfaces.

    Raises:
        DniError: the model is not cut yet.
    """
    if not isinstance(model, Decoupled):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DniError(f"this {type(model).__name__} is not cut yet: pass it to dni_fx.decouple first.")
    return vars(model)["_dni"]


def dnis(model: Decoupled) -> dict[str, DNI]:
    """The DNI of each boundary, by name; empty before the first batch of a model captured lazily."""
    return cutting_of(model).filled()


@functools.cache
def _with_cuts(cls: type[nn.Module]) -> type[Decoupled]:
    """The drop-in class over a user's class; the same one each time, so that types compare equal."""

    @functools.wraps(cls.forward)
    def forward(self: Decoupled, *args: Any, **kwargs: Any) -> Any:
        return Decoupled.forward(self, *args, **kwargs)

    # Who takes wrappers off a forward (accelerate does) must not take off this one.
    vars(forward)["__signature__"] = inspect.signature(vars(forward).pop("__wrapped__"))
    names = {
        "forward": forward,
        "__doc__": inspect.getdoc(cls),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reduce__": _reduce,
        "__deepcopy__": _deep_copied,
    }
    return type(cls.__name__, (Decoupled, cls), names)


def _reduce(self: Decoupled) -> tuple[Any, ...]:
    """How copy and pickle make another one: from the user's class, since ours has no name to import."""
    return _blank, (type(self).__mro__[2],), _state(self)


def _deep_copied(self: Decoupled, memo: dict[int, Any]) -> Decoupled:
    """A copy that a `__deepcopy__` of the user's class (fx has one) would make of the wrong class."""
    twin = memo[id(self)] = _blank(type(self).__mro__[2])
    with warnings.catch_warnings():
        # Exported graphs hold tree specs, a class that torch's own copying makes it warn of.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec", FutureWarning)
        vars(twin).update(copy.deepcopy(_state(self), memo))
    return twin


def _state(model: Decoupled) -> dict[str, Any]:
    """What copies take over: not what `compile()` left, code that runs the original."""
    return {name: value for name, value in vars(model).items() if name != "_compiled_call_impl"}


def _blank(cls: type[nn.Module]) -> Decoupled:
    return object.__new__(_with_cuts(cls))
