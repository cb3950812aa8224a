"""Models, their programs, and files of them, whole and changed."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from dni_fx.archive import write
from dni_fx.exported import export_graph
from passes.anchors import set_anchors


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.mix.bias.requires_grad_(False)

    def forward(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.mix(self.embed(words))) * mask[:, :, None]
        return self.head(hidden), hidden


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.flatten(1, 2))[0]


class Cut(nn.Module):
    """Two layers with a hole between them, a buffer that is not saved and one that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.dni = nn.Module()
        self.dni.add_module("a", nn.Identity())
        self.b = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.dni.get_submodule("a")(self.a(x)) + self.table)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 6, 6, dtype=torch.float64),)


def rows() -> tuple[Tensor, ...]:
    return (torch.randn(2, 4, dtype=torch.float64),)


def tokens() -> tuple[Tensor, ...]:
    return torch.randint(7, (2, 5)), torch.rand(2, 5, dtype=torch.float64)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "mlp": (mlp, rows),
    "conv-norm-dropout": (Block, images),
    "tied": (Tied, tokens),
    "cut": (Cut, rows),
    "lstm": (Recurrent, images),
}


def captured(model: nn.Module) -> fx.Graph:
    graph = fx.Tracer().trace(model)
    for node in graph.nodes:
        if node.op == "output":
            flat = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
            node.args = (tuple(flat),)
    set_anchors(graph)
    return graph


def shell(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def program(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    graph = captured(model)
    stages = {node.name: 0 for node in graph.nodes}
    return export_graph(shell(model), graph, inputs, stage_of=stages).program


def both(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, ExportedProgram]:
    return {"eval": program(model.eval(), inputs), "train": program(model.train(), inputs)}


def flat(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def run(runnable: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return flat(runnable(*inputs))


def same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def saved(path: Path, name: str = "mlp") -> Path:
    make, inputs = MODELS[name]
    write(path, both(make().double(), inputs()), {"dni.a.weight": torch.randn(3)}, {"plan": "balanced"})
    return path


def rewrite(path: Path, changes: dict[str, Callable[[bytes], bytes | None]], **added: bytes) -> Path:
    """The archive with some members changed, so that all CRCs are right."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            change = changes.get(name.partition("/")[2])
            if (new := change(content) if change else content) is not None:
                archive.writestr(name, new)
        for name, content in added.items():
            archive.writestr(f"archive/{name}", content)
    return path


def state_of(program: ExportedProgram) -> dict[str, Tensor]:
    """Every parameter, buffer and tensor constant of a program by its name, the program's own objects."""
    constants = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
    return {**program.state_dict, **constants}
