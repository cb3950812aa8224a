"""Models with every kind of normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class OneSampleNorms(Chain):
    """Norms over the features of one sample: layer, root mean square, group, and by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.root, self.group = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH), nn.GroupNorm(2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(self.layers[0](x)))
        x = torch.tanh(self.root(self.layers[1](x)))
        x = torch.tanh(self.group(self.layers[2](x)))
        x = self.layers[3](x)
        return self.layers[4]((x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5))


class BatchNorms(Chain):
    """Batch norms that keep no statistics, that have no parameters, and one whose statistics are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.BatchNorm1d(WIDTH)
        self.stateless = nn.BatchNorm1d(WIDTH, track_running_stats=False)
        self.plain = nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        fixed = self.fixed
        x = self.layers[0](x)
        x = torch.tanh(F.batch_norm(x, fixed.running_mean, fixed.running_var, fixed.weight, fixed.bias))
        x = torch.tanh(self.stateless(self.layers[1](x)))
        x = torch.tanh(self.plain(self.layers[2](x)))
        return self.layers[4](torch.tanh(self.layers[3](x)))


class InstanceNorms(nn.Module):
    """Norms over each image, with running statistics and without."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(
            [
                nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
                nn.InstanceNorm2d(2),
                nn.GroupNorm(1, 2),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return x.mean((2, 3))


MODELS = {
    "one-sample-norms": lambda: (OneSampleNorms(), rows()),
    "batch-norms": lambda: (BatchNorms(), rows()),
    "instance-norms": lambda: (InstanceNorms(), (torch.randn(3, 2, 4, 4),)),
}
