"""Parameters of one stage, of which each of several replicas keeps a part, by torch's `fully_shard`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from dni_fx.distributed.collectives import gathered, scattered_mean
from dni_fx.distributed.post import Post
from dni_fx.errors import StageError
from dni_fx.gradients import added


class Sharded(nn.Module):
    """Has the whole of some parameters while a stage is run that reads them, and its part of them between.

    The user's parameters stay where they are, and the objects that they are: in a step they look into the
    memory that FSDP has gathered. After it nothing can be written to them, and what is read is NaN. Their
    gradients are handed to FSDP, which leaves the mean over the replicas in `parts`, rows of each parameter.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], mesh: DeviceMesh, post: Post, stage: int, number: int
    ) -> None:
        super().__init__()
        self.originals = tuple(parameters)
        self.post, self.stage, self.number = post, stage, number
        self.is_whole, self._is_running = True, False
        self._hooks: list[RemovableHandle] = []
        for at, each in enumerate(self.originals):
            self.register_parameter(str(at), nn.Parameter(each.detach(), each.requires_grad))
        made = fully_shard(self, mesh=mesh, reshard_after_forward=False)
        made.set_reshard_after_backward(False)  # the originals look into that memory until `rest`
        made.set_gradient_divide_factor(1.0)
        made.set_force_sum_reduction_for_comms(True)
        made.set_custom_all_gather(cast(Any, _Gather(post, f"shards {number}")))
        made.set_custom_reduce_scatter(cast(Any, _Mean(post, f"gradients {number}")))
        self.parts = tuple(self.parameters())

    @override
    def forward(self, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage writes, run with whole parameters. What is in their memory is a copy, as that goes."""
        self._is_running = True
        for original, whole in zip(self.originals, self.parameters(), strict=True):
            original.data = whole.data
            if original.requires_grad:
                hand_over = partial(_hand_over, whole)
                self._hooks.append(original.register_post_accumulate_grad_hook(hand_over))
        memory = {each.untyped_storage().data_ptr() for each in self.originals}

        def kept(value: Tensor) -> Tensor:
            if value.layout == torch.strided and value.untyped_storage().data_ptr() in memory:
                return value.clone()
            return _Unviewed.apply(value) if value.requires_grad and value._is_view() else value

        return pytree.tree_map_only(Tensor, kept, run())

    def rest(self) -> None:
        """Let go of the whole again.

        Raises:
            StageError: gradients have not come to FSDP.
        """
        lost = any(each.grad is not None for each in self.parameters() if not isinstance(each, DTensor))
        self.drop()
        if lost:
            raise StageError(
                f"gradients of stage {self.stage} were computed of which FSDP has seen nothing: no output of "
                "the stage has one. Train it without shards."
            )

    def drop(self) -> None:
        """Let go of the whole again, whatever has become of the gradients."""
        if not self._is_running:
            return
        self._is_running = False
        while self._hooks:
            self._hooks.pop().remove()
        self._let_go()
        cast(FSDPModule, cast(object, self)).reshard()

    @torch.no_grad()
    def begin(self) -> None:
        """Take the parts from the whole parameters, if they are whole, and let go of those."""
        if not self.is_whole:
            return
        for original, part in zip(self.originals, self.parts, strict=True):
            if (original.dtype, original.device) != (part.dtype, part.device):
                raise StageError(
                    f"weights of stage {self.stage} are {original.dtype} on {original.device} now, and their "
                    f"shards {part.dtype} on {part.device}. Convert the model before it is trained."
                )
            part.requires_grad_(original.requires_grad)
            local_of(part).copy_(rows_of(original, self.post.rank, self.post.size))
        self._let_go()
        self.is_whole = False

    @torch.no_grad()
    def fill(self, alone: bool) -> None:
        """Have the parameters whole in all replicas, or `alone` in the first: all do it at once."""
        self.begin()  # they may have been written to meanwhile
        gathering = self.post.collected if alone else self.post.exchanged
        told = list(gathering(f"rows {self.number}", [local_of(part) for part in self.parts]))
        if not told:
            return
        for original, *rows in zip(self.originals, *told, strict=True):
            original.data = torch.cat(rows)
        self.is_whole = True

    def renew(self) -> None:
        """Have memory for the whole parameters, of any values until they are written."""
        for original in self.originals:
            original.data = torch.empty(original.shape, dtype=original.dtype, device=original.device)
        self.is_whole = True

    def _let_go(self) -> None:
        for original in self.originals:
            nothing = torch.full((), torch.nan, dtype=original.dtype, device=original.device)
            original.data = nothing.expand(original.shape)


def local_of(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process has, in its memory."""
    return cast(DTensor, tensor.detach()).to_local()


def rows_of(tensor: Tensor, rank: int, count: int) -> Tensor:
    """The rows of a tensor that FSDP gives to one of so many replicas."""
    parts = tensor.detach().chunk(count)
    return parts[rank] if rank < len(parts) else tensor.detach()[:0]


def _hand_over(whole: nn.Parameter, original: Tensor) -> None:
    whole.grad = added([whole.grad, original.grad])
    original.grad = None


class _Unviewed(torch.autograd.Function):
    """The identity. FSDP warns of views: it hears of no gradient of one that is written to later.

    What a stage writes is not written to by others, which have a copy for that.
    """

    @staticmethod
    @override
    def forward(value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        return

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0]


class _Wired:
    """What FSDP asks of a collective, by the wire."""

    def __init__(self, post: Post, topic: str) -> None:
        self.post, self.topic = post, topic

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for what is sent, or received."""
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Wired):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> None:
        told = gathered(self.post, self.topic, input_tensor)
        for rank, part in enumerate(output_tensor.chunk(self.post.size)):
            if rank != self.post.rank:  # its own is there already
                part.copy_(told[rank])


class _Mean(_Wired):
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        output_tensor.copy_(scattered_mean(self.post, self.topic, input_tensor.chunk(self.post.size)))
