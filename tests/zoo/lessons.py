"""A model's way to a device: cut, written to be trained, and trained there, as PyTorch trains it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD

import dni_fx
import dni_fx.device
from dni_fx.decoupled import Decoupled
from dni_fx.fields import with_fields
from tests.zoo.checks import cut_of
from tests.zoo.round_trip import Luggage, Steps, Trip, feeds_of

COUNT = 10
RATE = 0.01
TOLERANCE = 1e-4
"""How far a parameter may be from PyTorch's after these steps, by the norm, relative."""

NOISE = 10
"""How many times as far from what 64 bits say it may be as PyTorch's is, if it is farther from PyTorch's."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


def decouple(luggage: Luggage, trip: Trip) -> None:
    """The model is cut, without dropout: a device draws other numbers than PyTorch."""
    args, kwargs = luggage.call(luggage.subject.batches[0])
    program = dni_fx.capture(without_dropout(luggage.model()), kwargs or args)
    luggage.cut = cut_of(program, luggage.plan, luggage.stages, "linear")
    for dni in dni_fx.boundaries(luggage.cut).values():
        dni.guard.patience = 0
    trip.stages = len(dni_fx.stages(luggage.cut))
    trip.boundaries = sum(len(dni.spec.values) for dni in dni_fx.boundaries(luggage.cut).values())


def write(luggage: Luggage, trip: Trip) -> None:
    """Its training step is written as ONNX; the operator that is missing is told."""
    args, kwargs = luggage.call(luggage.subject.batches[0])
    trip.nodes = dni_fx.export_training(
        luggage.cut,
        luggage.folder / "step",
        inputs=kwargs or args,
        targets=(),
        loss=objective,
        optimizer="momentum",
        rate=RATE,
    ).nodes


def exact(luggage: Luggage, trip: Trip) -> None:
    """By true gradients the device trains as plain backpropagation does."""
    _compare(luggage, trip, "exact", _by_backprop)


def decoupled(luggage: Luggage, trip: Trip) -> None:
    """Decoupled it trains as the runtime `local` does."""
    _compare(luggage, trip, "decoupled", _by_local)


LESSONS: Steps = {"decouple": decouple, "write": write, "exact": exact, "decoupled": decoupled}


def objective(outputs: Any, _: Any) -> Tensor:
    """How far every number that the model returns is from one that it has no reason to return.

    A mean square would not do: of what a normalization returns it is always the same, and nothing learns.
    """
    leaves = pytree.tree_leaves(with_fields(outputs))
    floats = [each for each in leaves if isinstance(each, Tensor) and each.is_floating_point()]
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


def _by_backprop(cut: Decoupled, call: Call) -> nn.Module:
    model = dni_fx.recouple(cut).train()
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], RATE, 0.9)
    for _ in range(COUNT):
        args, kwargs = copy.deepcopy(call)
        optimizer.zero_grad()
        objective(model(*args, **kwargs), ()).backward()
        optimizer.step()
    return model


def _by_local(cut: Decoupled, call: Call) -> nn.Module:
    trainer = dni_fx.Trainer(
        cut, loss=objective, optimizer=lambda parameters: SGD(parameters, RATE, 0.9), runtime="local"
    )
    for _ in range(COUNT):
        args, kwargs = copy.deepcopy(call)
        trainer.step((kwargs or args, ()))
    return cut


def _compare(
    luggage: Luggage, trip: Trip, mode: str, trained: Callable[[Decoupled, Call], nn.Module]
) -> None:
    call = luggage.call(luggage.subject.batches[0])
    found, draws = _on_device(luggage, mode, call)
    if draws:  # a device draws other numbers than PyTorch does
        assert all(np.isfinite(each).all() for each in found.values() if each.dtype.kind == "f")
        return
    expected = _weights(trained(copy.deepcopy(luggage.cut), call))
    exact: dict[str, NDArray[Any]] = {}
    for name in found.keys() & expected.keys():
        want = expected[name]
        apart = _norm(found[name] - want) / (_norm(want) + 1e-12)
        if apart <= TOLERANCE:
            trip.apart = max(trip.apart or 0.0, apart)
            continue
        # Where the true gradient is zero PyTorch moves it by rounding as well, and no digit of it is right.
        exact = exact or _weights(trained(copy.deepcopy(luggage.cut).double(), _doubled(call)))
        noise = _norm(want - exact[name])
        trip.noise += 1
        off = _norm(found[name] - exact[name])
        assert off <= NOISE * noise, (
            f"{name} is {apart:.1e} apart after {COUNT} steps, and {off:.1e} from what 64 bits say, as "
            f"PyTorch is by {noise:.1e}"
        )


def _on_device(luggage: Luggage, mode: str, call: Call) -> tuple[dict[str, NDArray[Any]], bool]:
    """The weights that a device has after the steps, and whether it draws random numbers in them."""
    folder = luggage.folder / mode
    shutil.copytree(luggage.folder / "step", folder)
    session = dni_fx.device.open(folder, mode=mode)
    feeds = feeds_of([each.name for each in session.manifest.inputs], *call)
    for _ in range(COUNT):
        session.step(feeds, ())
    draws = any("seed" in order.graph.inputs for order in session.manifest.orders[mode])
    return session.weights(), draws


def _weights(model: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: each.detach().numpy() for name, each in model.named_parameters(remove_duplicate=False)}


def _norm(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def _doubled(call: Call) -> Call:
    return pytree.tree_map_only(
        Tensor, lambda each: each.double() if each.is_floating_point() else each, call
    )
