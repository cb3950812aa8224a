"""The cut models inside of a model that the trainer of another package trains."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import DniError
from dni_fx.history import FIGURES, diagnose


class Watched:
    """All drop-ins in a model: they are told what the loss is multiplied by, and diagnosed, until `close`."""

    def __init__(self, model: nn.Module) -> None:
        self._cuts = drop_ins(model)
        self._diagnosing = ExitStack()
        self._found = {
            path: self._diagnosing.enter_context(diagnose(cut)) for path, cut in self._cuts.items()
        }

    def scale(self, factor: float) -> None:
        """Say what the trainer multiplies the loss of the coming forward pass by."""
        for cut in self._cuts.values():
            cut.gradient_scale = factor

    def figures(self) -> dict[str, float]:
        """What was found last, as `cosine/<boundary>` and so on; boundaries of a part follow its path."""
        return {
            f"{figure}/{path}.{name}" if path else f"{figure}/{name}": getattr(diagnosis, figure)
            for path, found in self._found.items()
            for name, diagnosis in found.boundaries.items()
            for figure in FIGURES
        }

    def close(self) -> None:
        """Leave the drop-ins as they were found."""
        self._diagnosing.close()
        self.scale(1.0)


def drop_ins(model: nn.Module) -> dict[str, Decoupled]:
    """The drop-ins in a model, itself among them, by path.

    Raises:
        DniError: there are none.
    """
    found = {path: module for path, module in model.named_modules() if isinstance(module, Decoupled)}
    if not found:
        raise DniError(
            f"nothing in {type(model).__name__} is cut, so there is nothing to call back for. Train "
            "dni_fx.decouple(model), or a model that holds one."
        )
    return found


def reads(cut: Decoupled, argument: str) -> bool:
    """Whether the newest graph that was called with this argument uses it; True if none was."""
    for graph in reversed(cutting_of(cut).graphs):
        places = graph.capture.graph.find_nodes(op="placeholder")
        used = {name: place.users for name, place in zip(graph.key.form.names, places, strict=True)}
        if argument in used:
            return bool(used[argument])
    return True
