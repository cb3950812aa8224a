"""Plans to draw: small nets with skips, masks and hierarchy, and chains of any length."""

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.policies.balanced import Balanced
from passes import Plan
from passes.anchors import anchor_of
from passes.dataflow import dataflow
from tests.flows import Sketch


class Skips(nn.Module):
    """Values that cross one, two and three cuts, and a mask without a gradient."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(12))

    def forward(self, x, keep):
        mask = (keep > 0).float()
        kept = []
        for layer in self.layers:
            x = F.relu(layer(x)) * mask
            kept.append(x)
        return x + sum(kept[::2])


def skips():
    return Skips(), (torch.rand(2, 6), torch.rand(2, 6))


def mlp():
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)]
    return nn.Sequential(*layers), (torch.rand(2, 4),)


def transformer():
    return nn.Transformer(8, 2, 2, 2, 16, batch_first=True), (torch.rand(2, 5, 8), torch.rand(2, 3, 8))


def by_order(gm, stages):
    """A plan that gives each stage about as many nodes, in graph order."""
    nodes = [node for node in gm.graph.nodes if "anchor" in node.meta]
    return Plan({anchor_of(node): stages * at // len(nodes) for at, node in enumerate(nodes)})


def chain(nodes, stages):
    """A long graph without modules."""
    sketch = Sketch()
    value = sketch.add(sketch.inputs[0], sketch.weight, flops=1)
    for at in range(nodes - 1):
        value = sketch.add(value, flops=at % 7)
    gm = sketch.done(value)
    return gm, by_order(gm, stages)


CASES = [(mlp, 1), (mlp, 3), (skips, 4), (skips, 6), (transformer, 3)]
"""Models with their example, and how many stages to cut them into."""


def planned(make, stages):
    """A graph and a plan for it."""
    gm = training_graph(dni_fx.capture(*make()))
    plan = Balanced(stages=stages).plan(dataflow(gm)) if make is transformer else by_order(gm, stages)
    return gm, plan
