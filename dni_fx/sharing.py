"""The interfaces of a cut model without the model: a small folder to share, as adapters are.

It holds the plan, the synthesizers with their state, and how they are used. The weights of the model stay
where they are; put on the same weights again, the model trains on as the one that was saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from dni_fx.assembly import Inputs, capturing, cut_graph, cutting_for, example_call, prepare, trainable
from dni_fx.cutting import Cutting
from dni_fx.decoupled import Decoupled, attach, cutting_of, detach, dnis
from dni_fx.description import CarryDescription
from dni_fx.errors import DniError, FileError, PlanError
from dni_fx.feedback import Carry
from dni_fx.frontends import FRONTENDS
from dni_fx.interface import INTERFACES
from dni_fx.json_types import wrong_types
from dni_fx.members import refuse
from dni_fx.program import FrontEnd
from dni_fx.reopened import measure_learners, put_state
from dni_fx.sources import program_of
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.tensor_files import DESCRIPTION, read_description, read_tensors, write_folder
from dni_fx.warning import warn
from passes import GraphError, Named, Plan, Registry, SpecError
from passes.named import parse_known
from passes.plan_json import KEYS

VERSION = 1
"""The version of the folder: a newer one is refused; what is new in one of this version is left out."""

_MOST_TOLD = 20
N = TypeVar("N", bound=Named)


@dataclass(frozen=True)
class Base:
    """What tells one model from another: its class, and how many parameters it has, of which shapes."""

    name: str
    parameters: int
    shapes: str


@dataclass(frozen=True)
class Shared:
    """What the description in a folder says."""

    version: int
    base: Base
    plan: dict[str, Any]
    synthesizers: dict[str, str]
    interfaces: dict[str, str]
    numbers: str
    sha256: str
    frontend: str = "auto"
    context: str = ""
    classes: int = 0
    carry: CarryDescription = field(default_factory=lambda: CarryDescription({}))


def save_interfaces(cut: Decoupled, folder: str | os.PathLike[str]) -> None:
    """Write the plan and the interfaces of a cut model into a folder, without the model's own weights.

    What the interfaces have learned goes along, with their optimizers, schedules and guards. The folder is
    made if need be; what it held of another model is replaced in one piece. Asks for `safetensors`.

    Raises:
        DniError: the model is not cut yet.
        FileError: the folder cannot be written.
    """
    cutting = cutting_of(cut)
    held = {spec.name for spec in cut_graph(cut).specs}
    filled = {name: dni for name, dni in dnis(cut).items() if name in held}
    if lost := dnis(cut).keys() - held:
        warn(
            f"{folder} holds one way through the model, and not the synthesizers of the others: "
            f"{', '.join(sorted(lost))}."
        )
    assert isinstance(cutting.plan, Plan)
    frontend = cutting.program.frontend
    described = {
        "version": VERSION,
        "base": dataclasses.asdict(base_of(detach(cut))),
        "frontend": str(frontend) if frontend.name in FRONTENDS else "auto",
        "plan": json.loads(cutting.plan.to_json()),
        "synthesizers": {name: str(dni.synthesizer) for name, dni in filled.items()},
        "interfaces": {name: str(dni.interface) for name, dni in filled.items()},
        "context": cutting.context,
        "classes": next((dni.spec.classes for dni in filled.values()), 0),
        "carry": cutting.carry.plain(),
    }
    state = cutting.interfaces.state_dict()
    kept = {key: value for key, value in state.items() if key.partition(".")[0] in {"steps", *held}}
    write_folder(Path(folder), described, kept)


@capturing()
def from_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    inputs: Inputs | None = None,
    *,
    frontend: str | FrontEnd = "",
) -> Decoupled:
    """The drop-in for a plain model with the interfaces that `save_interfaces` wrote.

    The model keeps its weights, which are shared as `decouple` shares them. Without `inputs` it is captured
    and cut at its first batch. `frontend` is the one that the saved model was captured with, if you say
    nothing. A model of another class or with other parameters than the one saved is warned of.

    Raises:
        FileError: the folder is damaged, of a newer version, or its parts do not fit one another.
        PlanError: the plan is not one of this model; lists the values that differ.
        CaptureError: no front-end can capture the model.
        DniError: the model is decoupled already, or has no parameters.
    """
    if isinstance(model, Decoupled):
        raise DniError("this model is decoupled already: pass dni_fx.recouple(model).")
    place = Path(folder)
    shared = _read(place)
    program = program_of(model, frontend or shared.frontend)
    _compare(place, shared.base, base_of(program.tree))
    if inputs is not None:
        program.example = example_call(program.tree, inputs)
    program = trainable(dataclasses.replace(program, carry=Carry(**dataclasses.asdict(shared.carry))))
    cutting = _cutting(place, shared, program)
    cut = attach(detach(program.tree), cutting)
    _settle(cut, read_tensors(place, dataclasses.asdict(shared)), place)
    return cut


def _settle(cut: Decoupled, state: Mapping[str, Tensor], folder: Path) -> None:
    """Cut the model, if there is an example, and let its interfaces go on with their state.

    Raises:
        FileError: it is the state of others.
        PlanError: the plan is one of another model.
    """
    cutting = cutting_of(cut)
    try:
        measure_learners(cutting, state)
        if cutting.program.example is not None:
            prepare(cut, cutting.program.example)
        put_state(cutting, state)
    except PlanError as error:
        name = type(detach(cut)).__name__
        raise PlanError(f"the interfaces in {folder} do not fit {name}: {error}") from error
    except (FileError, RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())
        raise FileError(f"cannot read {folder}: {said:.500}") from error


def base_of(model: nn.Module) -> Base:
    """What tells a model from others; the digest is of the names and shapes of its parameters."""
    named = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(named.items()))
    count = sum(parameter.numel() for parameter in model.parameters())
    return Base(type(model).__name__, count, hashlib.sha256(lines.encode()).hexdigest())


def _read(folder: Path) -> Shared:
    where = folder / DESCRIPTION
    described = read_description(folder)
    version = described.get("version")
    if type(version) is int and version > VERSION:
        raise FileError(
            f"cannot read {where}: it has version {version}, newer than {VERSION}, which is all that this "
            "dni_fx reads. Install a newer dni_fx."
        )
    problems = list(wrong_types(described, Shared))
    refuse(f"cannot read {where}: it does not describe interfaces", problems[:_MOST_TOLD])
    if version != VERSION:
        raise FileError(f"cannot read {where}: it has version {version}, and there is no such one.")
    unknown: list[str] = []
    base = _known(described["base"], Base, "base.", unknown)
    carry = _known(described.get("carry", {"paths": {}}), CarryDescription, "carry.", unknown)
    plan = {key: each for key, each in described["plan"].items() if key in KEYS}
    unknown += [f"plan.{key}" for key in described["plan"].keys() - KEYS]
    top: dict[str, Any] = _known(described, Shared, "", unknown)
    _warn_of(where, unknown)
    parts: dict[str, Any] = {"base": Base(**base), "carry": CarryDescription(**carry), "plan": plan}
    return Shared(**(top | parts))


def _known(given: Mapping[str, Any], kind: type, place: str, unknown: list[str]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    unknown += [f"{place}{key}" for key in given.keys() - names]
    return {key: each for key, each in given.items() if key in names}


def _cutting(folder: Path, shared: Shared, program: Any) -> Cutting:
    unknown: list[str] = []
    try:
        plan = Plan.from_json(json.dumps(shared.plan))
        if len(plan) > max(len(plan.stage_of), 1):  # which would be counted up to
            raise SpecError(f"its plan has a stage {len(plan) - 1}, and {len(plan.stage_of)} values.")
        synthesizers = dict(_parsed(shared.synthesizers, SYNTHESIZERS, unknown))
        interfaces = dict(_parsed(shared.interfaces, INTERFACES, unknown))
    except (GraphError, ValueError, TypeError) as error:
        raise FileError(f"cannot read {folder / DESCRIPTION}: {error}") from error
    _warn_of(folder / DESCRIPTION, unknown)
    return cutting_for(program, plan, synthesizers, interfaces, shared.context, shared.classes)


def _parsed(
    texts: Mapping[str, str], registry: Registry[type[N]], unknown: list[str]
) -> Iterator[tuple[str, N]]:
    for name, text in texts.items():
        made, lost = parse_known(text, registry)
        unknown += [f"{made.name}.{option}" for option in lost if f"{made.name}.{option}" not in unknown]
        yield name, made


def _warn_of(where: Path, unknown: list[str]) -> None:
    if unknown:
        warn(
            f"{where} says what this dni_fx does not know, and leaves out: {', '.join(sorted(unknown))}. "
            "A newer one wrote it."
        )


def _compare(folder: Path, saved: Base, here: Base) -> None:
    if saved == here:
        return
    shapes = "" if saved.parameters != here.parameters else ", and their names or shapes differ"
    shapes = "" if saved.shapes == here.shapes else shapes
    warn(
        f"the interfaces in {folder} have learned on a {saved.name:.100} of {saved.parameters:,} parameters, "
        f"and this is a {here.name} of {here.parameters:,}{shapes}."
    )
