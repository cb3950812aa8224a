"""Layers without a state that holds the past alone are not cut in time, and it is said why."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import dni_fx
from dni_fx.errors import CaptureError, PlanError


class Packs(nn.Module):
    """A layer that is told how long each sample is."""

    def __init__(self):
        super().__init__()
        self.core = nn.GRU(3, 4, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.core(packed)[0], batch_first=True)[0]


class BothWays(nn.Module):
    """A layer that reads a sequence from both ends."""

    def __init__(self):
        super().__init__()
        self.core = nn.GRU(3, 4, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        return self.core(x)[0] * lengths.view(-1, 1, 1)


@pytest.mark.parametrize("plan", ["time:every=2", "balanced:stages=1,time=2"])
@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (
            BothWays,
            "core: it is bidirectional, .* no time at which its state holds the past alone: leave it out",
        ),
        (Packs, "core: it takes a packed sequence, whose samples end at different times: pad the batch and"),
    ],
)
def test_what_has_no_state_to_cut_is_refused_with_the_reason(cls, told, plan):
    with pytest.raises(PlanError, match=told):
        dni_fx.decouple(cls(), (torch.randn(3, 6, 3), torch.tensor([6, 2, 4])), plan=plan)


def test_a_packed_sequence_is_no_batch_of_a_model_that_carries_state():
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    with pytest.raises(
        CaptureError, match=r"passes a PackedSequence .*Pass the padded tensor and the lengths"
    ):
        dni_fx.decouple(nn.GRU(3, 4), (packed, torch.zeros(1, 2, 4)), carry={"hx": 1})
