"""Several processes that train the same stages, each on its part of every batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from dni_fx.distributed.collectives import gathered, scattered_mean
from dni_fx.distributed.post import Post
from dni_fx.errors import StageError


class Replicas:
    """The other processes that have the stages of this one, on a mesh of replicas and stages.

    Gradients are averaged over them before each update, so weights and optimizers stay the same in all.
    Synthesizers and the statistics of norms are each one's own, and those of the first one count in the end.
    """

    def __init__(self, count: int, world: Post) -> None:
        ranks = world.size
        if ranks % count:
            raise StageError(
                f"{ranks} processes do not make {count} replicas of the same number of processes each."
            )
        self.count, self.number = count, 0
        self.pipeline, self.post = list(range(ranks)), world.among([world.rank])
        if count == 1:
            return
        mesh = init_device_mesh(
            world.device.type, (count, ranks // count), mesh_dim_names=("replica", "stage")
        )
        self.number = mesh.get_local_rank("replica")
        self.pipeline = mesh["stage"].mesh.tolist()
        self.post = world.among(mesh["replica"].mesh.tolist())
        self._columns: list[list[int]] = mesh.mesh.T.tolist()

    def mesh_of_shards(self) -> DeviceMesh:
        """This process and its replicas, for tensors of which each has a part: all processes ask for it.

        What torch sends on it waits for a process for no longer than the wire does.
        """
        patience = timedelta(seconds=self.post.wire.patience)
        group, _ = dist.new_subgroups_by_enumeration(self._columns, timeout=patience)
        assert isinstance(group, dist.ProcessGroup)
        return DeviceMesh.from_group(group, self.post.device.type)

    def share(self, tree: Any) -> Any:
        """This replica's part of a batch: of every tensor that has as many rows as the first one.

        Raises:
            StageError: the samples cannot be shared evenly.
        """
        if self.count == 1:
            return tree
        tensors = [each for each in pytree.tree_leaves(tree) if isinstance(each, Tensor) and each.dim()]
        rows = len(tensors[0]) if tensors else 0
        if rows % self.count:
            raise StageError(
                f"a batch of {rows} samples cannot be shared evenly by {self.count} replicas: choose another "
                "batch size, and drop an incomplete last batch."
            )

        def part(tensor: Tensor) -> Tensor:
            return tensor.chunk(self.count)[self.number] if tensor.dim() and len(tensor) == rows else tensor

        return pytree.tree_map_only(Tensor, part, tree)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Have the mean of all replicas' gradients in each; one that has none in any stays without.

        Raises:
            StageError: another process is lost.
        """
        mine = list(parameters) if self.count > 1 else []
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
        for parameter, is_anywhere in zip(mine, self._there(mine), strict=True):
            if is_anywhere:
                kinds[parameter.dtype, parameter.device].append(parameter)
        for alike in kinds.values():
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
            mean = self._mean(torch.cat([part.reshape(-1) for part in parts]))
            for parameter, own in zip(alike, mean.split([p.numel() for p in alike]), strict=True):
                parameter.grad = own.view_as(parameter)

    def _there(self, mine: list[nn.Parameter]) -> list[bool]:
        """Whether any replica has a gradient of each."""
        if not mine:
            return []
        own = [each.grad is not None for each in mine]
        self.post.send_all("there", own)
        told = [own, *(self.post.take(other, "there") for other in self.post.others)]
        return [any(each) for each in zip(*told, strict=True)]

    def _mean(self, whole: Tensor) -> Tensor:
        """The mean of this tensor over all replicas: each adds up a part of it, and tells the others."""
        mean = scattered_mean(self.post, "part", whole.tensor_split(self.count))
        return torch.cat(gathered(self.post, "mean", mean))
