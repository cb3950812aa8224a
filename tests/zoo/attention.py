"""Models that attend: masks, torch's fused layers, and their fast path in eval mode."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH


class OwnAttention(nn.Module):
    """Causal attention by the fused function and by hand, over one projection cut in three."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project[0](x).chunk(3, -1)
        found = F.scaled_dot_product_attention(*map(self.heads, (q, k, v)), is_causal=True)
        x = x + self.out[0](found.transpose(1, 2).flatten(2))
        q, k, v = (self.heads(self.project[1](x)[..., at : at + WIDTH]) for at in (0, WIDTH, 2 * WIDTH))
        mask = x.new_ones(x.size(1), x.size(1)).triu(1).bool()
        scores = (q @ k.transpose(-2, -1) / q.size(-1) ** 0.5).masked_fill(mask, float("-inf"))
        return x + self.out[1]((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Padded(nn.Module):
    """Padding is found among the tokens and masked in every layer of torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, WIDTH, padding_idx=0)
        self.attend = nn.ModuleList(nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        padding, x = tokens == 0, self.words(tokens)
        x = self.norms[0](x + self.attend[0](x, x, x, key_padding_mask=padding, need_weights=False)[0])
        found, weights = self.attend[1](x, x, x, key_padding_mask=padding, average_attn_weights=False)
        x = self.norms[1](x + found).masked_fill(padding[..., None], 0.0)
        return self.head(x.sum(1) / (~padding).sum(1, keepdim=True)), weights


class Encoder(nn.Module):
    """Torch's own encoder, which has a fast path in eval mode, before layers of the model."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 4, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, 16), nn.Linear(16, 16), nn.Linear(16, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class CrossAttention(nn.Module):
    """A decoder layer with a causal mask reads another sequence; the batch is the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.embed = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.decoder = nn.TransformerDecoderLayer(WIDTH, 2, 4, 0.0)
        self.head = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = torch.tanh(self.encoder(source))
        mask = target.new_full((4, 4), float("-inf")).triu(1)
        target = self.decoder(torch.tanh(self.embed(target)), memory, tgt_mask=mask)
        return self.head(target)


MODELS = {
    "own-attention": lambda: (OwnAttention(), (torch.randn(3, 4, WIDTH),)),
    "padding-mask": lambda: (
        Padded(),
        (torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 1, 0]]),),
    ),
    "fast-path": lambda: (Encoder(), (torch.randn(3, 4, WIDTH),)),
    "cross-attention": lambda: (CrossAttention(), (torch.randn(5, 3, WIDTH), torch.randn(4, 3, WIDTH))),
}
