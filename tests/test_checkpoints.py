"""Checkpoints, which compute a part of the model again in backward, stay exact in a cut model."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dni_fx
from dni_fx.gradients import gradients_of
from tests.equality import assert_same, gradients

# Gradients are switched off where shapes are found and in eval mode, of which torch warns.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")


class Block(nn.Module):
    def __init__(self, is_reentrant):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.2))
        self.is_reentrant = is_reentrant

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=self.is_reentrant) + x


def blocks(is_reentrant):
    return nn.Sequential(nn.Linear(6, 6), Block(is_reentrant), Block(is_reentrant), nn.Linear(6, 6))


class AtTheTop(nn.Module):
    def __init__(self, is_reentrant):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))
        self.is_reentrant = is_reentrant

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.is_reentrant)
        return x


@pytest.mark.parametrize("make", [blocks, AtTheTop])
@pytest.mark.parametrize("is_reentrant", [True, False])
def test_a_cut_model_with_checkpoints_is_exact(make, is_reentrant):
    torch.manual_seed(0)
    model, x = make(is_reentrant).double(), torch.randn(3, 6, dtype=torch.float64)
    cut = dni_fx.decouple(copy.deepcopy(model), (x,), plan="bottleneck:stages=3", synthesizer="oracle")
    ours = {name: up for name, up in gradients(cut, (x,)).items() if not name.startswith("dni.")}
    assert_same(ours, gradients(model, (x,)), tolerance=1e-10)
    assert dni_fx.verify(cut, (x,))


@pytest.mark.parametrize("make", [blocks, AtTheTop])
@pytest.mark.parametrize("is_reentrant", [True, False])
def test_a_stage_with_checkpoints_runs_backward_early_and_delivers_at_the_end(make, is_reentrant):
    torch.manual_seed(0)
    cut = dni_fx.decouple(make(is_reentrant), (torch.randn(3, 6),), plan="bottleneck:stages=3")
    loss = cut(torch.randn(3, 6)).square().sum()
    assert all(p.grad is None for p in cut.parameters())
    loss.backward()
    assert all(p.grad is not None for name, p in cut.named_parameters() if not name.startswith("dni."))


def test_gradients_through_a_reentrant_checkpoint_leave_those_that_are_there():
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    layer.weight.grad = kept = torch.ones(4, 4)
    output = checkpoint(layer, layer(x), use_reentrant=True)
    found = gradients_of([output], [torch.ones_like(output)], list(layer.parameters()))
    twice = layer(layer(x))
    assert_same(found, list(torch.autograd.grad(twice, layer.parameters(), torch.ones_like(twice))))
    assert layer.weight.grad is kept
    assert layer.bias.grad is None
