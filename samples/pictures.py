"""Pictures of plans: a residual net, a U-Net, a GPT and an encoder-decoder, each cut into four stages."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import dni_fx
from dni_fx import picture


def convs(inner: int, outer: int) -> nn.Sequential:
    first, second = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(outer), nn.ReLU(), second, nn.BatchNorm2d(outer), nn.ReLU())


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class _Level(nn.Module):
    def __init__(self, inner: int, outer: int, below: nn.Module) -> None:
        super().__init__()
        self.down, self.up = convs(inner, outer), convs(3 * outer, outer)
        self.below = nn.Sequential(nn.MaxPool2d(2), below, nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.up(torch.cat([skip, self.below(skip)], 1))


class _Causal(nn.TransformerEncoder):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(32, 32, dtype=torch.bool, device=x.device).triu(1)
        return super().forward(x, mask, is_causal=False)


sizes = ((3, 16), (16, 32), (32, 64))
resnet = [nn.Sequential(convs(a, b), *(_Residual(convs(b, b)) for _ in range(3))) for a, b in sizes]
layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=True)
gpt = nn.Sequential(nn.Embedding(500, 64), _Causal(layer, 8, enable_nested_tensor=False), nn.Linear(64, 500))
image, pair = torch.rand(2, 3, 32, 32), (torch.rand(2, 20, 64), torch.rand(2, 12, 64))
NETS = {
    "resnet": (nn.Sequential(*resnet), (image,)),
    "unet": (_Level(3, 16, _Level(16, 32, _Level(32, 64, convs(64, 128)))), (image,)),
    "gpt": (gpt, (torch.randint(500, (2, 32)),)),
    "encoder-decoder": (nn.Transformer(64, 4, 4, 4, 128, batch_first=True), pair),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    folder = parser.parse_args().folder
    for name, (net, inputs) in NETS.items():
        program = dni_fx.capture(net, inputs)
        picture.write_picture(program, dni_fx.plan(program, "balanced:stages=4"), folder / f"{name}.svg")
        print(f"wrote {folder / name}.svg")
