"""Train a cut net with the `local` runtime: each stage steps before the next one runs forward."""

import argparse

import torch
import torch.nn.functional as F
from nets import digits, mlp

import dni_fx

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=5)
options = parser.parse_args()

x_train, x_test, y_train, y_test = digits()
torch.manual_seed(0)
program = dni_fx.capture(mlp(), (x_train[:64],))
plan = dni_fx.plan(program, "balanced:stages=3")
cut = dni_fx.decouple(program, plan=plan, synthesizer="linear")
print(f"boundaries after {', '.join(dni_fx.boundaries(cut))}")

batches = list(zip(x_train.split(64), y_train.split(64), strict=True))
print(
    dni_fx.train(
        cut, batches, loss=F.cross_entropy, runtime="local", epochs=options.epochs, labels_as_context=True
    )
)
found = dni_fx.evaluate(dni_fx.recouple(cut), [(x_test, y_test)], {"accuracy": dni_fx.accuracy})
print(f"test accuracy without the synthesizers: {found['accuracy']:.3f}")
