"""State that a model returns, found where nobody has said `--carry`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import CaptureError, InputsError
from dni_fx.fields import with_fields
from dni_fx.modes import eval_mode
from dni_fx.program import signature_of


@contextmanager
def hinting_at_state(cut: Decoupled, was_cut: bool) -> Generator[None]:
    """Inside, whoever is told that inputs are missing is told which of them the model returns itself.

    A model that `was_cut` already is to be cut again, with the option.
    """
    try:
        yield
    except InputsError as error:
        if edges := returned_state(cut, error.missing):
            options = " ".join(f"--carry {argument}={path}" for argument, path in edges.items())
            where = "cut the model again with" if was_cut else "pass"
            error.add_note(
                f"The model returns the like of {' and '.join(edges)}. To give that again in the next step, "
                f"{where} {options}."
            )
        raise


def returned_state(cut: Decoupled, arguments: Iterable[str]) -> dict[str, str]:
    """For each argument, the place of the first output that has its form in the example and is nobody's yet.

    Arguments that no output is like are left out.
    """
    call = cutting_of(cut).program.example
    if call is None:
        return {}
    args, kwargs = call.arguments()
    given = signature_of(cut).bind(*args, **kwargs).arguments
    try:
        with eval_mode(cut), torch.no_grad():
            outputs = _parts(cut(*args, **kwargs))
    except CaptureError:
        return {}  # a file of the training graph alone
    edges: dict[str, str] = {}
    for argument in arguments:
        like = [path for path, each in outputs.items() if _shapes(each) == _shapes(given.get(argument))]
        if free := [path for path in like if path not in edges.values() and _shapes(outputs[path])]:
            edges[argument] = free[0]
    return edges


def _parts(outputs: Any) -> Mapping[str, Any]:
    match outputs:
        case tuple() | list():
            return {str(at): each for at, each in enumerate(cast("list[Any]", outputs))}
        case Mapping():
            return {str(key): each for key, each in cast("Mapping[Any, Any]", outputs).items()}
        case _:
            return {}


def _shapes(value: Any) -> list[tuple[int, ...]]:
    leaves = pytree.tree_leaves(with_fields(value))
    return [tuple(each.shape) for each in leaves if isinstance(each, Tensor)]
