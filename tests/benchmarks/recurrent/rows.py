"""Ways to train through time that are compared: one row of a table each."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.interface import INTERFACES, Interface
from passes import parse
from tests.benchmarks.recurrent.nets import Recurrent, State

PLAN = "balanced:stages=1"
"""The state is the only thing that is cut."""
BASE, NAMES = "bptt", ("bptt", "dni", "dni-aux", "full")
RECORDED = 50
"""Every so many updates it is kept how well the synthesizer guesses."""
RECENT = 20
"""So many of these decide what is told of a run."""


@dataclass(frozen=True)
class Row:
    """What becomes of the gradient of the state between two chunks; without a synthesizer it is zero."""

    name: str
    synthesizer: str = ""
    interface: Interface = field(default_factory=Interface)

    @property
    def key(self) -> str:
        """All that it says, as text."""
        return f"{self.synthesizer} {self.interface}" if self.synthesizer else self.name

    def cut(self, net: Recurrent, x: Tensor) -> nn.Module:
        """The net as it is to be trained; parameters are shared."""
        if not self.synthesizer:
            return net
        how = {"synthesizer": self.synthesizer, "interface": self.interface}
        return dni_fx.decouple(net, (x, net.start(len(x))), plan=PLAN, carry={"state": 1}, **how)


def add_rows(parser: argparse.ArgumentParser, scale: float) -> None:
    """Options that say how the state's gradient is guessed."""
    add = parser.add_argument
    add("--synthesizer", default="linear:norm=none", metavar="TEXT", help="of dni and dni-aux")
    add("--interface", default="dni:guard=0,trust=100", metavar="TEXT", help="theirs, but for scale and aux")
    add("--scale", type=float, default=scale, help="the part of a guess that is sent")
    add("--aux", type=float, default=0.1, help="the weight of the auxiliary task of dni-aux")


def row_of(name: str, options: argparse.Namespace) -> Row:
    """The row of one of NAMES."""
    if name in (BASE, "full"):
        return Row(name)
    interface = replace(parse(options.interface, INTERFACES), scale=options.scale)
    return Row(name, options.synthesizer, replace(interface, aux=options.aux if name == "dni-aux" else 0.0))


class Loop:
    """The plain loop that a user would write, over chunks whose state goes from one to the next.

    With `fall` the learning rate falls in a straight line to 0 over so many updates.
    """

    def __init__(self, row: Row, net: Recurrent, x: Tensor, lr: float, fall: int = 0) -> None:
        self.row, self.net = row, row.cut(net, x)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        self.schedule = LinearLR(self.optimizer, 1.0, 0.0, fall) if fall else None
        self.state: State = net.start(len(x))
        self.updates, self.seconds = 0, 0.0
        self.guesses: dict[str, list[float]] = defaultdict(list)

    def update(self, x: Tensor, ends: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Learn from one chunk; returns its outputs. The state of samples that end with it becomes zeros."""
        start = time.process_time()
        self.updates += 1
        recorded = bool(self.row.synthesizer) and self.updates % RECORDED == 0
        if recorded:
            cutting_of(self.net).step.record = True
        outputs, self.state = self.forward(x, ends)
        self.optimizer.zero_grad()
        loss_of(outputs).backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if recorded:
            self._keep()
        self.seconds += time.process_time() - start
        return outputs.detach()

    def forward(self, x: Tensor, ends: Tensor) -> tuple[Tensor, State]:
        """One chunk from the state that there is."""
        if self.row.synthesizer:
            return self.net(x, self.state, dni_reset=ends)
        outputs, (h, c) = self.net(x, self.state)
        gone = ends.view(1, -1, 1)
        return outputs, (h.detach().masked_fill(gone, 0), c.detach().masked_fill(gone, 0))

    def figures(self) -> dict[str, float]:
        """Updates, seconds of one, and means of how well the synthesizer has guessed of late."""
        means = {of: statistics.fmean(each[-RECENT:]) for of, each in self.guesses.items()}
        return {"updates": self.updates, "seconds": self.seconds / max(self.updates, 1), **means}

    def _keep(self) -> None:
        cutting_of(self.net).step.record = False
        for dni in dni_fx.boundaries(self.net).values():
            if (found := dni.diagnosis) is not None:
                for of in ("cosine", "error", "locked"):
                    self.guesses[of].append(float(getattr(found, of)))


def quietly(train: Callable[[], dict]) -> dict:
    """What `train` finds, with the warnings that were heard."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = train()
    return found | {"warnings": list(dict.fromkeys(str(each.message) for each in heard))}
