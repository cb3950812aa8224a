"""Plans and state dicts that the command line names."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dni_fx.errors import FileError
from dni_fx.tensor_files import read_tensor_file
from dni_fx.training.checkpoint import MARK
from passes import Plan, SpecError

_PLAN = "a .json file, as `dni-fx plan MODEL -o plan.json` writes"
_SHOWN = 3
"""Names of each kind that a message tells."""


def read_plan(text: str) -> str | Plan:
    """The plan in a `.json` file, or on stdin for `-`; any other text is a policy's and stays text.

    Raises:
        FileError: the file cannot be read, or its name is not that of a plan.
        SpecError: it holds no plan.
    """
    if text != "-" and not text.endswith(".json"):
        if ":" not in text and (Path(text).suffix or Path(text).is_file()):
            raise FileError(f"{text} is no plan, which is {_PLAN}.")
        return text
    where = "on stdin" if text == "-" else text
    try:
        return Plan.from_json(sys.stdin.read() if text == "-" else Path(text).read_text("utf-8-sig"))
    except OSError as error:
        raise FileError(f"cannot read the plan {where}: {why(error)}.") from None
    except UnicodeDecodeError:
        raise FileError(f"cannot read the plan {where}: it is no text. A plan is {_PLAN}.") from None
    except SpecError as error:
        said = str(error).rstrip(".")
        raise SpecError(f"cannot read the plan {where}: {said}.\nA plan is {_PLAN}.") from None


def read_state(path: Path) -> Mapping[str, Any]:
    """The state dict in a `.pt` or `.safetensors` file. Nothing in the file is run.

    Raises:
        FileError: the file cannot be read, or holds anything else.
    """
    if path.suffix == ".pt2":
        raise FileError(
            f"{path} is a whole model, and not a state dict: name it as the model. If it is cut, "
            f"`dni-fx recouple {path} -o weights.safetensors` writes its weights."
        )
    if path.suffix == ".safetensors":
        return read_tensor_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FileError(
            f"refused to load {path}: it holds more than tensors and plain containers, and reading that can "
            "run any code. Save the model's state_dict() alone."
        ) from None
    except Exception as error:  # OSError, or whatever a damaged archive makes its reader raise
        raise FileError(f"cannot read {path}: {why(error)}.") from None
    if not isinstance(state, Mapping):
        raise FileError(f"{path} holds a {type(state).__name__}, and not a state dict.")
    if MARK in state:
        raise FileError(
            f"{path} is a training checkpoint, and not a state dict. `dni-fx train ... --checkpoint {path} "
            "--resume -o trained.pt2` goes on from it and writes the model that it ends with."
        )
    return state


def misfits(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """How a state dict differs from a model's, some names of each kind; empty if names and shapes agree."""
    both = [name for name in own if name in given]
    sizes = {name: (_size(own[name]), _size(given[name])) for name in both}
    kinds = {
        "missing": [name for name in own if name not in given],
        "not in the model": [name for name in given if name not in own],
        "of other shapes": [
            f"{name} {here} there, {needed} needed"
            for name, (needed, here) in sizes.items()
            if needed != here
        ],
    }
    return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)


def _size(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _some(names: list[str]) -> str:
    return ", ".join(map(str, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def why(error: Exception) -> str:
    """What an error says in one line, without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
