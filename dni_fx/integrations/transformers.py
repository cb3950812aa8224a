"""A callback for the Trainer of Hugging Face's transformers (extra `transformers`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from dni_fx.decoupled import Decoupled
from dni_fx.integrations.watched import Watched, drop_ins, reads

try:
    from transformers import PreTrainedModel, Trainer, TrainerCallback
    from transformers.loss.loss_utils import ForCausalLMLoss
except ImportError as error:
    raise ImportError(
        "dni_fx.integrations.transformers calls back to the Trainer of transformers, which cannot be "
        f"imported ({error}): pip install 'dni-fx[transformers]'."
    ) from error

ITEMS = "num_items_in_batch"
"""The argument in which the Trainer says by how many labels the sum of the losses of a step is divided."""


class DecoupledCallback(TrainerCallback):
    """Tells all cut models in a Trainer's model, before each forward pass, what the loss is multiplied by.

    That is the scale of a loss scaler, times 1/k where the gradients of k batches are added up (the shorter
    group at the end of an epoch has a k of its own), or times the batch's share of all labels of the
    step if the Trainer has the model divide by those. How well synthesizers guess is logged together with
    the loss, as `cosine/<boundary>`, and so are `sign`, `error`, `scale` and `mix`:

        trainer = Trainer(dni_fx.decouple(model, context="labels"), args, train_dataset=data)
        trainer.add_callback(DecoupledCallback(trainer))

    A model that is no `PreTrainedModel` can be saved with tied weights from then on: its state dict holds
    a copy for each further name of a tensor, since the Trainer's file format has no shared tensors.
    """

    def __init__(self, trainer: Trainer) -> None:
        """Take a trainer whose model holds cut models.

        Raises:
            DniError: it holds none.
        """
        self._trainer = trainer
        self._watched: Watched | None = None
        self._hook: RemovableHandle | None = None
        self._model: nn.Module | None = None
        assert trainer.model is not None
        drop_ins(trainer.model)
        self._take(trainer.model)

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look for cut models: a trainer can make a new model for each training.

        Raises:
            DniError: there are none.
        """
        self._close()
        model: nn.Module = kwargs["model"]
        self._take(model)
        self._watched = Watched(model)
        self._hook = model.register_forward_pre_hook(self._tell, with_kwargs=True)

    @override
    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log how well each synthesizer guesses, wherever the loss is logged."""
        figures = {} if self._watched is None else self._watched.figures()
        if figures and "loss" in kwargs["logs"]:
            self._trainer.log(figures)

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the models as they were found."""
        self._close()

    def _tell(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trains = model is self._model and model.training and torch.is_grad_enabled()
        if self._watched is not None and trains:
            scaler = self._trainer.accelerator.scaler
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            self._watched.scale(scale * _share(self._trainer, model, kwargs))

    def _take(self, model: nn.Module) -> None:
        if model is not self._model and not isinstance(model, PreTrainedModel):
            model.register_state_dict_post_hook(_copy_tied)
        self._model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> DecoupledCallback:
        return self  # a copy of the model has its hook, which heeds the model alone

    def __getstate__(self) -> dict[str, Any]:
        return dict.fromkeys(vars(self))  # nor does a pickled model bring its trainer along

    def _close(self) -> None:
        if self._watched is not None and self._hook is not None:
            self._hook.remove()
            self._watched.close()
        self._watched = self._hook = None


def _share(trainer: Trainer, model: nn.Module, inputs: Mapping[str, Any]) -> float:
    """What the Trainer, or the model on its behalf, multiplies the mean loss of one batch by.

    With a function of the user's that computes the loss, or with smoothed labels, the labels of the batch
    are not known: all batches of a step count alike.
    """
    labels = inputs.get("shift_labels", inputs.get("labels"))
    if (items := inputs.get(ITEMS)) is not None and isinstance(labels, Tensor):
        if isinstance(model, Decoupled) and not reads(model, ITEMS):
            return 1.0  # the model ignores it, and nobody else divides
        own = labels[..., 1:] if "shift_labels" not in inputs and _shifts(model) else labels
        share = max(int((own != -100).sum()), 1) / max(float(items), 1.0)
        return share * (trainer.accelerator.num_processes if _averages(trainer) else 1)
    return 1 / trainer.current_gradient_accumulation_steps


def _shifts(model: nn.Module) -> bool:
    """Whether the loss of the model leaves out the first label of each row."""
    is_paired = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return getattr(model, "loss_function", None) is ForCausalLMLoss and not is_paired


def _averages(trainer: Trainer) -> bool:
    """Whether the labels of all processes were counted together, so that each loss counts once for each."""
    return bool(trainer.args.average_tokens_across_devices)


def _copy_tied(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Give each further name of a tensor in a state dict a copy of it."""
    seen: set[int] = set()
    for name, value in state.items():
        if isinstance(value, Tensor) and value.numel() and not value.requires_grad:
            place = value.untyped_storage().data_ptr()
            if place in seen:
                state[name] = value.clone()
            seen.add(place)
