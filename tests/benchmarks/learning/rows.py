"""Ways to train a net that are compared: one row of a table each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

import dni_fx
from dni_fx.synthesizers import SYNTHESIZERS
from passes import parse


@dataclass(frozen=True)
class Row:
    """What fills the cuts. Without a synthesizer there are none, and the net learns by backprop.

    With `labels` the synthesizers see what the net is to say (cDNI). The rate of the net's own optimizer is
    `pace` times that of the other rows.
    """

    name: str
    synthesizer: str = ""
    labels: bool = False
    interface: str = "dni"
    pace: float = 1.0

    def __str__(self) -> str:
        pace = f" pace={self.pace}" if self.pace != 1 else ""
        known = f"{self.synthesizer} {self.interface} labels={self.labels}{pace}"
        return known if self.synthesizer else "backprop"

    def cut(self, net: nn.Module, example: torch.Tensor, plan: str) -> nn.Module:
        """The net as it is to be trained; parameters are shared."""
        if not self.synthesizer:
            return net
        return dni_fx.decouple(
            net, (example,), plan=plan, synthesizer=self.synthesizer, interface=self.interface
        )


BACKPROP = Row("backprop")
ROWS = (
    BACKPROP,
    Row("zero", "zero"),
    Row("DNI", "auto"),
    Row("cDNI", "auto", labels=True),
    Row("critic", "critic", labels=True),
    Row("local-head", "local-head", labels=True),
    Row("delayed", "delayed", labels=True),
    Row("oracle", "oracle"),
    Row("default", "auto", labels=True),
)


@dataclass(frozen=True)
class Regression:
    """How DNI and cDNI guess: by which synthesizers, with which interface, and DNI at which pace."""

    unconditional: str
    conditional: str
    interface: str = "dni:lr=0.01"
    pace: float = 1.0

    def of(self, row: Row) -> Row:
        """The row, if it is one of these, by this regression."""
        if row.name == "DNI":
            return replace(row, synthesizer=self.unconditional, interface=self.interface, pace=self.pace)
        if row.name == "cDNI":
            return replace(row, synthesizer=self.conditional, interface=self.interface)
        return row


def rows(names: Sequence[str], regression: Regression, interface: str = "dni") -> list[Row]:
    """The rows of these names; DNI and cDNI are by `regression`, the others with `interface`.

    A name that is no row's is the text of a synthesizer, which sees the labels.

    Raises:
        UnknownNameError, SpecError: it is neither.

    >>> [str(row) for row in rows(["cDNI", "mlp:depth=2"], Regression("linear", "conv"))]
    ['conv dni:lr=0.01 labels=True', 'mlp:depth=2 dni labels=True']
    """
    known = {row.name: row for row in ROWS}
    found: list[Row] = []
    for name in names:
        if (row := known.get(name)) is None:
            parse(name, SYNTHESIZERS)
            row = Row(name, name, labels=True)
        found.append(regression.of(replace(row, interface=interface) if row.synthesizer else row))
    return found
