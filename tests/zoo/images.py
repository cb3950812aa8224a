"""Models of images."""

import torch
import torch.nn.functional as F
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
        deep = torch.relu(self.deep(F.avg_pool2d(down, 2)))
        bottom = torch.relu(self.bottom(deep))
        up = torch.relu(self.up(torch.cat([bottom, deep], 1)))
        up = F.interpolate(up, scale_factor=2.0)
        return self.last(torch.cat([up, down], 1))


class Dense(nn.Module):
    """Every layer reads what all the layers before it made."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * depth, 2, 3, padding=1) for depth in range(4))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(torch.relu(layer(torch.cat(found, 1))))
        return self.head(F.adaptive_avg_pool2d(torch.cat(found, 1), 1).flatten(1))


class Resized(nn.Module):
    """Images grow and shrink: transposed, shuffled, interpolated to the size of another, padded, pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="circular")
        self.shuffle = nn.Sequential(nn.Conv2d(4, 8, 1), nn.PixelShuffle(2), nn.ReflectionPad2d(1))
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.mix = nn.Conv2d(4, 3, 3, padding="same", padding_mode="replicate")
        self.pool = nn.AdaptiveMaxPool2d((2, None))

    def forward(self, x: Tensor) -> Tensor:
        low = torch.relu(self.stem(x))
        up, shuffled = self.up(low), torch.tanh(self.shuffle(low))
        shuffled = F.interpolate(shuffled, size=up.shape[-2:], mode="bilinear", align_corners=False)
        x = self.mix(torch.cat([up, shuffled], 1))
        x = F.interpolate(x, scale_factor=1.5, mode="nearest")
        return self.pool(F.pad(x, (1, 0, 0, 1), value=0.5))


class Patches(nn.Module):
    """Patches are unfolded, mixed and folded back, then sampled where a small net looks."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.conv = nn.Linear(8, 8), nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.look, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        pieces = F.unfold(x, 2, stride=2)
        x = F.fold(torch.tanh(self.mix(pieces.mT)).mT, (4, 4), 2, stride=2)
        x = torch.relu(self.conv(x)) + x
        grid = torch.tanh(self.look(x.flatten(1))).view(-1, 4, 4, 2)
        return self.head(F.grid_sample(x, grid, align_corners=False).flatten(1))


MODELS = {
    "convolutions": lambda: (Convs(), (torch.randn(3, 2, 4, 4),)),
    "u-net": lambda: (UNet(), (torch.randn(3, 2, 4, 4),)),
    "dense": lambda: (Dense(), (torch.randn(3, 2, 4, 4),)),
    "resized": lambda: (Resized(), (torch.randn(3, 2, 4, 4),)),
    "patches": lambda: (Patches(), (torch.randn(3, 2, 4, 4),)),
}
