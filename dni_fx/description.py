"""What a file says of a cut model beside graphs and numbers: its plan, its calls, its interfaces."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dni_fx.calls import Call, Form
from dni_fx.errors import FileError
from dni_fx.json_types import wrong_types
from dni_fx.members import refuse
from dni_fx.trees import tree_of, writable_tree

_MOST_TOLD = 20
_PARAMETER_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


@dataclass(frozen=True)
class CallDescription:
    """The form of the calls that the graphs serve, and the parameters of the model's forward."""

    names: list[str]
    spec: str
    constants: list[list[Any]]
    parameters: list[list[Any]]


@dataclass(frozen=True)
class CarryDescription:
    """Which argument takes which output in the next call, and which dimension of each tensor is the batch."""

    paths: dict[str, str]
    batch_dims: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


@dataclass(frozen=True)
class Description:
    """The entries of a description that every reader asks for; those with a default came later."""

    model: str
    plan: dict[str, Any]
    synthesizers: dict[str, str]
    boundaries: dict[str, str]
    context: str
    classes: int
    history: list[str]
    trainable: list[str]
    order: list[str]
    call: CallDescription
    missing: str
    interface: str = ""
    interfaces: dict[str, str] = field(default_factory=dict[str, str])
    carry: CarryDescription | None = None
    result: str | None = None
    literals: dict[str, list[list[Any]]] = field(default_factory=dict[str, list[list[Any]]])


def check_description(meta: Mapping[str, Any], where: str) -> None:
    """Do nothing if a description from a file has the entries that it should, of the right types.

    Raises:
        FileError: it has not; lists what is wrong.
    """
    problems = list(wrong_types(meta, Description))
    refuse(f"cannot read {where}: its description is not complete", problems[:_MOST_TOLD])
    if not meta["model"].isprintable():
        raise FileError(f"cannot read {where}: the model is called {meta['model']!r:.100}.")


def described_call(call: Call, signature: inspect.Signature) -> dict[str, Any]:
    """The form of a call, and the signature that it is for, as JSON.

    Raises:
        FileError: it passes what no file can hold.
    """
    constants = dict(call.form.constants)
    odd = [f"{type(value).__name__}" for value in constants.values() if not _is_plain(value)]
    if odd:
        raise FileError(
            f"cannot save: the model was captured with arguments that a file cannot hold: {', '.join(odd)}."
        )
    parameters = [
        [p.name, int(p.kind), p.default is not inspect.Parameter.empty] for p in signature.parameters.values()
    ]
    return {
        "names": list(call.form.names),
        "spec": writable_tree(call.form.spec),
        "constants": [[place, value] for place, value in constants.items()],
        "parameters": parameters,
    }


def form_in(described: Mapping[str, Any], leaves: tuple[torch.Tensor, ...], trusted: Collection[str]) -> Form:
    """The form of the calls that are described, with the types of these tensors.

    Raises:
        ValueError: it is no form, or not one of so many tensors.
    """
    spec = tree_of(described["spec"], trusted)
    constants = tuple((place, value) for place, value in described["constants"])
    kinds = tuple((leaf.dtype, leaf.requires_grad) for leaf in leaves)
    form = Form(spec, constants, kinds, tuple(described["names"]))
    places = [place for place, _ in constants]
    is_whole = set(places) <= set(range(spec.num_leaves)) and len(set(places)) == len(places)
    if not is_whole or len(form.names) != len(leaves) or len(leaves) + len(places) != spec.num_leaves:
        raise ValueError(f"{len(leaves)} tensors and {len(places)} constants do not make a call")
    if not all(map(_is_plain, dict(constants).values())):
        raise ValueError("a constant of the call is neither a number nor text")
    return form


def signature_in(described: Mapping[str, Any]) -> inspect.Signature:
    """The signature of the forward that is described.

    Raises:
        ValueError, LookupError, TypeError: it is none.
    """
    kinds = {int(kind): kind for kind in _PARAMETER_KINDS}
    none = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=None if has else none)
            for name, kind, has in described["parameters"]
        ]
    )


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
