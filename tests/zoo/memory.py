"""Models that write to memory which other values share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class WritesWhatCrosses(Chain):
    """Views of a crossing value are written in later stages, and the value itself is read after that."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.layers[0](x)) * 1
        second = torch.tanh(self.layers[1](first + 0))
        first[:, 1:].mul_(2.0)
        third = torch.tanh(self.layers[2](second + first))
        first.t().add_(1.0)
        return self.layers[4](torch.tanh(self.layers[3](third + first)))


class WrittenBeforeItIsRead(Chain):
    """Views are taken early, the value is written, and the views are read in later stages."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x) + 0
        left, right = x[:, :3], x[:, 3:]
        window = x.as_strided((x.shape[0], 2), (WIDTH, 1), 2)
        column = x[:, :1].expand(-1, 3)
        x.clamp_(-0.5, 0.5)
        y = torch.tanh(self.layers[1](torch.tanh(x)))
        y = torch.tanh(self.layers[2](torch.cat([left * right, column + y[:, :3]], 1)))
        y = torch.tanh(self.layers[3](y))
        return self.layers[4](y * window.sum(1, keepdim=True))


class WritesPieces(Chain):
    """Pieces of a value are written one by one, each with what was made of another."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers[0](x)).clone()
        a, b, c = x[:, :2], x[:, 2:4], x.narrow(1, 4, 2)
        b.add_(a)
        c.copy_(b * 2)
        x = torch.tanh(self.layers[1](x)) * 1
        x.masked_fill_(x < -0.3, 0.0)
        y = torch.tanh(self.layers[2](x))
        y = torch.zeros_like(y).index_add_(0, torch.arange(y.shape[0], device=y.device), y)
        return self.layers[4](torch.tanh(self.layers[3](y)))


class WritesElements(Chain):
    """Index assignments, by place and by mask, to a value that a later stage reads."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x)))) * 1
        x[:, 0] = 0.5
        x[x > 0.6] = 0.6
        x[:, 1:3] += x[:, 3:5]
        return self.layers[4](torch.tanh(self.layers[3](torch.tanh(self.layers[2](x)))))


class WritesItsInput(Chain):
    """The caller's count is raised in the first stage and read in the last, and returned as well."""

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.layers[0](x))
        seen.add_(1)
        for layer in self.layers[1:]:
            x = torch.tanh(layer(x))
        return x / seen.unsqueeze(1), seen


class WritesBuffers(Chain):
    """A running mean is moved in place, a count assigned, a queue written in one place."""

    mean: Tensor
    count: Tensor
    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("queue", torch.zeros(4, WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x))))
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            self.queue[1] = x.detach()[0]
        x = torch.tanh(self.layers[2](x - self.mean))
        self.count = self.count + 1
        x = torch.tanh(self.layers[3](x + self.queue.mean(0)))
        return self.layers[4](x) / self.count


class ActivationsInPlace(Chain):
    """Activations and sums write over values that a later layer reads, and over one that crosses."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layers[0](x))
        y = self.layers[1](x)
        y.add_(x)
        z = self.drop(self.layers[2](F.elu(y, inplace=True)))
        z = self.layers[3](z.add_(y).tanh_())
        return self.layers[4](z.sigmoid_() + x)


MODELS = {
    "writes-what-crosses": lambda: (WritesWhatCrosses(), rows()),
    "written-before-it-is-read": lambda: (WrittenBeforeItIsRead(), rows()),
    "writes-pieces": lambda: (WritesPieces(), rows()),
    "writes-elements": lambda: (WritesElements(), rows()),
    "writes-its-input": lambda: (WritesItsInput(), (*rows(), torch.tensor([0, 2, 5]))),
    "writes-buffers": lambda: (WritesBuffers(), rows()),
    "activations-in-place": lambda: (ActivationsInPlace(), rows()),
}
