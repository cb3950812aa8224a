"""Optimizers of parameters of which each of several replicas keeps a part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.optim import Optimizer
from typing_extensions import override

from dni_fx.distributed.collectives import gathered
from dni_fx.distributed.post import Post
from dni_fx.errors import StageError, first_line
from dni_fx.runtimes.moved import Moved
from dni_fx.runtimes.sharded import Sharded, local_of, rows_of

_T = TypeVar("_T")

_ADVICE = "Train without shards, or choose an optimizer that moves each number by itself, such as Adam."


class Parts(Moved):
    """Optimizers move parts of parameters, and what they keep of those is parted in the same way.

    As a whole, and in checkpoints, their state is that of an optimizer that moves all.
    """

    def __init__(self, post: Post) -> None:
        self.post = post
        self._known: dict[nn.Parameter, nn.Parameter] = {}

    def add(self, sharded: Sharded) -> None:
        """Move the parts of these from now on."""
        self._known |= zip(sharded.originals, sharded.parts, strict=True)

    @override
    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        return self._known.get(parameter, parameter)

    @override
    def is_part(self, tensor: Tensor) -> bool:
        return isinstance(tensor, DTensor)

    @override
    def put(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (part := self.of(parameter)) is not parameter and parameter in optimizer.state:
                    kept = optimizer.state.pop(parameter)
                    optimizer.state[part] = {key: self._part(part, value) for key, value in kept.items()}
            group["params"] = [self.of(parameter) for parameter in group["params"]]

    @override
    def divided(self, optimizer: Optimizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
        keys = chain.from_iterable(group["params"] for group in state["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        known = dict(zip(keys, parameters, strict=False))  # torch says what does not fit
        if not any(isinstance(each, DTensor) for each in known.values()):
            return state
        divided = {
            key: {name: self._part(known[key], value) for name, value in kept.items()}
            if key in known
            else kept
            for key, kept in state["state"].items()
        }
        return {**state, "state": divided}

    @override
    @torch.no_grad()
    def gathered(self, tree: _T, alone: bool) -> _T:
        parts = [each for each in pytree.tree_leaves(tree) if isinstance(each, DTensor)]
        gathering = self.post.collected if alone else self.post.exchanged
        told = list(gathering("moments", [local_of(each) for each in parts]))
        whole = {part: torch.cat(rows) for part, *rows in zip(parts, *told, strict=True)} if told else {}
        return pytree.tree_map_only(DTensor, lambda part: whole.get(part, part), tree)

    @override
    def step(self, optimizer: Optimizer) -> None:
        moves = [each for group in optimizer.param_groups for each in group["params"]]
        if not any(isinstance(each, DTensor) for each in moves):
            optimizer.step()
            return
        try:
            with implicit_replication():  # where it moves many tensors at once, and some are whole
                optimizer.step()
        except RuntimeError as error:
            kind, why = type(optimizer).__name__, first_line(error).rstrip(".")
            raise StageError(f"{kind} cannot move weights that replicas share: {why}. {_ADVICE}") from error
        _refuse_other_state(optimizer)

    @override
    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> None:
        found = [each.grad for each in parameters if each.grad is not None]
        parts = [local_of(each) for each in found if isinstance(each, DTensor)]
        whole = [each for each in found if not isinstance(each, DTensor)]
        if not found:
            return
        squares = [nn.utils.get_total_norm(whole).square()] if whole else []
        if parts:
            squares += gathered(self.post, "norm", nn.utils.get_total_norm(parts).square())
        factor = (most / (torch.stack(squares).sum().sqrt() + 1e-6)).clamp(max=1.0)
        for each in (*parts, *whole):
            each.mul_(factor)

    def _part(self, part: nn.Parameter, value: Any) -> Any:
        """This process's part of what is kept of a parameter: of tensors of its shape."""
        if not isinstance(part, DTensor) or not isinstance(value, Tensor) or value.shape != part.shape:
            return value
        rows = rows_of(value, self.post.rank, self.post.size).clone()
        return DTensor.from_local(
            rows,
            part.device_mesh,
            part.placements,
            run_check=False,
            shape=part.shape,
            stride=part.stride(),
        )


def _refuse_other_state(optimizer: Optimizer) -> None:
    """Do nothing if what is kept of a part is parted like it, or one number.

    Raises:
        StageError: it is not, and would not be whole in a checkpoint.
    """
    for part, kept in optimizer.state.items():
        if not isinstance(part, DTensor):
            continue
        for key, value in kept.items():
            if not isinstance(value, Tensor) or value.numel() < 2:
                continue
            placements = cast(Any, value).placements if isinstance(value, DTensor) else None
            if value.shape != part.shape or placements != part.placements:
                raise StageError(
                    f"{type(optimizer).__name__} keeps {key} of shape {tuple(value.shape)} for a parameter "
                    f"of shape {tuple(part.shape)}, which cannot be shared like it. {_ADVICE}"
                )
