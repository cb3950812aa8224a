"""What would go wrong in silence if a model was cut, or run cut: it is refused here, with what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni_fx.errors import DniError, ExportError
from dni_fx.hooks import hooks_of


def refuse_own_hooks(tree: nn.Module) -> None:
    """Do nothing if no hook runs around the forward of the model itself: it is in no graph.

    Raises:
        ExportError: one does.
    """
    if any(hooks_of(tree)[:2]):
        raise ExportError(
            f"cannot write {type(tree).__name__} to a file: a hook is registered on the model itself, which "
            "a file cannot hold. Remove it first."
        )


def refuse_shards(model: nn.Module) -> None:
    """Do nothing if no part of the model is sharded.

    Raises:
        DniError: one is.
    """
    for path, module in model.named_modules():
        if _is_sharded(module):
            raise DniError(
                f"cannot cut {type(model).__name__}: {path or 'it'} is sharded (FSDP), and its parameters "
                "are whole only while its own forward runs, which a stage does not call. Leave the model "
                "whole; DistributedDataParallel around the cut model works."
            )


def refuse_transforms(tree: nn.Module) -> None:
    """Do nothing if a cut model is simply called.

    Raises:
        DniError: it is traced, transformed, sharded or a replica.
    """
    if _is_sharded(tree):
        refuse_shards(tree)
    name = type(tree).__name__
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise DniError(
            f"torch.jit.trace cannot trace {name} in train mode: it is cut, and TorchScript knows no "
            "boundaries. Trace dni_fx.recouple(model)."
        )
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateUsage]
        raise DniError(
            f"torch.func cannot transform {name} in train mode: it is cut, and its synthesizers learn "
            "as a side effect. Transform dni_fx.recouple(model)."
        )
    if "_is_replica" in vars(tree):
        raise DniError(
            f"DataParallel cannot train {name} on several devices: it is cut, and the replicas, gone after a "
            "step, would share its synthesizers. Put DistributedDataParallel around the cut model."
        )


def refuse_meta(tree: nn.Module, leaves: Sequence[Tensor]) -> None:
    """Do nothing if the tensors of a call hold numbers.

    Raises:
        DniError: one is on the meta device.
    """
    if any(leaf.is_meta for leaf in leaves):
        raise DniError(
            f"cannot cut {type(tree).__name__} on the meta device: synthesizers learn from numbers, and "
            "there are none. Move the model and the inputs to a device that holds data."
        )


def _is_sharded(module: nn.Module) -> bool:
    return "_is_fsdp_managed_module" in vars(module)  # both versions mark all that they manage
