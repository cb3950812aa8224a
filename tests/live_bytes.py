"""Measures how much memory tensors take while code runs, to the byte, on any device."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside, `peak` is the most bytes that tensors ever held at once: those given, and those made since.

    What a kernel takes for itself while it runs is not seen.
    """

    def __init__(self, *there):
        super().__init__()
        self.live, self.peak = {}, 0
        self._see(there)

    @property
    def now(self):
        self.live = {ref: size for ref, size in self.live.items() if not ref.expired()}
        return sum(self.live.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self._see(made)
        return made

    def _see(self, made):
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live[StorageWeakRef(storage)] = storage.nbytes()
        self.peak = max(self.peak, self.now)
