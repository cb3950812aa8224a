"""Whether the state of a run is of one like this, before anything of it is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dni_fx.decoupled import Decoupled, dnis
from dni_fx.errors import StageError
from dni_fx.synthesizers import Remembering
from passes.boundary import CONTAINER
from passes.words import counted

if TYPE_CHECKING:
    from dni_fx.training.trainer import Trainer


def refuse_other_runs(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Do nothing if a state is of a run by the same runtime, with as many callbacks and the same model.

    Raises:
        StageError: it is not; says in what it differs.
    """
    was, now = state["runtime"], trainer.runtime
    if was != now:
        raise StageError(f"the state is of a run by {was}, and this one is by {now}.")
    if len(state["callbacks"]) != len(trainer.callbacks):
        raise StageError(
            f"the state is of a run with {counted(len(state['callbacks']), 'callback')}, and this one has "
            f"{len(trainer.callbacks)}."
        )
    refuse_misfits(trainer.cut, state["model"])


def refuse_misfits(cut: Decoupled, model: Mapping[str, Tensor]) -> None:
    """Do nothing if a model's state has the keys and shapes of that of `cut`.

    Raises:
        StageError: it differs; says in what.
    """
    own = cut.state_dict()
    if not dnis(cut):  # synthesizers are made with the first batch, and their state waits for that
        model = {key: value for key, value in model.items() if not key.startswith(f"{CONTAINER}.")}
        own = {key: value for key, value in own.items() if not key.startswith(f"{CONTAINER}.")}
    free = _memories(cut)
    kept = {
        key for key, value in model.items() if key in own and (key in free or own[key].shape == value.shape)
    }
    wrong = sorted(key for key in own.keys() | model.keys() if key not in kept and not _comes_and_goes(key))
    if wrong:
        some = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise StageError(f"the state is of another model, or another plan: it differs in {some}.")


def _memories(cut: Decoupled) -> set[str]:
    """Where synthesizers keep what they have heard, the shape of which follows the batches."""
    return {
        f"{CONTAINER}.{name}.learner.{key}"
        for name, dni in dnis(cut).items()
        if isinstance(dni.learner, Remembering)
        for key, _ in dni.learner.named_buffers()
    }


def _comes_and_goes(key: str) -> bool:
    """Whether a part of a synthesizer is in the state only while it holds something."""
    return key.startswith(f"{CONTAINER}.") and (".late." in key or ".predictor." in key)
