"""A guess by a small network that looks along a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.layers import hidden_layers, last_layer
from dni_fx.synthesizers.layout import Context, Layout, normalized, spoken_of
from passes import BoundarySpec, SpecError, ValueSpec

_MIXINGS = ("attention", "conv", "none")


@dataclass(frozen=True)
class Sequence(Synthesizer):
    """`depth` hidden layers of `hidden` units, each mixed over time, for values `(batch, time, features)`.

    `mixing=attention` looks at all tokens, past and future, since the gradient of a token comes from later
    ones; `heads` is lowered to a divisor of the width. `mixing=conv` looks at `kernel` neighboring tokens,
    and `mixing=none` is `mlp`. `hidden=0` is as wide as the value, within 64 to 1024. Any length will do.

    Labels of the value's tokens `(batch, time)`, or of samples `(batch,)`, are added to the tokens that they
    speak of. Those of another sequence, `(batch, other)`, attention reads as tokens of their own. (It could
    read those of samples, too, but among 256 tokens it took ten times as long to find them.)

    Sources:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sections 3.2 (attention) and 3.5 (positions).
    """

    name = "sequence"

    hidden: int = 0
    depth: int = 1
    mixing: str = "attention"
    heads: int = 4
    kernel: int = 5

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise SpecError(
                f"sequence.hidden is 1 or more, or 0 for as wide as the value, not {self.hidden}."
            )
        for field in ("depth", "heads", "kernel"):
            if getattr(self, field) < 1:
                raise SpecError(f"sequence.{field} is 1 or more, not {getattr(self, field)}.")
        if self.mixing not in _MIXINGS:
            raise SpecError(f"sequence.mixing is attention, conv or none, not {self.mixing!r}.")
        if self.kernel % 2 == 0:
            raise SpecError(
                f"sequence.kernel is odd, so that a token stands in its middle, not {self.kernel}."
            )

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        layout = Layout.of(self, spec)
        if (value := next((each for each in spec.values if not _is_sequence(each)), None)) is not None:
            raise SynthesizerError(
                f"cannot build {layout.place}: the value has shape {value.shape}, its batch in dimension "
                f"{value.batch_dim} and its features in dimension {value.feature_dim}. A sequence is "
                "(batch, time, features), in any order. Use mlp or auto here."
            )
        return _Sequence(layout, self)


class _Sequence(Learner):
    def __init__(self, layout: Layout, choice: Sequence) -> None:
        super().__init__()
        self.layout = layout
        self.reads_tokens = choice.mixing == "attention"
        hidden = choice.hidden or layout.hidden
        self.hidden = hidden_layers(layout.features, hidden, choice.depth, layout.dtype)
        self.mixing = nn.ModuleList(_mixing(choice, hidden, layout.dtype) for _ in self.hidden)
        self.context = Context(layout, hidden)
        self.last = last_layer(hidden, layout.features, layout.dtype)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        inside = normalized(self.layout.join(values).to(self.last.weight.dtype), self.layout.widths)
        labels = None
        for position, (layer, mix) in enumerate(zip(self.hidden, self.mixing, strict=True)):
            inside = layer(inside)
            if position == 0 and context is not None:
                labels = self._labels(inside, context)
                inside = inside if labels else self.context(inside, context)
            inside = F.relu(_norm(mix(inside, labels)))
        return Guess(self.layout.split(self.last(inside), values))

    def _labels(self, inside: Tensor, context: Tensor) -> tuple[Tensor, Tensor] | None:
        """The rows `(batch, n, width)` of labels of another sequence, and which of them say anything."""
        batch, time = inside.shape[:2]
        part = spoken_of(context)
        if not self.reads_tokens or part[:1] != (batch,) or part[1:2] in ((), (time,)):
            return None
        rows = self.context.rows(context, part)
        said = context.any(-1) if context.is_floating_point() else context.long() >= 0
        return rows.reshape(batch, -1, rows.shape[-1]), said.reshape(batch, -1)


class _Attention(nn.Module):
    """Adds to each token what it finds in all tokens, and in the labels."""

    def __init__(self, width: int, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = max(count for count in range(1, heads + 1) if width % count == 0)
        # A bias of the keys would cancel in the softmax.
        self.read = nn.Linear(width, 3 * width, bias=False, dtype=dtype, device="cpu")
        self.write = nn.Linear(width, width, dtype=dtype, device="cpu")

    @override
    def forward(self, inside: Tensor, labels: tuple[Tensor, Tensor] | None) -> Tensor:
        time = inside.shape[1]
        tokens, mask = _placed(_norm(inside)), None
        if labels is not None:
            rows, said = labels
            tokens = torch.cat([tokens, _placed(_norm(rows))], 1)
            mask = torch.cat([said.new_ones(inside.shape[:2]), said], 1)[:, None, None]
        by_head = self.read(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = by_head.unbind()
        found = F.scaled_dot_product_attention(query[:, :, :time], key, value, attn_mask=mask)
        return inside + self.write(found.transpose(1, 2).flatten(2))


class _Convolution(nn.Module):
    """Adds to each token what it finds in its neighbors."""

    def __init__(self, width: int, kernel: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Conv1d(width, width, kernel, padding=kernel // 2, dtype=dtype, device="cpu")

    @override
    def forward(self, inside: Tensor, labels: tuple[Tensor, Tensor] | None) -> Tensor:
        return inside + self.layer(_norm(inside).movedim(-1, 1)).movedim(1, -1)


class _Alone(nn.Module):
    """Leaves each token to itself."""

    @override
    def forward(self, inside: Tensor, labels: tuple[Tensor, Tensor] | None) -> Tensor:
        return inside


def _mixing(choice: Sequence, width: int, dtype: torch.dtype) -> nn.Module:
    if choice.mixing == "attention":
        return _Attention(width, choice.heads, dtype)
    return _Convolution(width, choice.kernel, dtype) if choice.mixing == "conv" else _Alone()


def _is_sequence(value: ValueSpec) -> bool:
    return len(value.shape) == 3 and value.batch_dim in range(3) and value.feature_dim % 3 != value.batch_dim


def _norm(inside: Tensor) -> Tensor:
    return F.layer_norm(inside, inside.shape[-1:])


def _placed(tokens: Tensor) -> Tensor:
    """Tokens `(batch, time, width)` and waves that tell their positions, of any number, apart."""
    time, width = tokens.shape[1:]
    half = (width + 1) // 2
    rates = 10_000.0 ** -(torch.arange(half, device=tokens.device) / half)
    angles = torch.arange(time, device=tokens.device).unsqueeze(-1) * rates
    waves = torch.cat([angles.sin(), angles.cos()], -1)[:, :width]
    return tokens + waves.to(tokens.dtype)
