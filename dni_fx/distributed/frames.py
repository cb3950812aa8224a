"""One message as blocks of one size, and the memory of large tensors behind them.

gloo holds back what is sent until it is told that the receiver is ready for it, which takes a way there and
back. So blocks are received into memory that waits for them all the time, and tensors while others come.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dni_fx.distributed.packing import dtype_named, packed, unpacked

AHEAD = 16
"""For so many blocks of each process there is memory that waits for them."""
_BLOCK = 4096
_NUMBER = 8
_SMALL = 4 * _BLOCK
"""Bytes of all tensors of a message up to which they go in its blocks."""
_PART = 2**23
"""Bytes of a tensor that are sent at once: what comes in parts is a sign of life meanwhile."""
_BLOCKS, _TENSORS = 0, 1


class Form(NamedTuple):
    """What a tensor is made like: of this type, shape and strides."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """The form of a tensor."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.stride())

    def empty(self) -> Tensor:
        """A tensor of this form, of any values."""
        return torch.empty_strided(self.shape, self.strides, dtype=dtype_named(self.dtype))


class Part(NamedTuple):
    """Bytes that are sent at once, and under which of gloo's tags."""

    tag: int
    bytes: Tensor


def framed(topic: str, tree: object) -> list[Part]:
    """What is to be sent of a message, in this order.

    Raises:
        StageError: there is something in it that cannot be sent.
    """
    text, tensors = packed(tree)
    bare = [_dense(tensor.detach().cpu()) for tensor in tensors]
    told = json.dumps([topic, [Form.of(each) for each in bare], text]).encode()
    content = bytearray(len(told).to_bytes(_NUMBER, "little") + told)
    memory = [_bytes_of(each) for each in bare if each.numel()]
    if sum(map(len, memory)) <= _SMALL:
        for each in memory:
            content += each.numpy().tobytes()
        memory = []
    content[:0] = len(content).to_bytes(_NUMBER, "little")
    content += bytes(-len(content) % _BLOCK)
    blocks = torch.frombuffer(content, dtype=torch.uint8).split(_BLOCK)
    parts = [part for each in memory for part in each.split(_PART)]
    return [*(Part(_BLOCKS, each) for each in blocks), *(Part(_TENSORS, each) for each in parts)]


class Coming(NamedTuple):
    """A message of which the tensors may still be on the way."""

    topic: str
    text: str
    tensors: list[Tensor]
    awaited: Sequence[dist.Work]

    def tree(self) -> Any:
        """What was sent, when all of it is there.

        Raises:
            StageError: it is no message.
        """
        return unpacked(self.text, self.tensors)


class Inlet:
    """The messages of one process, for the next blocks of which there is memory at any time."""

    def __init__(self, group: dist.ProcessGroup, peer: int) -> None:
        self.group, self.peer = group, peer
        self._waiting = deque(self._ready(torch.empty(_BLOCK, dtype=torch.uint8)) for _ in range(AHEAD))
        self._taken: Tensor | None = None

    def message(self) -> Coming:
        """The next message; waits for its blocks alone.

        Raises:
            RuntimeError: the connection is broken.
            ValueError, AttributeError, TypeError: what was sent is no message.
        """
        block = self._block()
        length = int.from_bytes(block[:_NUMBER], "little")
        content = bytearray(block[_NUMBER:])
        while len(content) < length:
            content += self._block()
        begin = _NUMBER + int.from_bytes(content[:_NUMBER], "little")
        topic, forms, text = json.loads(content[_NUMBER:begin])
        tensors = [Form(*form).empty() for form in forms]
        memory = [_bytes_of(each) for each in tensors if each.numel()]
        awaited: list[dist.Work] = []
        if sum(map(len, memory)) <= _SMALL:
            for each in memory:
                each.copy_(torch.frombuffer(content, dtype=torch.uint8, offset=begin, count=len(each)))
                begin += len(each)
        else:
            awaited = [self._receive(part, _TENSORS) for each in memory for part in each.split(_PART)]
        return Coming(topic, text, tensors, awaited)

    def drain(self) -> None:
        """Wait for the blocks for which there is memory still: those that say nothing come last.

        Raises:
            RuntimeError: the connection is broken.
        """
        while self._waiting:
            self._waiting.popleft()[1].wait()

    def _block(self) -> bytes:
        if self._taken is not None:
            self._waiting.append(self._ready(self._taken))
        self._taken, work = self._waiting.popleft()
        work.wait()
        return self._taken.numpy().tobytes()

    def _ready(self, memory: Tensor) -> tuple[Tensor, dist.Work]:
        return memory, self._receive(memory, _BLOCKS)

    def _receive(self, memory: Tensor, tag: int) -> dist.Work:
        work = dist.irecv(memory, group=self.group, group_src=self.peer, tag=tag)
        assert work is not None
        return work


def _dense(tensor: Tensor) -> Tensor:
    """The same values in memory without gaps, in the order that they have there if there are none."""
    plain = tensor.resolve_conj().resolve_neg()
    if plain.is_contiguous() or torch.empty_like(plain, device="meta").stride() == plain.stride():
        return plain
    return plain.contiguous()


def _bytes_of(tensor: Tensor) -> Tensor:
    """The memory of a tensor that has no gaps."""
    count = math.prod(tensor.shape)
    return tensor.as_strided((count,), (1,)).view(torch.uint8)
