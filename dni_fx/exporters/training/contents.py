"""What a folder of training graphs holds beside them: weights and all else that is kept, and the manifest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dni_fx.device.manifest import NAME, Boundary, Graph, Manifest, Shared, Stage
from dni_fx.device.manifest import Tensor as Taken
from dni_fx.exporters.training.assembly import Assembly
from dni_fx.exporters.training.functions import EXAMPLE_RATE
from dni_fx.exporters.training.known import Entry
from dni_fx.exporters.training.orders import orders
from dni_fx.exporters.training.tracing import Traced
from dni_fx.files import write_as_any

_KEPT = ("p:", "b:", "s:")


class Contents:
    """Takes in one written graph after another; `slack` is how far what was moved may be off, by kind.

    `is_fixed` says that a graph takes batches of the example's size alone.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.move = assembly.lesson.optimizer
        self.is_fixed = False
        self.difference = 0.0
        self.opset = 0
        rates = [dni.interface.lr for dni in assembly.dnis.values()]
        # One that is all rounding may go the full step of Adam one way, and in PyTorch the other.
        moved = 2 * EXAMPLE_RATE if self.move.amplifies else 0.0
        self.slack = {"s": 2 * max([EXAMPLE_RATE, *rates]), "p": moved}
        self._graphs: dict[str, Graph] = {}
        self._homes: dict[str, int] = {}
        self._kept: dict[str, Tensor] = {}
        self._symbols: dict[str, str] = {}

    def add(self, entry: Entry, traced: Traced, opset: int, difference: float) -> None:
        """Take in a graph that was written, and what it reads that is kept from step to step."""
        self._graphs[entry.name] = Graph(f"{entry.name}.onnx", traced.inputs, traced.outputs)
        self.opset, self.difference = opset, max(self.difference, difference)
        self.is_fixed |= traced.is_fixed
        kept = (*_KEPT, *(f"{slot}:" for slot in self.move.slots))
        for name, value in entry.real.items():
            if name.startswith(kept):
                self._kept[name] = value
                if entry.name.startswith("stage_"):
                    index = int(entry.name.removeprefix("stage_").partition(".")[0])
                    is_known = name in self._homes and entry.name.endswith(".evaluate")
                    self._homes[name] = self._homes[name] if is_known else index

    def _manifest(self) -> Manifest:
        assembly = self.assembly
        shared = self._graphs.get("shared")
        self.is_fixed |= assembly.known.is_fixed
        manifest = Manifest(
            opset=self.opset,
            optimizer=str(self.move),
            slots=self.move.slots,
            rate=assembly.lesson.rate,
            labels_as_context=assembly.lesson.labels_as_context,
            inputs=tuple(self._taken(name, f"v:{value}") for name, value in assembly.inputs),
            targets=tuple(self._taken(name, name) for name in assembly.target_names),
            outputs=tuple(assembly.outputs),
            predictions=tuple(assembly.predictions),
            stages=tuple(self._stage(step.stage.index) for step in assembly.steps),
            boundaries=tuple(self._boundary(name) for name in assembly.dnis),
            loss=self._graphs["loss"],
            shared=None if shared is None else Shared(shared, tuple(assembly.shared)),
            orders={},
        )
        return replace(manifest, orders=orders(manifest))

    def save(self, folder: Path) -> Manifest:
        """Write weights, what is kept beside them, and the manifest, which is returned."""
        from safetensors.torch import save_file

        held: dict[int, dict[str, Tensor]] = {step.stage.index: {} for step in self.assembly.steps}
        for spec in (dni.spec for dni in self.assembly.dnis.values()):
            for name in self._kept:
                if name.startswith(f"s:{spec.name}:"):
                    self._homes[name] = spec.producer
        for name in self._kept:  # what several stages read is moved by a graph of no stage
            slot, _, parameter = name.partition(":")
            if slot in self.move.slots:
                self._homes.setdefault(name, self._homes[f"p:{parameter}"])
        for name, value in self._kept.items():
            held[self._homes[name]][name] = value.detach().cpu().clone().contiguous()
        held[min(held)]["steps"] = torch.zeros((), dtype=torch.int64)
        for index, tensors in held.items():
            write_as_any(folder / _state(index), partial(save_file, tensors))
        (folder / NAME).write_text((manifest := self._manifest()).to_json(), "utf-8")
        return manifest

    def _stage(self, index: int) -> Stage:
        kinds = ("forward", "backward", "evaluate")
        graphs = {kind: self._graphs[f"stage_{index}.{kind}"] for kind in kinds}
        return Stage(index, _state(index), step=self._graphs.get(f"stage_{index}.step"), **graphs)

    def _boundary(self, name: str) -> Boundary:
        dni = self.assembly.dnis[name]
        return Boundary(
            name,
            tuple(f"v:{each}" for each in dni.spec.names),
            dni.spec.producer,
            dni.spec.consumers,
            max(0, dni.interface.warmup - (dni.scale.count if dni.learner.silent else 0)),
            self._graphs.get(f"guess.{name}"),
            self._graphs.get(f"learn.{name}"),
        )

    def _taken(self, name: str, value: str) -> Taken:
        known = self.assembly.known
        shape: Any = (known.real if self.is_fixed else known.fake)[value].shape
        kind = str(known.real[value].dtype).removeprefix("torch.")
        return Taken(name, value, kind, tuple(self._size(size) for size in shape))

    def _size(self, size: Any) -> int | str:
        """A number, or what a size is called that varies: equal names have equal sizes."""
        if not isinstance(size, torch.SymInt):
            return int(size)
        symbol = str(size.node.expr)
        first = not self._symbols
        return self._symbols.setdefault(symbol, "batch" if first else f"size_{len(self._symbols)}")


def _state(index: int) -> str:
    return f"stage_{index}.safetensors"
