"""A stage run with other tensors computes with these alone, and leaves the model as it was."""

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.stateless import run_with


class TwoNames(nn.Module):
    """One weight that two layers hold, read under one name by one stage and under the other by another."""

    def __init__(self):
        super().__init__()
        self.table, self.middle, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.middle(self.table(x)).tanh())


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(4, 4, num_layers=2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0])


def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


NETS = {
    "two names": (TwoNames, torch.arange(5).repeat(3, 1)),
    "cells": (Cells, torch.randn(3, 5, 4, dtype=torch.float64)),
    "norms": (normed, torch.randn(7, 4, dtype=torch.float64)),
}


def known(net):
    """Every tensor of a net in its order, who it is, and what it holds."""
    tensors = [*net.named_parameters(remove_duplicate=False), *net.named_buffers()]
    return [(name, id(each), each.detach().clone()) for name, each in tensors]


@pytest.mark.parametrize("name", NETS)
def test_a_stage_with_other_tensors_computes_with_these_and_leaves_the_model(name):
    make, x = NETS[name]
    torch.manual_seed(0)
    net = make().double()
    cut = dni_fx.decouple(net, (x,), plan="balanced:stages=2", synthesizer="zero").train()
    cut(x)
    before, values = known(cut), {}
    for stage in dni_fx.stages(cut):
        mine = {key: (each.detach() * 1.5).requires_grad_() for key, each in stage.named_parameters().items()}
        buffers = {key: each.clone() for key, each in stage.named_buffers().items()}
        reads = [values.get(key, x) for key in stage.code.part.reads]
        found = run_with(stage, mine, buffers, reads)
        sum(each.sin().sum() for each in found.values()).backward()
        gradients = {key: each.grad for key, each in mine.items()}
        assert [(key, who) for key, who, _ in known(cut)] == [(key, who) for key, who, _ in before]
        assert all(torch.equal(now, was) for (*_, now), (*_, was) in zip(known(cut), before, strict=True))
        with torch.no_grad():  # the same, with the numbers in the model's own tensors
            for each in stage.parameters():
                each.mul_(1.5)
        cut.zero_grad()
        expected = stage.run(reads)
        sum(each.sin().sum() for each in expected.values()).backward()
        for key, each in expected.items():
            assert torch.equal(found[key], each)
        for key, each in stage.named_parameters().items():
            assert torch.equal(gradients[key], each.grad), key
        for key, each in stage.named_buffers().items():
            assert torch.equal(buffers[key], each), key
        before = known(cut)
        values |= {key: each.detach() for key, each in expected.items()}
