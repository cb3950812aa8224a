"""A model's way to a device: cut, written to be trained, and trained there, as PyTorch trains it."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.optim import SGD

import dni_fx
import dni_fx.device
from dni_fx.fields import with_fields
from tests.zoo.checks import cut_of
from tests.zoo.round_trip import Luggage, Steps, Trip

COUNT = 10
RATE = 0.01
TOLERANCE = 1e-4
"""How far a parameter may be from PyTorch's after these steps, by the norm, relative."""


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
    model = dni_fx.recouple(copy.deepcopy(luggage.cut)).train()
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], RATE, 0.9)
    args, kwargs = luggage.call(luggage.subject.batches[0])
    for _ in range(COUNT):
        optimizer.zero_grad()
        objective(model(*copy.deepcopy(args), **copy.deepcopy(kwargs)), ()).backward()
        optimizer.step()
    _compare(luggage, trip, "exact", model)


def decoupled(luggage: Luggage, trip: Trip) -> None:
    """Decoupled it trains as the runtime `local` does."""
    twin = copy.deepcopy(luggage.cut)
    trainer = dni_fx.Trainer(
        twin, loss=objective, optimizer=lambda parameters: SGD(parameters, RATE, 0.9), runtime="local"
    )
    args, kwargs = luggage.call(luggage.subject.batches[0])
    for _ in range(COUNT):
        trainer.step((copy.deepcopy(kwargs or args), ()))
    _compare(luggage, trip, "decoupled", twin)


LESSONS: Steps = {"decouple": decouple, "write": write, "exact": exact, "decoupled": decoupled}


def objective(outputs: Any, _: Any) -> Tensor:
    """The mean square of every number that the model returns with a gradient."""
    leaves = pytree.tree_leaves(with_fields(outputs))
    floats = [each for each in leaves if isinstance(each, Tensor) and each.is_floating_point()]
    return torch.stack([each.square().mean() for each in floats]).sum()


def without_dropout(model: nn.Module) -> nn.Module:
    """The model, every probability of which the name speaks of dropping something being 0."""
    for module in model.modules():
        for name, value in vars(module).items():
            is_layer = isinstance(module, nn.modules.dropout._DropoutNd) and name == "p"
            if isinstance(value, float) and (is_layer or "drop" in name):
                setattr(module, name, 0.0)
    return model


def _compare(luggage: Luggage, trip: Trip, mode: str, model: nn.Module) -> None:
    folder = luggage.folder / mode
    shutil.copytree(luggage.folder / "step", folder)
    session = dni_fx.device.open(folder, mode=mode)
    args, kwargs = luggage.call(luggage.subject.batches[0])
    leaves = [each.numpy() for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    names = [each.name for each in session.manifest.inputs]
    for _ in range(COUNT):
        session.step(dict(zip(names, leaves, strict=True)), ())
    expected = dict(model.named_parameters(remove_duplicate=False))
    for name, found in session.weights().items():
        if name in expected:
            want = expected[name].detach().numpy()
            apart = float(np.linalg.norm(found - want) / (np.linalg.norm(want) + 1e-6))
            trip.apart = max(trip.apart or 0.0, apart)
            assert apart <= TOLERANCE, f"{name} is {apart:.1e} apart after {COUNT} steps"
