from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from passes.one_step import OneStep
from tests.passes.graphs import last, whole

Kind = Callable[..., nn.RNNBase]
KINDS: list[Kind] = [
    nn.LSTM,
    nn.GRU,
    nn.RNN,
    lambda *args, **kwargs: nn.RNN(*args, nonlinearity="relu", **kwargs),
]


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def dispatched(layer: nn.Module, x: Tensor) -> int:
    with Counter() as counter, OneStep(lambda _: torch.enable_grad()):
        layer(x)
    return counter.count


@pytest.mark.parametrize("kind", KINDS)
def test_long_sequences_run_no_more_operations_than_short_ones(kind: Kind) -> None:
    layer = kind(3, 4)
    assert dispatched(layer, torch.zeros(64, 2, 3)) == dispatched(layer, torch.zeros(2, 2, 3))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_all_steps(kind: Kind, bidirectional: bool, batch_first: bool) -> None:
    layer = kind(3, 4, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    x = torch.zeros(5, 6, 3)
    with OneStep(lambda _: torch.enable_grad()):
        output, states = layer(x)
    real, real_states = layer(x)
    assert output.shape == real.shape
    if isinstance(states, tuple):
        assert [state.shape for state in states] == [state.shape for state in real_states]
    else:
        assert states.shape == real_states.shape


def test_the_number_of_steps_after_the_first_is_told() -> None:
    told: list[int] = []

    def repeated(steps: int) -> torch.enable_grad:
        told.append(steps)
        return torch.enable_grad()

    with OneStep(repeated):
        nn.GRU(3, 4)(torch.zeros(7, 2, 3))
        nn.GRU(3, 4, batch_first=True)(torch.zeros(7, 2, 3))
    assert told == [6, 1]


def test_packed_sequences_run_as_they_are() -> None:
    layer = nn.GRU(3, 4)
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 3), torch.ones(2, 3)])
    with OneStep(lambda _: torch.enable_grad()):
        output, _ = layer(packed)
    assert torch.equal(output.data, layer(packed)[0].data)


# Exporting a recurrent layer says that it keeps its weights in a list.
@pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")
def test_an_exported_layer_takes_two_steps_too() -> None:
    gm = torch.export.export(nn.GRU(3, 4), (torch.zeros(16, 2, 3),)).module()
    x = torch.zeros(16, 2, 3)
    assert isinstance(gm, fx.GraphModule)
    with Counter() as counter, OneStep(lambda _: torch.enable_grad()):
        gm(x)
    short = counter.count
    with Counter() as counter:
        gm(x)
    assert short < counter.count / 3


def test_the_output_depends_on_gradients_as_the_layer_does() -> None:
    layer = nn.GRU(3, 4)
    assert last(whole(layer, torch.zeros(5, 2, 3))).requires_grad
    assert not last(whole(layer.requires_grad_(False), torch.zeros(5, 2, 3))).requires_grad
