"""What must hold of a model and its cut copy. The zoo's table and the tests of architectures ask it here."""

from __future__ import annotations

import contextlib
import copy
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import dni_fx
from dni_fx.decoupled import Decoupled
from dni_fx.errors import PlanError
from passes.values import value_of
from tests.equality import assert_same, buffers_of, gradients, objective, seeded
from tests.zoo import ZOO, made, resized
from tests.zoo.architectures import ARCHITECTURES

FAMILIES = ("hand", "architectures")
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
"""How far gradients may be apart, relative to the largest: adding in another order rounds differently."""


@dataclass(frozen=True)
class Subject:
    """A model of the zoo in one type, and its calls at two batch sizes."""

    name: str
    family: str
    dtype: torch.dtype

    @property
    def batches(self) -> tuple[int, int]:
        """The batch size that the model is cut with, and another one."""
        return (3, 7) if self.family == "hand" else (2, 5)

    def model(self) -> nn.Module:
        """The model in train mode, the same one each time."""
        return made(self.name)[0] if self.family == "hand" else ARCHITECTURES[self.name].model(self.dtype)

    def call(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword inputs for so many samples."""
        if self.family == "hand":
            return resized(made(self.name)[1], batch), {}
        return (), ARCHITECTURES[self.name].call(batch, self.dtype)


def subjects() -> list[Subject]:
    """All there are, the hand-written ones first; one for each type that the model runs in."""
    hand = [Subject(name, "hand", torch.float64) for name in ZOO]
    return hand + [
        Subject(name, "architectures", dtype) for name, each in ARCHITECTURES.items() for dtype in each.dtypes
    ]


@dataclass
class Pair:
    """A model, a cut copy of it that passes true gradients, and the program that the copy was cut from."""

    subject: Subject
    model: nn.Module
    cut: Decoupled
    program: dni_fx.Program

    @property
    def stages(self) -> int:
        """How many stages the copy has."""
        return len(dni_fx.stages(self.cut))

    @property
    def narrowest(self) -> torch.dtype:
        """The narrowest type that the model computes gradients in, whatever the type of its parameters."""
        graph = self.program.captures[0][1].graph
        values = [value_of(node) for node in graph.nodes if node.op != "output"]
        found = {value.dtype for value in values if value.requires_grad and value.dtype in _TOLERANCE}
        return max(found, key=lambda dtype: _TOLERANCE[dtype])


def pair_of(subject: Subject, plan: str = "", stages: int = 3) -> Pair:
    """The model, and a copy cut by the plan; without one, into so many stages or as many as it can have."""
    model = subject.model()
    args, kwargs = subject.call(subject.batches[0])
    program = dni_fx.capture(copy.deepcopy(model), kwargs or args)
    return Pair(subject, model, cut_of(program, plan, stages, "oracle"), program)


def cut_of(program: dni_fx.Program, plan: str, stages: int, synthesizer: str) -> Decoupled:
    """The program cut by the plan; without one, into so many stages or as many as it can have."""
    plans = [plan] if plan else [f"balanced:stages={count}" for count in range(stages, 1, -1)]
    for chosen in plans[:-1]:
        with contextlib.suppress(PlanError):
            return dni_fx.decouple(program, plan=chosen, synthesizer=synthesizer)
    return dni_fx.decouple(program, plan=plans[-1], synthesizer=synthesizer)


def _own(found: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to the model itself, of something by parameter name."""
    return {name: each for name, each in found.items() if not name.startswith("dni.")}


def _assert_close(ours: Mapping[str, Any], theirs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Tensors of one name differ by what rounding in this type explains; None counts as 0."""
    assert ours.keys() == theirs.keys()
    sizes = {name: _largest(each) for name, each in theirs.items()}
    # A gradient that is 0 by arithmetic (a bias before a softmax) is noise of what it was added up from.
    noise = torch.finfo(dtype).eps * max(sizes.values(), default=0.0)
    apart = {
        name: _largest(each if ours[name] is None else ours[name] if each is None else ours[name] - each)
        for name, each in theirs.items()
    }
    far = [name for name in apart if not apart[name] <= max(_TOLERANCE[dtype] * sizes[name], noise)]
    found = ", ".join(f"{name} by {apart[name]:.1e} of {sizes[name]:.1e}" for name in far[:3])
    assert not far, f"{len(far)} of {len(apart)} differ: {found}"


def _largest(tensor: Tensor | None) -> float:
    if tensor is None or not tensor.numel():
        return 0.0
    return float((tensor.to_dense() if tensor.is_sparse else tensor).detach().abs().max())


def _forward(pair: Pair, batch: int, training: bool) -> None:
    args, kwargs = pair.subject.call(batch)
    pair.model.train(training)
    pair.cut.train(training)
    assert_same(seeded(pair.cut, args, kwargs), seeded(pair.model, args, kwargs))
    assert_same(buffers_of(pair.cut), buffers_of(pair.model))


def train(pair: Pair) -> None:
    """Outputs and buffers of a call in train mode are bit-identical and finite."""
    _forward(pair, pair.subject.batches[0], training=True)


def evaluation(pair: Pair) -> None:
    """Outputs and buffers of a call in eval mode are bit-identical and finite."""
    _forward(pair, pair.subject.batches[0], training=False)


def batch(pair: Pair) -> None:
    """Outputs and buffers in train mode are bit-identical at another batch size."""
    _forward(pair, pair.subject.batches[1], training=True)


def gradient(pair: Pair) -> None:
    """All parameters have the gradients of plain backprop."""
    args, kwargs = pair.subject.call(pair.subject.batches[0])
    ours, theirs = (gradients(each.train(), args, kwargs=kwargs) for each in (pair.cut, pair.model))
    _assert_close(_own(ours), theirs, pair.narrowest)


def steps(pair: Pair) -> None:
    """Parameters and buffers are those of plain backprop after two steps."""
    args, kwargs = pair.subject.call(pair.subject.batches[0])
    for each in (pair.cut, pair.model):
        _steps(each.train(), args, kwargs)
    _assert_close(_own(pair.cut.state_dict()), pair.model.state_dict(), pair.narrowest)


def trains(pair: Pair) -> None:
    """Two steps with synthetic gradients leave all outputs finite."""
    args, kwargs = pair.subject.call(pair.subject.batches[0])
    cut = dni_fx.decouple(pair.program, plan=dni_fx.plan(pair.program, f"balanced:stages={pair.stages}"))
    _steps(cut.train(), args, kwargs)
    assert objective(seeded(cut, args, kwargs)).isfinite(), "outputs are not finite"


def _steps(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    own = _own(dict(model.named_parameters()))
    optimizer = torch.optim.SGD([p for p in own.values() if p.requires_grad], lr=1e-3, momentum=0.9)
    for seed in range(2):
        optimizer.zero_grad()
        objective(seeded(model, args, kwargs, seed)).backward()
        optimizer.step()


CHECKS: dict[str, Callable[[Pair], None]] = {
    "train": train,
    "eval": evaluation,
    "batch": batch,
    "gradients": gradient,
    "steps": steps,
    "trains": trains,
}


@dataclass
class Row:
    """What was found of one subject; `failed` says what did not hold, by check, or why it was not cut."""

    name: str
    family: str
    dtype: str
    frontend: str = ""
    nodes: int = 0
    stages: int = 0
    boundaries: int = 0
    graphs: int = 0
    checks: dict[str, bool] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def examine(subject: Subject, plan: str = "", stages: int = 3) -> Row:
    """Ask all checks of one subject. What fails is in the row; nothing is raised."""
    row = Row(subject.name, subject.family, str(subject.dtype).removeprefix("torch."))
    start = time.perf_counter()
    try:
        _examine(row, subject, plan, stages)
    except Exception as error:  # any model's code runs here, and the next row is wanted whatever happens
        row.failed["cut"] = said(error)
    row.seconds = round(time.perf_counter() - start, 2)
    return row


def _examine(row: Row, subject: Subject, plan: str, stages: int) -> None:
    pair = pair_of(subject, plan, stages)
    row.nodes = len(pair.program.captures[0][1].graph.nodes)
    row.frontend = frontend_of(pair.program.history, row.nodes)
    row.stages, row.boundaries = pair.stages, len(dni_fx.boundaries(pair.cut))
    for name, check in CHECKS.items():
        try:
            check(pair)
        except Exception as error:
            row.failed[name] = said(error)
        row.checks[name] = name not in row.failed
    row.graphs = len(pair.program.captures)


def frontend_of(history: list[str], nodes: int) -> str:
    """The front-end that says in the history that its graph has so many nodes."""
    said = [re.search(r"([\w-]+): (\d+) nodes", line) for line in history]
    return next((found[1] for found in said if found and int(found[2]) == nodes), "?")


def said(error: Exception) -> str:
    """What the error says, or where it was raised if it says nothing."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error).strip() or where.line}"
