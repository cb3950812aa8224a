"""A model's way to a device: cut, written to be trained, and trained there, as PyTorch trains it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import dni_fx
import dni_fx.device
from dni_fx.decoupled import Decoupled
from dni_fx.device import Session
from dni_fx.fields import with_fields
from tests.zoo.checks import cut_of
from tests.zoo.round_trip import Luggage, Steps, Trip, feeds_of, fit

COUNT = 10
NOISE = 10
"""How many times as far from what 64 bits say it may be as PyTorch's is, if it is farther from PyTorch's."""
_OTHERS = 3
"""How often PyTorch trains besides, from weights that are rounded otherwise, to tell how far it may be."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Lesson:
    """How a model is trained, and what is compared then.

    `tolerance` is how far it may be from PyTorch's after the steps, by the norm, relative: every parameter,
    or with `by_results` every loss and output, for what makes rounding large where a true gradient is zero.
    """

    optimizer: str
    factory: Callable[[Iterable[Tensor]], Optimizer]
    rate: float
    tolerance: float = 1e-4
    by_results: bool = False


OPTIMIZERS = {
    each.optimizer: each
    for each in (
        Lesson("sgd", partial(SGD, lr=0.01), 0.01),
        Lesson("momentum", partial(SGD, lr=0.01, momentum=0.9), 0.01),
        Lesson("adam", partial(Adam, lr=1e-3), 1e-3, 1e-3, by_results=True),
    )
}


def lessons(optimizer: str) -> Steps:
    """What a model goes through to be trained on a device by this optimizer."""
    lesson = OPTIMIZERS[optimizer]
    return {
        "decouple": decouple,
        "write": partial(write, lesson),
        "exact": partial(exact, lesson),
        "decoupled": partial(decoupled, lesson),
    }


def decouple(luggage: Luggage, trip: Trip) -> None:
    """The model is cut, without dropout: a device draws other numbers than PyTorch."""
    args, kwargs = luggage.call(luggage.subject.batches[0])
    program = dni_fx.capture(without_dropout(luggage.model()), kwargs or args)
    luggage.cut = cut_of(program, luggage.plan, luggage.stages, "linear")
    for dni in dni_fx.boundaries(luggage.cut).values():
        dni.guard.patience = 0
    trip.stages = len(dni_fx.stages(luggage.cut))
    trip.boundaries = sum(len(dni.spec.values) for dni in dni_fx.boundaries(luggage.cut).values())


def write(lesson: Lesson, luggage: Luggage, trip: Trip) -> None:
    """Its training step is written as ONNX; the operator that is missing is told."""
    args, kwargs = luggage.call(luggage.subject.batches[0])
    trip.nodes = dni_fx.export_training(
        luggage.cut,
        luggage.folder / "step",
        inputs=kwargs or args,
        targets=(),
        loss=objective,
        optimizer=lesson.optimizer,
        rate=lesson.rate,
    ).nodes


def exact(lesson: Lesson, luggage: Luggage, trip: Trip) -> None:
    """By true gradients the device trains as plain backpropagation does."""
    _compare(lesson, luggage, trip, "exact", _by_backprop)


def decoupled(lesson: Lesson, luggage: Luggage, trip: Trip) -> None:
    """Decoupled it trains as the runtime `local` does."""
    _compare(lesson, luggage, trip, "decoupled", _by_local)


def objective(outputs: Any, _: Any) -> Tensor:
    """How far every number that the model returns is from one that it has no reason to return.

    A mean square would not do: of what a normalization returns it is always the same, and nothing learns.
    """
    floats = _floats(outputs)
    aims = [torch.arange(each.numel(), dtype=each.dtype).sin().view(each.shape) for each in floats]
    return torch.stack([(each - aim).square().mean() for each, aim in zip(floats, aims, strict=True)]).sum()


def without_dropout(model: nn.Module) -> nn.Module:
    """The model, every probability of which the name speaks of dropping something being 0."""
    for module in model.modules():
        for name, value in vars(module).items():
            is_layer = isinstance(module, nn.modules.dropout._DropoutNd) and name == "p"
            if isinstance(value, float) and (is_layer or "drop" in name):
                setattr(module, name, 0.0)
    return model


def _floats(outputs: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(with_fields(outputs))
    return [each for each in leaves if isinstance(each, Tensor) and each.is_floating_point()]


def _by_backprop(lesson: Lesson, cut: Decoupled, calls: Iterable[Call]) -> tuple[list[float], nn.Module]:
    model, losses = dni_fx.recouple(cut).train(), []
    optimizer = lesson.factory([p for p in model.parameters() if p.requires_grad])
    for args, kwargs in map(copy.deepcopy, calls):  # a model may write to its inputs
        optimizer.zero_grad()
        loss = objective(model(*args, **kwargs), ())
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses, model


def _by_local(lesson: Lesson, cut: Decoupled, calls: Iterable[Call]) -> tuple[list[float], nn.Module]:
    trainer = dni_fx.Trainer(cut, loss=objective, optimizer=lesson.factory, runtime="local")
    batches = map(copy.deepcopy, calls)
    return [float(trainer.step((kwargs or args, ())).loss) for args, kwargs in batches], cut


def _compare(
    lesson: Lesson,
    luggage: Luggage,
    trip: Trip,
    mode: str,
    train: Callable[[Lesson, Decoupled, Iterable[Call]], tuple[list[float], nn.Module]],
) -> None:
    session = _opened(luggage, mode)
    names = {each.name: each.shape for each in session.manifest.inputs}
    calls = [luggage.call(batch) for batch in luggage.subject.batches]
    first, *others = [(call, feeds_of([*names], *call)) for call in calls]
    fitting = [first, *(each for each in others if fit(names, each[1]))]
    losses = [session.step(feeds, ()) for _, feeds in islice(cycle(fitting), COUNT)]
    if any("seed" in order.graph.inputs for order in session.manifest.orders[mode]):
        # A device draws other numbers than PyTorch does.
        assert all(np.isfinite(each).all() for each in session.weights().values() if each.dtype.kind == "f")
        return
    found = _results(losses, session.predict(first[1])) if lesson.by_results else session.weights()

    def expected(cut: Decoupled, tried: list[Call]) -> Arrays:
        losses, model = train(lesson, cut, islice(cycle(tried), COUNT))
        return _told(losses, model, tried[0]) if lesson.by_results else _weights(model)

    calls = [call for call, _ in fitting]
    want = expected(copy.deepcopy(luggage.cut), calls)
    apart = {name: _apart(found[name], want[name]) for name in found.keys() & want.keys()}
    assert apart, "there is nothing to compare"
    far = {name: each for name, each in apart.items() if each > lesson.tolerance}
    trip.apart = max(trip.apart or 0.0, *(each for name, each in apart.items() if name not in far), 0.0)
    if far:
        exactly = expected(copy.deepcopy(luggage.cut).double(), [_doubled(call) for call in calls])
        others = [expected(_nudged(copy.deepcopy(luggage.cut), seed), calls) for seed in range(_OTHERS)]
        _judge(far, found, [want, *others], exactly)
        trip.noise += len(far)


def _judge(far: dict[str, float], found: Arrays, wanted: list[Arrays], exactly: Arrays) -> None:
    """Where a true gradient is zero PyTorch moves by rounding as well, and no digit of it is right."""
    for name, apart in far.items():
        noise = max(_norm(each[name] - exactly[name]) for each in wanted)
        off = _norm(found[name] - exactly[name])
        assert off <= NOISE * noise, (
            f"{name} is {apart:.1e} apart after {COUNT} steps, and {off:.1e} from what 64 bits say, as "
            f"PyTorch is by {noise:.1e}"
        )


def _nudged(cut: Decoupled, seed: int) -> Decoupled:
    """The same with all weights off by as much as they are rounded."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in cut.parameters():
            off = torch.randn(parameter.shape, generator=generator) * torch.finfo(parameter.dtype).eps
            parameter.mul_(1 + off.to(parameter.dtype))
    return cut


def _opened(luggage: Luggage, mode: str) -> Session:
    folder = luggage.folder / mode
    shutil.copytree(luggage.folder / "step", folder)
    return dni_fx.device.open(folder, mode=mode)


def _told(losses: list[float], model: nn.Module, call: Call) -> Arrays:
    args, kwargs = copy.deepcopy(call)
    with torch.no_grad():
        outputs = model.eval()(*args, **kwargs)
    return _results(losses, [each.numpy() for each in _floats(outputs)])


def _results(losses: list[float], outputs: Iterable[NDArray[Any]]) -> Arrays:
    floats = [each for each in outputs if each.dtype.kind == "f"]
    return {"losses": np.array(losses)} | {f"output {at}": each for at, each in enumerate(floats)}


def _weights(model: nn.Module) -> Arrays:
    return {name: each.detach().numpy() for name, each in model.named_parameters(remove_duplicate=False)}


def _apart(found: NDArray[Any], want: NDArray[Any]) -> float:
    return _norm(found - want) / (_norm(want) + 1e-12)


def _norm(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def _doubled(call: Call) -> Call:
    return pytree.tree_map_only(
        Tensor, lambda each: each.double() if each.is_floating_point() else each, call
    )
