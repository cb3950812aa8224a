"""Hooks around modules: a graph that goes through a module holds them only if they leave nothing behind."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch._subclasses import FakeTensor
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dni_fx.errors import CaptureError
from passes.anchors import paths_around
from passes.boundary import CONTAINER

Hooks = dict[int, Any]

_OUTWARD = frozenset({"print", "open", "write", "writelines", "send", "sendall"})
"""Functions of the interpreter by which code speaks to the world."""


@dataclass(eq=False)
class Guard:
    """Stands in front of a module with hooks, and lets it be traced through if they are known to be idle.

    Hooks are idle if a run of the model on the example has left all that they can reach as it was, and they
    have written nothing. All copies of a model share its guards, and so what was found out.
    """

    path: str
    is_idle: bool | None = None
    is_watching: bool = False
    ran: bool | None = None
    wrote: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Guard:
        return self

    def check(self) -> None:
        """Do nothing if the module may be traced through.

        Raises:
            CaptureError: its hooks are busy, or nobody knows.
        """
        if not self.is_idle:
            raise CaptureError(f"{self.path} has a hook, which a graph would run once and never again")


def hooks_of(module: nn.Module) -> list[Hooks]:
    """What runs around the module's forward and backward, as the module keeps it; what goes forward first."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return [vars(module)[kind] for kind in kinds]


def guard_hooks(tree: nn.Module) -> None:
    """Make a tree that is to be traced refuse what a graph would leave out of its hooks.

    Hooks of the model itself run around its graph, so they are taken off. Other modules with hooks refuse
    to be traced through, until a run has shown that the hooks are idle. Backward hooks are never in a graph.
    """
    for path, module in tree.named_modules():
        mine = hooks_of(module)
        if not path:
            for hooks in mine:
                hooks.clear()
        elif any(mine):
            _guard(path, module)


def _guard(path: str, module: nn.Module) -> None:
    forward, backward = hooks_of(module)[:2], hooks_of(module)[2:]
    guard = guard_of(module)
    if guard is None:
        guard = Guard(path)
        for hooks in forward:
            hooks |= {key: functools.partial(_guarded, guard, hook) for key, hook in hooks.items()}
        module.register_forward_pre_hook(functools.partial(_pass, guard), prepend=True, with_kwargs=True)
    if any(backward):
        guard.is_idle = False


def guard_of(module: nn.Module) -> Guard | None:
    """What stands in front of the module, None if nothing does."""
    for hook in hooks_of(module)[0].values():
        if isinstance(hook, functools.partial) and hook.func is _pass:
            return hook.args[0]
    return None


def guarded_modules(tree: nn.Module) -> Iterator[tuple[Guard, nn.Module]]:
    """The modules that a guard stands in front of, each with it."""
    for module in tree.modules():
        if (guard := guard_of(module)) is not None:
            yield guard, module


def let_norms_through(tree: nn.Module) -> None:
    """Let a tree that is to be traced once and thrown away be traced through the older norms of weights.

    Their hooks compute a weight of parameters and buffers, in operations that a graph holds. They leave it on
    the module as well, where only the code of the model could find it, which is in no file.
    """
    for guard, module in guarded_modules(tree):
        norms = [hook for hook in behind_guard(module) if isinstance(hook, SpectralNorm | WeightNorm)]
        if norms and len(norms) == len(behind_guard(module)):
            guard.is_idle = guard.is_idle is not False
            for norm in norms:  # torch.export warns of tensors that are left on modules
                back = functools.partial(_put_back, norm.name, vars(module)[norm.name])
                module.register_forward_hook(back)


def _put_back(name: str, value: Any, module: nn.Module, args: Any, returned: Any) -> None:
    setattr(module, name, value)


def refuse_busy(tree: nn.Module) -> None:
    """Do nothing if every module inside of the tree that runs may be traced through.

    Raises:
        CaptureError: one may not, since its hooks are busy, or nobody has run it to know.
    """
    for guard, _ in guarded_modules(tree):
        if guard.ran is not False:
            guard.check()


def behind_guard(module: nn.Module) -> list[Any]:
    """The hooks around the module's forward that were there before the guard was."""
    found = [hook for hooks in hooks_of(module)[:2] for hook in hooks.values()]
    return [hook.args[1] for hook in found if isinstance(hook, functools.partial) and hook.func is _guarded]


def hooks_passed_by(graph: fx.Graph, tree: nn.Module) -> list[Hooks]:
    """The hooks of the modules that a graph goes through: it holds those that were there at capture."""
    return [hooks for _, module in passed_by(graph, tree) for hooks in hooks_of(module)]


def numbers_of(hooks: list[Hooks]) -> tuple[int, ...]:
    """What tells these hooks from others: every hook that is ever registered has a number of its own."""
    return tuple(itertools.chain.from_iterable(hooks))


def passed_by(graph: fx.Graph, tree: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules, by path, that are not called in the graph: if it does what they do, then in operations."""
    whole = {str(node.target) for node in graph.nodes if node.op == "call_module"} | {CONTAINER}
    return [(path, module) for path, module in tree.named_modules() if path and not _is_below(path, whole)]


def _is_below(path: str, tops: set[str]) -> bool:
    return not tops.isdisjoint(paths_around(path))


def _pass(guard: Guard, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    is_traced = any(isinstance(value, fx.Proxy) for value in pytree.tree_leaves((args, kwargs)))
    if is_traced or torch.compiler.is_exporting():
        guard.check()
    elif guard.is_watching:
        guard.ran = True


def _guarded(guard: Guard, hook: Any, *args: Any) -> Any:
    """What the hook returns; nothing where it asks a tensor without numbers for some, as to print them."""
    try:
        return _watched(guard, hook, args) if guard.is_watching else hook(*args)
    except Exception:
        if any(isinstance(value, FakeTensor) for value in pytree.tree_leaves(args)):
            return None
        raise


def _watched(guard: Guard, hook: Any, args: tuple[Any, ...]) -> Any:
    """What the hook returns; the guard notes whether it spoke to the world."""

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "c_call" and getattr(arg, "__name__", "") in _OUTWARD:
            guard.wrote = True

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        return hook(*args)
    finally:
        sys.setprofile(before)
