"""A callback for the Trainer of Lightning (extra `lightning`)."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dni_fx.integrations.watched import Watched

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer


def _lightning() -> Any:
    """Lightning under the name by which it was imported, or else under one by which it is installed.

    Raises:
        ImportError: it is not installed.
    """
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in {"lightning", "lightning.pytorch", "pytorch_lightning"}:
                raise
    raise ImportError(
        "dni_fx.integrations.lightning calls back to Lightning, which is not installed: "
        "pip install 'dni-fx[lightning]', or lightning itself."
    )


if not TYPE_CHECKING:
    Callback = _lightning().Callback


class DecoupledCallback(Callback):
    """Tells all cut models in a LightningModule, in every step, what Lightning multiplies the loss by.

    That is the scale of a loss scaler, and 1/k where the gradients of k batches are added up (of fewer at the
    end of an epoch, too, where Lightning divides by k as ever). How well synthesizers guess is logged as
    `cosine/<boundary>`, and so are `sign`, `error`, `scale` and `mix`:

        Trainer(accumulate_grad_batches=4, callbacks=[DecoupledCallback()]).fit(module, batches)
    """

    def __init__(self) -> None:
        super().__init__()
        self._watched: Watched | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for cut models.

        Raises:
            DniError: there are none.
        """
        self._close()
        self._watched = Watched(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the scale for this batch, whose loss may be the first that the scaler scales anew."""
        if self._watched is not None:
            self._watched.scale(_factor(trainer, pl_module))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how well each synthesizer guesses, in the steps that are written down."""
        if self._watched is not None and _is_logged(trainer, batch_idx):
            pl_module.log_dict(self._watched.figures())

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the models as they were found."""
        self._close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the models as they were found."""
        self._close()

    def _close(self) -> None:
        if self._watched is not None:
            self._watched.close()
        self._watched = None


def _factor(trainer: Trainer, pl_module: LightningModule) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = 1.0 if scaler is None else float(scaler.get_scale())
    # Who optimizes manually divides by what they like; Lightning leaves that loss alone.
    return scale / trainer.accumulate_grad_batches if pl_module.automatic_optimization else scale


def _is_logged(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning may write down what is logged now: telling it takes longer than a small layer."""
    every: int = getattr(trainer, "log_every_n_steps", 0)  # its logger sets it
    return batch_idx == 0 or (every > 0 and trainer.global_step % every in (0, every - 1))
