"""Where in a model the code that runs, and what a piece of it computes, belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

_LOCAL = re.compile(r"L\['[^']*'\]\.?")


class Places:
    """The modules of a model by identity, and their paths."""

    def __init__(self, tree: nn.Module) -> None:
        self._modules = dict(tree.named_modules())
        self._paths = {id(module): path for path, module in self._modules.items()}

    def of_code(self, frame: Any) -> str:
        """The path of the innermost module of the model whose code is running in a frame or below it."""
        while frame is not None:
            for name in frame.f_code.co_varnames:
                path = self._paths.get(id(frame.f_locals.get(name)))
                if path is not None:
                    return path
            frame = frame.f_back
        return ""

    def stack(self, caller: str, node: fx.Node | None = None) -> Mapping[str, tuple[str, type]]:
        """What torch.export would write as the module stack of an operation that the module `caller` makes.

        A node of TorchDynamo's tells where below that module it is.
        """
        inside = list((node.meta.get("nn_module_stack") or {}).values()) if node else []
        below = _LOCAL.sub("", str(inside[-1][0])) if inside else ""
        path = ".".join(part for part in (caller, below) if part)
        while path not in self._modules:
            path = path.rpartition(".")[0]
        return {path: (path, type(self._modules[path]))}
