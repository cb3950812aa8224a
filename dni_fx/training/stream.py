"""State that goes from batch to batch, where a model returns it to be given it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from dni_fx.cutting import Cutting
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import StageError
from dni_fx.feedback import writes_of
from dni_fx.fields import with_fields
from dni_fx.program import signature_of
from dni_fx.training.batches import Batch
from passes.words import counted


class Stream:
    """Adds the state to each batch and takes it from its outputs; of models that carry none, it does nothing.

    The first state is zeros, of the form that the model was cut with.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = dict(cutting_of(model).carry.paths) if isinstance(model, Decoupled) else {}
        self._state: dict[str, list[Tensor]] = {}

    def begin(self) -> None:
        """Forget the state: what comes now does not follow on what was."""
        self._state = {}

    def given(self, batch: Batch) -> Batch:
        """The batch with the state that it begins with; one that brings a state of its own keeps it.

        Raises:
            StageError: its samples are not as many as those before, its inputs do not fit, or the model was
                cut without an example.
        """
        with batch.explained(self._model):
            missing = [argument for argument in self._paths if not self._brings(batch, argument)]
        if not missing:
            return batch
        example = self._cutting.program.example
        if example is None:
            raise StageError("the form of the first state is not known: give decouple() an example of it.")
        args, kwargs = example.arguments()
        known = signature_of(self._model).bind(*args, **kwargs).arguments
        state = {argument: self._filled(argument, known[argument], batch.size) for argument in missing}
        return replace(batch, kwargs={**batch.kwargs, **state})

    def take(self, outputs: Any) -> None:
        """Keep the state that a batch has left."""
        flat, spec = pytree.tree_flatten(with_fields(outputs)) if self._paths else ([], None)
        for argument, path in self._paths.items():
            assert spec is not None
            self._state[argument] = [flat[at].detach() for at in writes_of(spec, path)]

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The state by the arguments that it goes to; empty at the start."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go back to a state that `state_dict` returned."""
        self._state = {argument: list(tensors) for argument, tensors in state.items()}

    @property
    def _cutting(self) -> Cutting:
        assert isinstance(self._model, Decoupled)
        return cutting_of(self._model)

    def _brings(self, batch: Batch, argument: str) -> bool:
        return argument in signature_of(self._model).bind_partial(*batch.args, **batch.named).arguments

    def _filled(self, argument: str, example: Any, size: int) -> Any:
        """The state in the form of the example's."""
        leaves, spec = pytree.tree_flatten(with_fields(example))
        dims = self._cutting.carry.batch_dims(argument, leaves, size)
        places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        kept = self._state.get(argument)
        for number, (at, dim) in enumerate(zip(places, dims, strict=True)):
            shape = list(leaves[at].shape)
            shape[dim] = size
            like = next(self._model.parameters(), leaves[at])
            fresh = torch.zeros(shape, dtype=leaves[at].dtype, device=like.device)
            leaves[at] = fresh if kept is None else kept[number].to(like.device)
            if leaves[at].shape != fresh.shape:
                raise StageError(
                    f"this batch has {counted(size, 'sample')}, and the state that goes on into it "
                    f"belongs to {leaves[at].shape[dim]}: every batch goes on with the samples of the "
                    "one before. Drop an incomplete last batch."
                )
        return pytree.tree_unflatten(leaves, spec)
