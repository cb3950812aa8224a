"""What there is to choose from, and what a cut model was made of, as plain data for whoever shows it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import DniError
from dni_fx.exporters import EXPORTERS, TRAINING_EXPORTERS
from dni_fx.frontends import FRONTENDS
from dni_fx.interface import INTERFACES
from dni_fx.policies import POLICIES
from dni_fx.runtimes import RUNTIMES
from dni_fx.schedules import SCHEDULES
from dni_fx.synthesizers import SYNTHESIZERS
from passes import PASSES, Named, Plan, PreconditionError, Registry
from passes.mark_boundaries import MarkBoundaries
from passes.named import options_of

_CATALOG: dict[str, Registry[Any]] = {
    "frontends": FRONTENDS,
    "policies": POLICIES,
    "synthesizers": SYNTHESIZERS,
    "interfaces": INTERFACES,
    "runtimes": RUNTIMES,
    "schedules": SCHEDULES,
    "exporters": EXPORTERS,
    "passes": PASSES,
}
_MORE: dict[str, Registry[Any]] = {"exporters": TRAINING_EXPORTERS}
"""What belongs to a family, and is made in another way."""
_TAKE_PLANS: dict[str, tuple[type[Named], ...]] = {"passes": (MarkBoundaries,)}
"""What is of a family, and takes more than text can say."""
FAMILIES = tuple(_CATALOG)
"""The kinds of things that a user can choose by name."""


@dataclass(frozen=True)
class Entry:
    """One thing that a user can choose: its name, what it is in a line, its options with their defaults."""

    name: str
    about: str
    options: dict[str, Any]


def catalog(family: str) -> Iterator[Entry]:
    """Everything of a family that has a name, what other packages add by entry points included.

    What takes more than text can say is listed without options.
    """
    tables = (_CATALOG[family], *([_MORE[family]] if family in _MORE else []))
    named: dict[str, type[Named]] = {name: table.get(name) for table in tables for name in table}
    for name, cls in sorted(named.items()):
        yield Entry(name, _about(cls), {field.name: field.default for field in options_of(cls)})
    for cls in _TAKE_PLANS.get(family, ()):
        yield Entry(cls.name, f"{_about(cls)} It takes a plan, as decouple and plan give it.", {})


def _about(cls: type[Named]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def refuse_misfit(gm: fx.GraphModule, plan: Plan) -> None:
    """Do nothing if a plan was made for this graph.

    Raises:
        PreconditionError: it was not; lists how that shows.
    """
    PreconditionError.unless_none("cannot carry out the plan", plan.problems(gm.graph))


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers some parameters hold; what is there twice counts once."""
    return sum(parameter.numel() for parameter in {id(each): each for each in parameters}.values())


def plan_of(cut: Decoupled) -> Plan:
    """The plan that a model is cut by.

    Raises:
        DniError: it has seen no batch yet, so its plan is not chosen.
    """
    plan = cutting_of(cut).plan
    if not isinstance(plan, Plan):
        raise DniError("this model has no plan yet: it is cut at its first batch in train mode.")
    return plan


def history_of(cut: Decoupled) -> tuple[str, ...]:
    """What made the graphs of a cut model, step by step."""
    return tuple(cutting_of(cut).program.history)
