"""A cut model put together again from what was read of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from dni_fx.assembly import cutting_for, prepare
from dni_fx.cutting import Cutting
from dni_fx.decoupled import Decoupled, attach, cutting_of, detach
from dni_fx.errors import DniError, FileError
from dni_fx.modes import eval_mode
from dni_fx.saving import Opened
from dni_fx.step import Step
from passes import BoundarySpec, GraphError

_MANY = 2**16
"""An option of a synthesizer may have this value whatever there is of its state."""


def reopened(found: Opened, path: str | os.PathLike[str]) -> Decoupled:
    """The drop-in that was saved; its synthesizers go on learning where they stopped.

    Raises:
        FileError: the parts of the file do not fit one another.
    """
    try:
        how = (found.plan, found.synthesizers, found.interfaces, found.context, found.classes)
        cutting = cutting_for(found.program, *how)
        measure_learners(cutting, found.state)
        cut = attach(detach(found.program.tree), cutting)
        assert found.program.example is not None
        if found.missing:
            with eval_mode(cut), torch.no_grad():
                cutting_of(cut).graph(cut, found.program.example)
        else:
            prepare(cut, found.program.example)
        put_state(cutting_of(cut), found.state)
    except (DniError, GraphError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    except Exception as error:  # what does not fit together shows in whatever is first built of it
        raise FileError(
            f"cannot read {path}: its parts do not fit together ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.500})."
        ) from error
    return cut


def put_state(cutting: Cutting, state: Mapping[str, Tensor]) -> None:
    """Let the interfaces go on with a state from a file; what is not cut yet takes it when it is.

    Raises:
        FileError, RuntimeError: it is the state of other interfaces.
    """
    own = cutting.interfaces.state_dict()
    odd = [key for key in own.keys() & state.keys() if _is_whole(own[key]) != _is_whole(state[key])]
    if odd:  # which loading a state would turn into one another
        raise FileError(f"numbers are whole in one and not in the other: {', '.join(sorted(odd))}.")
    cutting.interfaces.load_state_dict(dict(state))


def measure_learners(cutting: Cutting, state: Mapping[str, Tensor]) -> None:
    """Let a cutting refuse synthesizers that are larger than their state, before they take up memory.

    Raises:
        FileError: an option of one is.
    """
    held = sum(tensor.numel() for tensor in state.values())
    choice: Any = cutting.fill.args[0] if isinstance(cutting.fill, partial) else {}
    for name, each in choice.items() if isinstance(choice, Mapping) else [("*", choice)]:
        odd = [(key, value) for key, value in vars(each).items() if isinstance(value, int)]
        if large := [f"{key}={value}" for key, value in odd if abs(value) > max(held, _MANY)]:
            raise FileError(
                f"the synthesizer at {name} has {', '.join(large)}, and its state holds {held:,} numbers."
            )
    cutting.fill = partial(_fill_measured, cutting.fill, held)


def _fill_measured(
    fill: Any, held: int, container: nn.Module, specs: Sequence[BoundarySpec], step: Step
) -> None:
    """Fill boundaries, if what fills them has no more parameters than `held` numbers."""
    trial = nn.Module()
    if dict(container.named_children()):  # the state is of what the first graph has
        fill(container, specs, step)
        return
    # What cannot be made without numbers is not measured; what cannot be made at all says so below.
    with suppress(Exception), torch.device("meta"), _Weightless():
        fill(trial, specs, step)
    needed = sum(parameter.numel() for parameter in trial.parameters())
    if needed > held:
        raise FileError(f"its synthesizers have {needed:,} parameters, and the file holds {held:,} numbers.")
    fill(container, specs, step)


class _Weightless(TorchFunctionMode):
    """Inside, tensors that are asked for on the CPU are made on the meta device, and take no memory."""

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if given.get("device") in ("cpu", torch.device("cpu")):
            given["device"] = torch.device("meta")
        return func(*args, **given)


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
