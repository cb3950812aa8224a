"""Predicted memory is what a training step takes, measured by the storages that are alive in it.

In float32 on a CPU the predictions are within 2 % for these nets; 3 % is asserted. What is missed are
tensors that live for less than one operation, and which of two equal ones autograd keeps.
"""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dni_fx
from dni_fx import verbs
from dni_fx.budget import _checkpointing, budget_of
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.timeline import Timeline
from passes import parse
from passes.dataflow import dataflow
from tests.live_bytes import LiveBytes

CLOSE = 0.03
LINEAR = parse("linear", SYNTHESIZERS)


def mlp():
    hidden = [layer for _ in range(8) for layer in (nn.Linear(128, 128), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(128, 10)), torch.rand(512, 128)


def convolutional():
    def block(inside, outside):
        return [
            nn.Conv2d(inside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        ]

    widths = itertools.pairwise([3, 16, 16, 16, 16, 32, 32])
    layers = [layer for inside, outside in widths for layer in block(inside, outside)]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(*layers, *last), torch.rand(16, 3, 16, 16)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x)).mean(1))


def transformer():
    return Transformer(), torch.randint(100, (8, 32))


NETS = [
    (mlp, "3+7+11"),
    (convolutional, "5+8+14"),
    (transformer, "encoder.layers.0+encoder.layers.1+encoder.layers.2"),
]
OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adam": torch.optim.Adam,
}


@functools.cache
def planned(make, after):
    torch.manual_seed(0)
    model, x = make()
    program = dni_fx.capture(model, (x,))
    plan = dni_fx.plan(program, f"at:after={after}")
    return model, x, program, plan, verbs.training_graph(program)


def peak(model, x, parameters, optimizer="adam", run=None, parts=1):
    """The most bytes that a step of training holds, the third one, when the optimizer has its state."""
    y = torch.zeros(len(x), dtype=torch.long)
    stepping = OPTIMIZERS[optimizer](list(parameters))

    def step():
        stepping.zero_grad()
        for each, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            F.cross_entropy((run or model)(each), labels).backward()
        stepping.step()

    step()
    step()
    stepping.zero_grad()
    state = [value for values in stepping.state.values() for value in values.values()]
    with LiveBytes(list(model.parameters()), list(model.buffers()), state, x, y) as live:
        step()
    return live.peak


@pytest.mark.parametrize(("make", "after"), NETS)
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_backprop_takes_what_is_predicted(make, after, optimizer):
    model, x, _, plan, gm = planned(make, after)
    budget = budget_of(gm, plan, optimizer, LINEAR, dataflow(gm))
    measured = peak(model, x, model.parameters(), optimizer)
    assert budget.backprop.bytes == pytest.approx(measured, rel=CLOSE)


@pytest.mark.parametrize(("make", "after"), NETS)
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_stages_that_are_released_early_take_what_is_predicted(make, after, stages):
    after = "+".join(after.split("+")[: stages - 1])
    model, x, program, plan, gm = planned(make, after)
    budget = budget_of(gm, plan, "adam", LINEAR, dataflow(gm))
    cut = dni_fx.decouple(program, plan=plan, synthesizer=LINEAR)
    measured = peak(cut, x, model.parameters())
    assert budget.ours.bytes == pytest.approx(measured, rel=CLOSE)


@pytest.mark.parametrize(("make", "parts"), [(mlp, 2), (mlp, 8), (transformer, 4)])
def test_micro_batches_take_what_is_predicted(make, parts):
    model, x, _, plan, gm = planned(make, dict(NETS)[make])
    budget = budget_of(gm, plan, "adam", LINEAR, dataflow(gm))
    measured = peak(model, x, model.parameters(), parts=parts)
    room = budget.always + budget.gradients + budget.largest
    limit = room + (budget.pass_peak + 2 * budget.outputs) // parts
    found = budget.accumulation(limit)
    assert found.bytes <= limit
    assert found.name.endswith(f" {len(x) // parts}")
    assert found.bytes == pytest.approx(measured, rel=CLOSE)


@pytest.mark.parametrize("make", [mlp, convolutional])
def test_checkpoints_take_what_is_predicted(make):
    model, x, _, plan, gm = planned(make, dict(NETS)[make])
    flow = dataflow(gm)
    segments, _ = _checkpointing(Timeline(gm, flow))
    assert [at for segment in segments for at in segment] == list(range(len(model)))

    def run(value):
        for segment in segments[:-1]:
            value = checkpoint(model[segment.start : segment.stop], value, use_reentrant=False)
        return model[segments[-1].start :](value)

    budget = budget_of(gm, plan, "adam", LINEAR, flow)
    measured = peak(model, x, model.parameters(), run=run)
    assert budget.checkpointing.bytes == pytest.approx(measured, rel=CLOSE)


def budget_of_net(make=mlp):
    *_, plan, gm = planned(make, dict(NETS)[make])
    return budget_of(gm, plan, "adam", LINEAR, dataflow(gm))


def test_backprop_is_advised_wherever_it_fits():
    budget = budget_of_net(transformer)
    assert budget.advice(budget.backprop.bytes).startswith("Plain backprop fits. It is exact and simpler")
    assert "fits. It is exact" not in budget.advice(budget.backprop.bytes - 1)


def test_an_exact_method_is_advised_before_a_cut():
    budget = budget_of_net(transformer)
    assert "micro-batches of" in budget.advice(budget.ours.bytes)


def test_what_comes_closest_is_told_where_nothing_fits():
    budget = budget_of_net()
    told = budget.advice(1000)
    least = min(budget.methods(1000), key=lambda method: method.bytes)
    assert told.startswith(f"Nothing fits; {least.name} comes closest")
    assert "Weights, gradients, optimizer and batch alone take" in told


def test_the_parts_are_those_of_the_model():
    model, x, _, plan, gm = planned(convolutional, "5")
    budget = budget_of(gm, plan, "momentum", LINEAR, dataflow(gm))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert (budget.weights, budget.gradients, budget.optimizer) == (weights, weights, weights)
    assert budget.buffers == sum(b.numel() * b.element_size() for b in model.buffers())
    assert (budget.inputs, budget.batch) == (x.numel() * x.element_size(), len(x))


def test_frozen_weights_need_neither_gradients_nor_an_optimizer():
    torch.manual_seed(0)
    model, x = mlp()
    model[0].requires_grad_(False)
    program = dni_fx.capture(model, (x,))
    gm = verbs.training_graph(program)
    budget = budget_of(gm, dni_fx.plan(program, "at:after=3"), "adam", LINEAR, dataflow(gm))
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert (budget.gradients, budget.optimizer) == (learning, 2 * learning)
    measured = peak(model, x, [p for p in model.parameters() if p.requires_grad])
    assert budget.backprop.bytes == pytest.approx(measured, rel=CLOSE)


def test_the_table_says_of_every_method_whether_it_fits():
    budget = budget_of_net()
    limit = budget.backprop.bytes
    table = budget.table(limit, width=80)
    for method in budget.methods(limit):
        (line,) = [line for line in table.splitlines() if line.startswith(method.name)]
        assert (" yes " in line) == (method.bytes <= limit)
    data = budget.data(limit)
    assert [each["fits"] for each in data["methods"]] == [m.bytes <= limit for m in budget.methods(limit)]
