"""Models that pass on, or return, more than tensors one by one."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.zoo.plain import WIDTH, Chain, rows


class Output(OrderedDict[str, Any]):
    """A dictionary whose items are attributes too; pytree must be told of the class."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


pytree.register_pytree_node(
    Output,
    lambda output: (list(output.values()), list(output)),
    lambda values, keys: Output(zip(keys, values, strict=True)),
    serialized_type_name="tests.zoo.outputs.Output",
)


class OutputOfItsOwnKind(nn.Module):
    """The body returns a dictionary of its own class, and the model reads its attributes."""

    class Body(Chain):
        def forward(self, x: Tensor) -> Output:
            hidden = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x))))
            return Output(last=torch.tanh(self.layers[2](hidden)), hidden=(hidden,))

    def __init__(self) -> None:
        super().__init__()
        self.body = self.Body()
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Output:
        found = self.body(x)
        return Output(logits=self.head(torch.tanh(found.last)), hidden=found.hidden)


@dataclass
class State:
    value: Tensor
    mask: Tensor | None
    depth: int


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, state: State) -> State:
        value = torch.tanh(self.layer(state.value)) / (1 + state.depth)
        if state.mask is not None:
            value = value.masked_fill(state.mask, 0.0)
        return State(value, value < 0 if state.mask is None else None, state.depth + 1)


class DataclassBetweenLayers(nn.Module):
    """Layers hand a data class on that holds a tensor, a number, and a mask or None."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Step() for _ in range(5))

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        state = State(x, None, 0)
        for step in self.steps:
            state = step(state)
        return state.value, state.depth


class Scales(nn.Module):
    """Feature maps of each depth, as a list."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for layer in self.layers:
            found.append(torch.tanh(layer(found[-1])))
        return found[1:]


class ListGoesOn(nn.Module):
    """A child returns a list, which the model makes longer and reads from both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Scales(3)
        self.neck = Scales(2)
        self.head = nn.Linear(2 * WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        found.extend(self.neck(found[-1]))
        found += [found.pop(0) + found[-1]]
        return self.head(torch.cat([found[0], found[-1]], 1))


class DictBetweenLayers(Chain):
    """Every layer takes and returns a dictionary, with a boolean mask and a size in it."""

    def step(self, layer: nn.Module, at: dict[str, Any]) -> dict[str, Any]:
        x = torch.where(at["mask"], torch.tanh(layer(at["x"])), at["x"] / at["size"])
        return {**at, "x": x}

    def forward(self, x: Tensor) -> dict[str, Any]:
        at: dict[str, Any] = {"x": x, "mask": x > 0, "size": x.size(0), "none": None}
        for layer in self.layers:
            at = self.step(layer, at)
        return at


class SameOutputTwice(Chain):
    """One value is returned under two names, and a view of it as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = super().forward(x)
        return x, x.flatten(), x


class DeepSupervision(nn.Module):
    """Every depth has a head of its own: each stage makes an output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in range(3))

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for depth, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            x = torch.tanh(layer(x))
            found[depth] = head(x)
        return found


class Mask(Chain):
    """The answer is a choice: whole numbers and truth values are returned beside the scores."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = super().forward(x)
        return scores, scores.argmax(1), scores > 0


MODELS = {
    "output-of-its-own-kind": lambda: (OutputOfItsOwnKind(), rows()),
    "dataclass-between-layers": lambda: (DataclassBetweenLayers(), rows()),
    "list-goes-on": lambda: (ListGoesOn(), rows()),
    "dict-between-layers": lambda: (DictBetweenLayers(), rows()),
    "same-output-twice": lambda: (SameOutputTwice(), rows()),
    "deep-supervision": lambda: (DeepSupervision(), rows()),
    "whole-number-outputs": lambda: (Mask(), rows()),
}
