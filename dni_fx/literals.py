"""What a model returns beside tensors and numbers, as JSON: no graph in a file holds text or types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from dni_fx.errors import ExportError

_IN_GRAPHS = (type(None), bool, int, float, Tensor, fx.Node)
_KINDS: dict[str, type] = {"text": str, "dtype": torch.dtype, "device": torch.device}

_DTYPES = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
_READ: dict[str, Callable[[str], Any]] = {"text": str, "dtype": _DTYPES.__getitem__, "device": torch.device}

Literal = tuple[int, str, str]
"""The place of a value in the flat list of outputs, its kind, and how it is written."""


def literals_of(graph: fx.Graph) -> list[Literal]:
    """The outputs that a graph in a file cannot hold, and JSON can.

    Raises:
        ExportError: there is an output that neither can hold.
    """
    found: list[Literal] = []
    for place, value in _others(graph).items():
        kind = next((name for name, cls in _KINDS.items() if type(value) is cls), "")
        if not kind:
            raise ExportError(
                f"cannot write the graph to a file: it returns a {type(value).__name__} (output {place}), "
                "which a file cannot hold. Return tensors, numbers, text, a dtype or a device."
            )
        found.append((place, kind, str(value)))
    return found


def leave_out_literals(graph: fx.Graph) -> None:
    """Let the graph return None in the place of each value that no graph in a file can hold."""
    _put(graph, dict.fromkeys(_others(graph)))


def put_literals(graph: fx.Graph, literals: Sequence[Sequence[Any]]) -> None:
    """Let the graph return these values again.

    Raises:
        KeyError, TypeError: this is no description of values.
    """
    try:
        _put(graph, {int(place): _READ[kind](text) for place, kind, text in literals})
    except (ValueError, RuntimeError) as error:
        raise TypeError(str(error)) from error


def _others(graph: fx.Graph) -> dict[int, Any]:
    return {place: each for place, each in enumerate(_outputs(graph)) if not isinstance(each, _IN_GRAPHS)}


def _outputs(graph: fx.Graph) -> list[Any]:
    return list(cast("Sequence[Any]", next(iter(reversed(graph.nodes))).args[0]))


def _put(graph: fx.Graph, values: Mapping[int, Any]) -> None:
    outputs = [values.get(place, each) for place, each in enumerate(_outputs(graph))]
    next(iter(reversed(graph.nodes))).args = (outputs,)
