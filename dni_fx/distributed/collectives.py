"""What several processes make of the tensors of each, by the wire.

torch's own collectives hold a process for half an hour where another one has fallen silent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dni_fx.distributed.post import Post


def gathered(post: Post, topic: str, mine: Tensor) -> list[Tensor]:
    """What each process has, in their order; what is sent must not be written to any more.

    Raises:
        StageError: another process is lost.
    """
    post.send_all(topic, mine)
    return [mine if rank == post.rank else post.take(rank, topic) for rank in range(post.size)]


def scattered_mean(post: Post, topic: str, parts: Sequence[Tensor]) -> Tensor:
    """The mean over all processes of one part of their tensors: of the first in the first one, and so on.

    It is added up in the order of processes. What is sent must not be written to any more.

    Raises:
        StageError: another process is lost.
    """
    for other in post.others:
        post.send(other, topic, parts[other])
    total = torch.zeros_like(parts[post.rank])
    for rank in range(post.size):
        total += parts[rank] if rank == post.rank else post.take(rank, topic)
    total /= post.size
    return total
