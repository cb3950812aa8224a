"""Models that index, sort and route: whole numbers decide which values meet."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class Embeddings(nn.Module):
    """Sparse gradients, a padding row, a bag of words, and a table read by arithmetic on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse = nn.Embedding(7, WIDTH, sparse=True)
        self.padded = nn.Embedding(7, WIDTH, padding_idx=0)
        self.bag = nn.EmbeddingBag(7, WIDTH, mode="mean")
        self.first, self.second, self.head = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.sparse(tokens).mean(1)))
        x = torch.tanh(self.second(x + self.bag(tokens)))
        return self.head(x + self.padded((tokens * 3) % 7)[:, -1])


class GraphLayers(nn.Module):
    """Messages run along edges that are an input, gathered and added up by whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        for layer in self.layers:
            messages = torch.tanh(layer(torch.cat([x[:, source], x[:, target]], -1)))
            index = target.view(1, -1, 1).expand_as(messages)
            x = x + torch.zeros_like(x).scatter_add(1, index, messages)
        return self.head(x.amax(1))


class Mixture(nn.Module):
    """Two experts of four count for each sample; all four are computed, and a balance loss is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.router, self.outer = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 4),
            nn.Linear(WIDTH, 3),
        )
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.inner(x))
        shares = self.router(x).softmax(-1)
        weights, chosen = shares.topk(2, -1)
        gates = torch.zeros_like(shares).scatter(1, chosen, weights / weights.sum(-1, keepdim=True))
        found = torch.stack([torch.tanh(expert(x)) for expert in self.experts], 1)
        x = torch.einsum("be,bef->bf", gates, found)
        load = F.one_hot(chosen[:, 0], 4).to(x.dtype).mean(0)
        return self.outer(x), 4 * (load * shares.mean(0)).sum()


class Sorts(Chain):
    """Values are sorted, ranked, gathered back, summed along the way, and searched."""

    def forward(self, x: Tensor) -> Tensor:
        x, order = torch.sort(torch.tanh(self.layers[0](x)), dim=1)
        x = torch.tanh(self.layers[1](x)).gather(1, order.argsort(1))
        best, where = x.max(1, keepdim=True)
        x = torch.tanh(self.layers[2](x.cumsum(1) - best)) * (1 + where)
        x = torch.cat([x.kthvalue(2, 1, keepdim=True)[0], x.median(1, keepdim=True).values, x[:, 2:]], 1)
        x = torch.tanh(self.layers[3](x)).take_along_dim(torch.searchsorted(x.sort(1)[0], best), 1)
        return self.layers[4](x.expand(-1, WIDTH))


class Quantized(Chain):
    """The nearest vectors of a codebook replace a value, whose gradient passes straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(5, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x))))
        found = self.codes(torch.cdist(x, self.codes.weight).argmin(1))
        loss = F.mse_loss(found, x.detach()) + 0.25 * F.mse_loss(x, found.detach())
        x = x + (found - x).detach()
        return self.layers[4](torch.tanh(self.layers[3](torch.tanh(self.layers[2](x))))), loss


MODELS = {
    "embeddings": lambda: (Embeddings(), (torch.randint(7, (3, 4)),)),
    "graph-layers": lambda: (
        GraphLayers(),
        (torch.randn(3, 4, WIDTH), torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])),
    ),
    "mixture-of-experts": lambda: (Mixture(), rows()),
    "sorts": lambda: (Sorts(), rows()),
    "quantized": lambda: (Quantized(), rows()),
}
