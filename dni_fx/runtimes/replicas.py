"""Several processes that train the same stages, each on its part of every batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from dni_fx.errors import StageError, first_line


class Replicas:
    """The other processes that have the stages of this one, on a mesh of replicas and stages.

    Gradients are averaged over them before each update, so weights and optimizers stay the same in all.
    Synthesizers and the statistics of norms are each one's own, and those of the first one count in the end.
    """

    def __init__(self, count: int, ranks: int, device: str) -> None:
        if ranks % count:
            raise StageError(
                f"{ranks} processes do not make {count} replicas of the same number of processes each."
            )
        self.count, self.number = count, 0
        self.pipeline, self.peers = list(range(ranks)), [dist.get_rank()]
        if count == 1:
            return
        mesh = init_device_mesh(device, (count, ranks // count), mesh_dim_names=("replica", "stage"))
        self.number = mesh.get_local_rank("replica")
        self.pipeline, self.peers = mesh["stage"].mesh.tolist(), mesh["replica"].mesh.tolist()
        self.group = mesh.get_group("replica")

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
        if self.count > 1:
            try:
                self._average(list(parameters))
            except RuntimeError as error:
                raise StageError(
                    f"cannot average gradients with other replicas: {first_line(error)}"
                ) from error

    def _average(self, mine: list[nn.Parameter]) -> None:
        there = torch.tensor([float(each.grad is not None) for each in mine])
        dist.all_reduce(there, group=self.group)
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
        for parameter, count in zip(mine, there.tolist(), strict=True):
            if count:
                kinds[parameter.dtype, parameter.device].append(parameter)
        for alike in kinds.values():
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
            whole = torch.cat([part.reshape(-1) for part in parts])
            dist.all_reduce(whole, group=self.group)
            whole /= self.count
            for parameter, mean in zip(alike, whole.split([p.numel() for p in alike]), strict=True):
                parameter.grad = mean.view_as(parameter)
