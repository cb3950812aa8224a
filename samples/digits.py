"""Handwritten digits: two nets by backprop and cut, side by side; then one cut net goes to files."""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from nets import Residual, digits, mlp
from torch import nn

import dni_fx

X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = digits()
# The MLP is cut after every hidden layer, the residual net inside of both blocks, where the skip crosses too.
NETS = {
    "MLP": (mlp, "at:after=hidden1+hidden2+hidden3"),
    "residual": (Residual, "at:after=first.inner+second.inner"),
}
WAYS = {"backprop": "", "last stage only": "zero", "without labels": "auto", "with labels": "auto"}
SEEDS = (0, 1, 2)


def train(net: str, way: str, seed: int, epochs: int) -> nn.Module:
    """A trained net; the way changes nothing but how gradients cross the cuts."""
    make, plan = NETS[net]
    torch.manual_seed(seed)
    model: nn.Module = make()
    if way != "backprop":
        model = dni_fx.decouple(model, (X_TRAIN[:64],), plan=plan, synthesizer=WAYS[way])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(X_TRAIN)).split(64):
            x, y = X_TRAIN[batch], Y_TRAIN[batch]
            optimizer.zero_grad()
            F.cross_entropy(model(x, dni_context=y) if way == "with labels" else model(x), y).backward()
            optimizer.step()
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("digits-out"))
    options = parser.parse_args()
    print(f"test accuracy in %, mean of seeds {SEEDS}, Adam 3e-4, batch 64, {options.epochs} epochs")
    print(f"{'':15}", *(f"{net:>10}" for net in NETS), flush=True)
    for way in WAYS:
        print(f"{way:15}", end="", flush=True)
        for net in NETS:
            models = [train(net, way, seed, options.epochs) for seed in SEEDS]
            right = [(model(X_TEST).argmax(1) == Y_TEST).float().mean() for model in models]
            print(f" {100 * sum(right) / len(right):10.1f}", end="", flush=True)
        print()
    cut = train("MLP", "with labels", SEEDS[0], options.epochs)
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"\n{dni_fx.verify(cut)}\n")
    dni_fx.save(cut, options.out / "mlp.pt2")
    print(dni_fx.export(cut, options.out / "mlp.onnx"))
    print(f"wrote {options.out / 'mlp.pt2'} and {options.out / 'mlp.onnx'}")
