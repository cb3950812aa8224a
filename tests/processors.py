"""What torch has for this processor."""

import copy

import torch


def runs_in_half(model, *inputs):
    """Whether torch itself can run a model under autocast: it has not every layer for every processor."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            copy.deepcopy(model)(*inputs)
    except RuntimeError:
        return False
    return True
