"""Models of images."""

import torch
from torch import Tensor, nn


class Convs(nn.Module):
    """Convolutions, batch norm, in-place activations and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(self.block(x) + x)
        return self.head(torch.flatten(self.pool(x), 1))


class UNet(nn.Module):
    """No single value separates the input from the output."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, padding=1)
        self.deep = nn.Conv2d(3, 3, 3, padding=1)
        self.bottom = nn.Conv2d(3, 3, 3, padding=1)
        self.up = nn.Conv2d(6, 3, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        down = torch.relu(self.down(x))
        deep = torch.relu(self.deep(nn.functional.avg_pool2d(down, 2)))
        bottom = torch.relu(self.bottom(deep))
        up = torch.relu(self.up(torch.cat([bottom, deep], 1)))
        up = nn.functional.interpolate(up, scale_factor=2.0)
        return self.last(torch.cat([up, down], 1))


MODELS = {
    "convolutions": lambda: (Convs(), (torch.randn(3, 2, 4, 4),)),
    "u-net": lambda: (UNet(), (torch.randn(3, 2, 4, 4),)),
}
