import torch
from torch import fx, nn

from passes.classes import classes_of
from passes.dataflow import dataflow


class Inner(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = Inner(), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.inner(self.inner(x)))


def test_modules_traced_through_and_modules_called_are_known_by_path():
    gm = fx.symbolic_trace(nn.Sequential(Outer(), nn.ReLU()))
    assert classes_of(gm) == {"0": "Outer", "0.inner": "Inner", "0.norm": "LayerNorm", "1": "ReLU"}
    assert dataflow(gm).graph["classes"] == classes_of(gm)


def test_an_exported_graph_names_the_same_classes():
    gm = torch.export.export(nn.Sequential(Outer(), nn.ReLU()), (torch.zeros(2, 4),)).module()
    assert (
        classes_of(gm).items()
        >= {"0": "Outer", "0.inner": "Inner", "0.norm": "LayerNorm", "1": "ReLU"}.items()
    )


def test_a_graph_that_was_built_by_hand_has_no_classes():
    graph = fx.Graph()
    graph.output(graph.call_function(torch.relu, (graph.placeholder("x"),)))
    assert classes_of(fx.GraphModule(nn.Module(), graph)) == {}
