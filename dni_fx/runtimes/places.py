"""On which device each stage of a model is, and what it owns."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, dnis
from dni_fx.errors import StageError
from dni_fx.program import modules_of
from dni_fx.runtimes.meeting import Meeting
from passes.words import counted


class Places:
    """Spreads the stages of a model over devices, in order; without devices it stays where it is.

    Parameters and buffers stay the objects that they are. One that several stages read is where the last of
    them is, as its optimizer steps with that one. A synthesizer is where the value that it guesses for is
    made.
    """

    def __init__(self, cut: Decoupled, devices: Sequence[torch.device]) -> None:
        self.cut = cut
        self.devices = tuple(devices)
        self.meeting = Meeting(devices)
        self._last: tuple[CutGraph, dict[nn.Parameter, torch.device]] | None = None

    def of(self, graph: CutGraph) -> Mapping[int, torch.device]:
        """The device of each stage by its index: as many stages on each as there can be.

        Raises:
            StageError: there are more devices than stages.
        """
        stages, devices = graph.road.stages, self.devices
        if len(stages) < len(devices):
            raise StageError(
                f"there are {counted(len(devices), 'device')} for {counted(len(stages), 'stage')}. "
                "Cut the model into more, or name fewer devices."
            )
        if not devices:
            return {}
        return {stage.index: devices[at * len(devices) // len(stages)] for at, stage in enumerate(stages)}

    def spread(self, graph: CutGraph) -> bool:
        """Put all that the stages of a graph own where they are; returns whether a parameter has moved."""
        if not self.devices or (self._last is not None and self._last[0] is graph and _are_at(self._last[1])):
            return False
        places, before = self.of(graph), self._whereabouts()
        parameters: dict[nn.Parameter, torch.device] = {}
        buffers: dict[Tensor, torch.device] = {}
        for stage in graph.road.stages:
            parameters |= dict.fromkeys(stage.parameters(), places[stage.index])
            buffers |= dict.fromkeys(stage.named_buffers().values(), places[stage.index])
        for tensor, place in [*parameters.items(), *buffers.items()]:
            _move(tensor, place)
        known = dnis(self.cut)
        for spec in graph.marked.specs:
            known[spec.name].to(places[spec.producer])
        self._flatten()
        self._last = graph, parameters
        return before != self._whereabouts()

    def gather(self, place: torch.device) -> None:
        """Put the whole model on one device."""
        for module in modules_of(self.cut):
            for tensor in [*vars(module)["_parameters"].values(), *vars(module)["_buffers"].values()]:
                if tensor is not None:
                    _move(tensor, place)
        for dni in dnis(self.cut).values():
            dni.to(place)
        self._flatten()

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Inside, the whole model is on the device of its first parameter, and nothing is moved for it."""
        first = next(self.cut.parameters(), None)
        if not self.devices or first is None:
            yield
            return
        self.gather(first.device)
        with self.meeting.left():
            yield

    def _whereabouts(self) -> list[torch.device]:
        return [parameter.device for parameter in self.cut.parameters()]

    def _flatten(self) -> None:
        for module in self.cut.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # cuDNN wants the weights side by side


def devices_of(names: Iterable[str]) -> tuple[torch.device, ...]:
    """The devices of these names.

    Raises:
        StageError: one of them is not there.
    """
    there = _present()
    found = [_numbered(torch.device(name)) for name in names]
    if missing := [str(device) for device in found if device not in there]:
        raise StageError(
            f"cannot put stages on {', '.join(missing)}: there is {', '.join(map(str, there))} here."
        )
    return tuple(found)


def _present() -> list[torch.device]:
    cpu, kind = torch.device("cpu"), torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return [cpu]
    return [cpu, *(torch.device(kind.type, at) for at in range(torch.accelerator.device_count()))]


def _numbered(device: torch.device) -> torch.device:
    """The same device, as tensors on it name it."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or str(device) != kind.type:
        return device
    return torch.device(kind.type, torch.accelerator.current_device_index())


def _are_at(places: Mapping[nn.Parameter, torch.device]) -> bool:
    return all(parameter.device == place for parameter, place in places.items())


def _move(tensor: Tensor, place: torch.device) -> None:
    """Put a tensor on a device, and its gradient with it; whoever holds the tensor holds it still."""
    if tensor.device == place:
        return
    gradient = tensor.grad if tensor.is_leaf else None
    if gradient is not None:
        tensor.grad = None
    tensor.data = tensor.data.to(place)
    if gradient is not None:
        tensor.grad = gradient.to(place)
