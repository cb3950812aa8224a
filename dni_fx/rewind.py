"""Going back to before a graph was run, where the data turns out to take another way."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch
from torch import Tensor, nn

from dni_fx.calls import Call
from dni_fx.program import Capture, modules_of
from dni_fx.randomness import random_state, set_random_state
from passes.branches import BranchError
from passes.values import value_of


@contextlib.contextmanager
def rewound(tree: nn.Module, capture: Capture, call: Call, always: bool = False) -> Generator[None]:
    """What a run writes to, and random state, are as before if the run inside takes another way.

    With `always` they are so after any run. A graph without branches costs nothing, and is never taken back.
    """
    if not capture.ways:
        yield
        return
    state = random_state()
    before = [(tensor, tensor.detach().clone()) for tensor in _written(tree, capture, call)]
    again = always
    try:
        yield
    except BranchError:
        again = True
        raise
    finally:
        if again:
            set_random_state(state)
            with torch.no_grad():
                for tensor, kept in before:
                    tensor.copy_(kept)


def _written(tree: nn.Module, capture: Capture, call: Call) -> list[Tensor]:
    """Every buffer, and each input and parameter that the graph writes to."""
    buffers = [
        buffer
        for module in modules_of(tree)
        for buffer in vars(module)["_buffers"].values()
        if buffer is not None
    ]
    written = {name for node in capture.graph.nodes for name in value_of(node).mutates}
    inputs = [node.name for node in capture.graph.nodes if node.op == "placeholder"]
    leaves = [leaf for name, leaf in zip(inputs, call.leaves, strict=True) if name in written]
    paths = {
        str(node.target) for node in capture.graph.nodes if node.op == "get_attr" and node.name in written
    }
    named = tree.named_parameters(remove_duplicate=False)
    return [*buffers, *leaves, *(parameter for path, parameter in named if path in paths)]
