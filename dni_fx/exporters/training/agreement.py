"""Compares what a written graph computes with what PyTorch does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dni_fx.device.graphs import open_graph
from dni_fx.errors import ExportError
from dni_fx.exporters.training.known import Entry
from dni_fx.exporters.training.tracing import SEED, Traced

_TOLERANCE = 1e-4
_ROUNDING = 4
"""How often a weight is rounded in its last digit: by the step and by the difference, there and here."""


def compared(path: Path, entry: Entry, traced: Traced, slack: Mapping[str, float]) -> float:
    """The largest difference of a result from PyTorch's at the example, by the norm, relative.

    Relative to its own norm and the largest of its kind, since a gradient that is zero in truth is noise
    in both. What an optimizer has moved may be off by the `slack` of its kind in each element, by which Adam
    may move what has such a gradient; without any, the ways are compared that it has gone. With random
    numbers, which PyTorch draws in another way, the program stands for the model.

    Raises:
        ExportError: they disagree, or the file does not run.
    """
    try:
        session = open_graph(path)
        feeds = {name: entry.real[name].cpu().numpy() for name in traced.inputs}
        found = dict(zip(traced.outputs, session.run(list(traced.outputs), feeds), strict=True))
    except Exception as error:  # its exceptions have no common base but this
        raise ExportError(f"onnxruntime cannot run {path.name}: {error}\nNothing was written.") from error
    ways = {name: entry.real[name.removeprefix("new:")] for name in traced.outputs if _is_moved(name)}
    ways = {name: start for name, start in ways.items() if not slack[_slot(name)]}
    expected = {name: _way(want, ways.get(name)) for name, want in _expected(entry, traced).items()}
    largest: dict[str, float] = {}
    for name, want in expected.items():
        largest[_kind(name)] = max(largest.get(_kind(name), 0.0), _norm(want))
    worst = 0.0
    for name, want in expected.items():
        gap = _gap(_way(torch.as_tensor(found[name]), ways.get(name)), want)
        size = _norm(want) + largest[_kind(name)]
        allowed = _TOLERANCE * size
        if name in ways:  # what was moved is rounded
            allowed += _ROUNDING * torch.finfo(want.dtype).eps * _norm(ways[name])
        elif _is_moved(name):
            allowed += slack[_slot(name)] * math.sqrt(want.numel())
        if not gap <= allowed:
            raise ExportError(
                f"{name} in {path.name} is off by {gap:.3g} from PyTorch's (allowed {allowed:.3g}). Nothing "
                "was written."
            )
        worst = max(worst, gap / size if size and not _is_moved(name) else 0.0)
    return worst


def _expected(entry: Entry, traced: Traced) -> Mapping[str, Tensor]:
    real = {name: each.clone() for name, each in entry.real.items()}
    if SEED in traced.inputs:
        returned = traced.program.module()(*(real[name] for name in traced.inputs))
        return dict(zip(traced.outputs, returned, strict=True))
    return {name: each.detach() for name, each in entry.function(real).items()}


def _way(end: Tensor, start: Tensor | None) -> Tensor:
    return end if start is None else end - start


def _gap(found: Tensor, want: Tensor) -> float:
    """How far apart they are; nowhere where both are infinite likewise, or no numbers."""
    same = (found == want) | (found.isnan() & want.isnan())
    return float(torch.linalg.vector_norm(torch.where(same, 0, found.double() - want.double())))


def _norm(tensor: Tensor) -> float:
    """The norm of all elements that are finite."""
    return float(torch.linalg.vector_norm(torch.where(tensor.isfinite(), tensor.double(), 0)))


def _kind(name: str) -> str:
    """What a name begins with, up to the tensor that it names."""
    return name.rsplit(":", 1)[0] if not name.startswith("new:s:") else name.rsplit("_", 1)[0]


def _slot(name: str) -> str:
    """What a new tensor takes the place of: a parameter, or the state of a synthesizer."""
    return name.split(":")[1]


def _is_moved(name: str) -> bool:
    return name.startswith("new:p:") or (name.startswith("new:s:") and ":learner." in name)
