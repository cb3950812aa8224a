"""Recurrent layers that run in chunks of time, with a boundary on the state from one chunk to the next.

    inputs ──[0:T]──▶ layer ──▶ outputs     [T:2T]──▶ layer ──▶ outputs
                        └─ state ─▶ boundary ─ state ─▶┘

The length of the input says how often the boundary is called. What is called here stands in graphs, so the
arguments are those that graphs have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, ...]

_Run = Callable[[Tensor, State, int], tuple[Tensor, State]]
"""Outputs and state of a chunk, given its inputs, the state before it and the step at which it starts."""

_BATCH = 1
"""The dimension of the batch in the state of every recurrent layer: (layers, batch, features)."""


def call_in_chunks(
    layer: nn.RNNBase, boundary: nn.Module, every: int, inputs: Tensor, state: Any = None
) -> Any:
    """What a layer returns for a batch of sequences, to rounding; the boundary is called every so many steps.

    Between stacked layers on a CPU dropout draws what it draws for the whole sequence; elsewhere it draws for
    each chunk.
    """
    given: State = () if state is None else state if isinstance(state, tuple) else (state,)
    length = inputs.shape[1 if layer.batch_first else 0]
    if length <= every:
        return layer(inputs, state)
    if layer.training and _is_replayed(inputs, layer.num_layers, layer.dropout):
        weights: list[Tensor] = [weight for part in layer.all_weights for weight in part]
        returned = operate_in_chunks(
            *(layer.mode.lower(), boundary, every, inputs, given or _zeros(layer, inputs), weights),
            *(layer.bias, layer.num_layers, layer.dropout, True, False, layer.batch_first),
        )
        return returned[0], (tuple(returned[1:]) if layer.mode == "LSTM" else returned[1])

    def run(chunk: Tensor, before: State, start: int) -> tuple[Tensor, State]:
        outputs, after = layer(chunk, before if len(before) > 1 else next(iter(before), None))
        return outputs, after if isinstance(after, tuple) else (after,)

    outputs, after = _chunked(run, boundary, every, inputs, given, layer.batch_first)
    return outputs, _unwrapped(after)


def operate_in_chunks(
    kind: str,
    boundary: nn.Module,
    every: int,
    inputs: Tensor,
    state: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Like `call_in_chunks`, for torch's operators: outputs and each part of the state, in one tuple."""
    given = (state,) if isinstance(state, Tensor) else tuple(state)
    stack = _Stack(
        getattr(torch, kind), weights, has_biases, layers, dropout, train, bidirectional, batch_first
    )
    if inputs.shape[1 if batch_first else 0] <= every:
        outputs, after = stack.run(inputs, given, 0)
    elif train and _is_replayed(inputs, layers, dropout):
        noise = _noise(inputs, given[0].shape[-1], layers - 1, dropout, batch_first)
        outputs, after = _chunked(
            partial(stack.run_apart, noise), boundary, every, inputs, given, batch_first
        )
    else:
        outputs, after = _chunked(stack.run, boundary, every, inputs, given, batch_first)
    return (outputs, *after)


@dataclass(frozen=True)
class _Stack:
    """The layers that one call of an operator of torch runs, with its arguments after the state."""

    operator: Callable[..., tuple[Tensor, ...]]
    weights: Sequence[Tensor]
    has_biases: bool
    layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool

    def run(self, chunk: Tensor, before: State, start: int) -> tuple[Tensor, State]:
        """All layers at once."""
        return self._run(chunk, before, self.weights, self.layers, self.dropout)

    def run_apart(
        self, noise: Sequence[Tensor], chunk: Tensor, before: State, start: int
    ) -> tuple[Tensor, State]:
        """One layer after the other; between them, `noise` of the whole sequence in the place of dropout."""
        each, dim = len(self.weights) // self.layers, 1 if self.batch_first else 0
        made: list[State] = []
        for at in range(self.layers):
            mine = self.weights[at * each : (at + 1) * each]
            chunk, after = self._run(chunk, tuple(part[at : at + 1] for part in before), mine, 1, 0.0)
            made.append(after)
            if at < self.layers - 1:
                chunk = chunk * noise[at].narrow(dim, start, chunk.shape[dim])
        return chunk, tuple(torch.cat(parts) for parts in zip(*made, strict=True))

    def _run(
        self, chunk: Tensor, before: State, weights: Sequence[Tensor], layers: int, dropout: float
    ) -> tuple[Tensor, State]:
        state = list(before) if self.operator is torch.lstm else _unwrapped(before)
        switches = (layers, dropout, self.train, self.bidirectional, self.batch_first)
        outputs, *after = self.operator(chunk, state, weights, self.has_biases, *switches)
        return outputs, tuple(after)


def batch_in_front(value: Tensor, dim: int) -> Tensor:
    """As a boundary has it: `(batch, features)` where the batch is dimension `dim` and not in front."""
    return value.movedim(dim, 0).flatten(1) if dim else value


def as_it_was(row: Tensor, like: Tensor, dim: int) -> Tensor:
    """The inverse of `batch_in_front`, in the shape of another tensor."""
    return row.reshape(like.movedim(dim, 0).shape).movedim(0, dim) if dim else row


def _chunked(
    run: _Run, boundary: nn.Module, every: int, inputs: Tensor, state: State, batch_first: bool
) -> tuple[Tensor, State]:
    dim = 1 if batch_first else 0
    length = inputs.shape[dim]
    outputs: list[Tensor] = []
    for start in range(0, length, every):
        if start:
            state = _passed(boundary, state)
        made, state = run(inputs.narrow(dim, start, min(every, length - start)), state, start)
        outputs.append(made.transpose(0, dim))
    return torch.cat(outputs).transpose(0, dim), state  # laid out in memory as the layer does it


def _passed(boundary: nn.Module, state: State) -> State:
    """The state behind the boundary, which sees one row for each sample."""
    sent: Any = boundary(*(batch_in_front(part, _BATCH) for part in state))
    rows: State = sent if len(state) > 1 else (sent,)
    pairs = zip(rows, state, strict=True)
    back = tuple(as_it_was(row, part, _BATCH).contiguous() for row, part in pairs)
    # A compiler that stops at each layer would take a view of what comes in for what comes in.
    return tuple(part.clone() for part in back) if torch.compiler.is_compiling() else back


def _unwrapped(state: State) -> Any:
    """One tensor by itself, several in a tuple."""
    first, *rest = state
    return state if rest else first


def _is_replayed(inputs: Tensor, layers: int, dropout: float) -> bool:
    """Whether it is known which random numbers dropout between the layers draws for the whole sequence."""
    return inputs.device.type == "cpu" and layers > 1 and dropout > 0


def _noise(inputs: Tensor, features: int, count: int, dropout: float, batch_first: bool) -> list[Tensor]:
    """What dropout multiplies the outputs of each layer but the last by, drawn as the layers draw it."""
    length, batch = inputs.shape[:2] if not batch_first else reversed(inputs.shape[:2])
    ones = inputs.new_ones(length, batch, features)
    drawn = [F.dropout(ones, dropout, training=True) for _ in range(count)]
    return [each.transpose(0, 1) for each in drawn] if batch_first else drawn


def _zeros(layer: nn.RNNBase, inputs: Tensor) -> State:
    batch = inputs.shape[0 if layer.batch_first else 1]
    h = inputs.new_zeros(layer.num_layers, batch, layer.proj_size or layer.hidden_size)
    return (h, inputs.new_zeros(layer.num_layers, batch, layer.hidden_size)) if layer.mode == "LSTM" else (h,)
