"""Models that compute with complex numbers, or back and forth."""

import torch
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class Fourier(nn.Module):
    """Layers that multiply spectra: values and weights are complex in between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.filters = nn.ParameterList(torch.randn(WIDTH // 2 + 1, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer, weight in zip(self.layers, self.filters, strict=False):
            spectrum = torch.fft.rfft(torch.tanh(layer(x)), dim=-1) * torch.view_as_complex(weight)
            x = torch.fft.irfft(spectrum, n=WIDTH, dim=-1) + x
        return self.layers[2](x)


class ComplexBetween(Chain):
    """Complex values are all there is between two layers: a cut may have to lie elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x))))
        wave = torch.polar(torch.ones_like(x), x) * torch.tensor(1j)
        wave = wave * wave.conj().roll(1, -1)
        x = torch.tanh(self.layers[2](wave.real + wave.imag.square()))
        return self.layers[4](torch.tanh(self.layers[3](x)))


class Coupling(nn.Module):
    """Halves take turns in changing one another, and the volume change is summed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, WIDTH)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        volume = x.new_zeros(len(self.nets)).sum()
        left, right = x[:, :3], x[:, 3:]
        for net in self.nets:
            shift, scale = net(left).split(3, -1)
            left, right = right * torch.tanh(scale).exp() + shift, left
            volume = volume + torch.tanh(scale).sum(-1)
        return torch.cat([left, right], -1), volume


MODELS = {
    "fourier": lambda: (Fourier(), rows()),
    "complex-between": lambda: (ComplexBetween(), rows()),
    "coupling": lambda: (Coupling(), rows()),
}
