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


def compared(path: Path, entry: Entry, traced: Traced, slack: float) -> float:
    """The largest difference of a result from PyTorch's at the example, by the norm, relative.

    Relative to its own norm and the largest of its kind, since a gradient that is zero in truth is noise
    in both. What an optimizer has moved may be off by `slack` in each element, by which Adam may move
    what has such a gradient. With random numbers, which PyTorch draws in another way, the program stands
    for the model.

    Raises:
        ExportError: they disagree, or the file does not run.
    """
    try:
        session = open_graph(path)
        feeds = {name: entry.real[name].cpu().numpy() for name in traced.inputs}
        found = dict(zip(traced.outputs, session.run(list(traced.outputs), feeds), strict=True))
    except Exception as error:  # its exceptions have no common base but this
        raise ExportError(f"onnxruntime cannot run {path.name}: {error}\nNothing was written.") from error
    expected = _expected(entry, traced)
    largest: dict[str, float] = {}
    for name, want in expected.items():
        largest[_kind(name)] = max(largest.get(_kind(name), 0.0), _norm(want))
    worst = 0.0
    for name, want in expected.items():
        gap = _norm(torch.as_tensor(found[name]).double() - want.double())
        size = _norm(want) + largest[_kind(name)]
        allowed = _TOLERANCE * size + (slack * math.sqrt(want.numel()) if _is_moved(name) else 0.0)
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


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _kind(name: str) -> str:
    """What a name begins with, up to the tensor that it names."""
    return name.rsplit(":", 1)[0] if not name.startswith("new:s:") else name.rsplit("_", 1)[0]


def _is_moved(name: str) -> bool:
    return name.startswith("new:p:") or (name.startswith("new:s:") and ":learner." in name)
