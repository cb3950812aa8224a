"""What a synthesizer says and learns, as functions of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from dni_fx.dni import DNI
from dni_fx.exporters.training.moves import AdamW
from dni_fx.gradients import gradients_of
from dni_fx.scale import MEMORY
from dni_fx.step import wide

_LEARNER = "learner."


def refusals(dni: DNI) -> list[str]:
    """What a device cannot do of what is asked of this interface."""
    interface, asked = dni.interface, list[str]()
    for field, plain in (("mix", 0), ("window", 1), ("every", 1), ("stale", 0), ("fade", 0), ("aux", 0)):
        if getattr(interface, field) != plain:
            asked.append(f"{field}={getattr(interface, field)}")
    if dni.trusts:
        asked.append(f"trust={dni.trusts}")
    if not interface.lr:
        asked.append("lr=0, with which it would be moved by the optimizer of the model")
    if dni.synthesizer.needs == "loss":
        asked.append(f"{dni.synthesizer}, which learns from the loss")
    if dni.synthesizer.exact:
        asked.append(f"{dni.synthesizer}, which passes true gradients")
    if dni.remembers:
        asked.append(f"{dni.synthesizer}, which keeps something of true gradients")
    if dni.spec.group or dni.spec.delay or dni.spec.rate > 1:
        asked.append("state that is carried from step to step")
    return [f"{dni.spec.name}: {each}" for each in asked]


def state_of(dni: DNI) -> dict[str, Tensor]:
    """What a synthesizer has learned and needs to go on: weights, their optimizer, and the scale."""
    if dni.learner.silent:
        return {}
    wanted = (_LEARNER, "optimizer.first_", "optimizer.second_", "optimizer.steps", "scale.")
    return {key: value for key, value in dni.state_dict().items() if key.startswith(wanted)}


def guess_up(
    dni: DNI, state: Mapping[str, Tensor], values: Sequence[Tensor], context: Tensor | None, batch: Tensor
) -> list[Tensor]:
    """What goes up at values `(batch, *features)` before the truth is there: as `DNI.upward` with mix=0."""
    if dni.learner.silent:
        return [torch.zeros_like(value) for value in values]
    with torch.no_grad():
        guess = _asked(dni, state, values, context)
    units = _units(state)
    found: list[Tensor] = []
    for at, (each, value) in enumerate(zip(guess.gradients, values, strict=True)):
        each = each.detach().to(wide(each))
        unit = units[at].to(each.dtype)
        size = batch.to(each.dtype)
        if guess.natural:
            up = _bounded(each, dni.interface.clip, unit / size) * dni.interface.scale
        else:
            one = torch.ones_like(unit)
            up = _bounded(each, dni.interface.clip, one) * (unit * dni.interface.scale / size)
        found.append(up.to(value.dtype))
    return found


def learned(
    dni: DNI,
    state: Mapping[str, Tensor],
    values: Sequence[Tensor],
    context: Tensor | None,
    batch: Tensor,
    truths: Sequence[Tensor],
    step: Tensor,
) -> dict[str, Tensor]:
    """The state after it has learned from true gradients: as `Pupil.regress` and the step after it.

    A truth or a guess that is not finite changes nothing but, if it is the guess, the scale. One that is
    taught by nobody looks at the truth in every `audit`-th step, for the scale alone.
    """
    weights = {key: each.detach().requires_grad_() for key, each in _weights(dni, state).items()}
    guess = _asked(dni, {**state, **weights}, values, context)
    truths = [truth.to(wide(truth)) * batch.to(wide(truth)) for truth in truths]
    is_true = torch.stack([truth.isfinite().all() for truth in truths]).all()
    is_guess = torch.stack([each.isfinite().all() for each in guess.gradients]).all()
    learns = is_guess if dni.learner.self_taught else is_true & is_guess
    if dni.learner.self_taught:
        is_true = is_true & ((step.long() + dni.spec.producer) % dni.interface.audit == 0)
    squares = torch.stack([truth.double().square().mean() for truth in truths])
    scale = _observed(state, squares.to(state["scale.mean_square"].dtype), is_true)
    gradients = _slopes(guess, truths, _units(scale), batch, list(weights.values()))
    if guess.learned is not None:
        both = zip(gradients, guess.learned, strict=True)
        gradients = [mine if other is None else mine + other for mine, other in both]
    moved = _moved(dni, state, list(weights), gradients)
    return {**scale, **{key: torch.where(learns, each, state[key]) for key, each in moved.items()}}


def _asked(dni: DNI, state: Mapping[str, Tensor], values: Sequence[Tensor], context: Tensor | None) -> Any:
    held = {key.removeprefix(_LEARNER): each for key, each in state.items() if key.startswith(_LEARNER)}
    return functional_call(dni.learner, held, (tuple(value.detach() for value in values), context))


def _weights(dni: DNI, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{_LEARNER}{name}": state[f"{_LEARNER}{name}"] for name, _ in dni.learner.named_parameters()}


def _units(state: Mapping[str, Tensor]) -> Tensor:
    seen = state["scale.seen"].clamp(min=1).double()
    mean_square = state["scale.mean_square"]
    return (mean_square / (1 - MEMORY**seen).to(mean_square.dtype)).sqrt()


def _observed(state: Mapping[str, Tensor], squares: Tensor, is_true: Tensor) -> dict[str, Tensor]:
    before, seen = state["scale.mean_square"], state["scale.seen"]
    after = before + (squares - before) * (1 - MEMORY)
    return {
        "scale.mean_square": torch.where(is_true, after, before),
        "scale.seen": torch.where(is_true, seen + 1, seen),
    }


def _slopes(
    guess: Any, truths: Sequence[Tensor], units: Tensor, batch: Tensor, weights: list[Tensor]
) -> list[Tensor]:
    """The gradients of the weights of the mean of (guess - truth)² in units, and of the guess's objective."""
    heads: list[Tensor] = []
    ups: list[Tensor] = []
    for at, (head, truth) in enumerate(zip(guess.gradients, truths, strict=True)):
        if head.requires_grad:
            unit = torch.where(units[at] > 0, units[at], torch.inf).to(truth.dtype)
            own, size = head.detach().to(truth.dtype), batch.to(truth.dtype)
            error = (own * size - truth) / unit if guess.natural else own - truth / unit
            slope = error * (2 / head.numel())
            heads.append(head)
            ups.append((slope * (size / unit) if guess.natural else slope).to(head.dtype))
    if guess.objective is not None and guess.objective.requires_grad:
        heads.append(guess.objective)
        ups.append(torch.ones_like(guess.objective))
    if not heads:
        return [torch.zeros_like(weight) for weight in weights]
    found = gradients_of(heads, ups, weights, may_reenter=False)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def _moved(
    dni: DNI, state: Mapping[str, Tensor], names: Sequence[str], gradients: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The weights and the optimizer's state after a step of the optimizer that a synthesizer owns."""
    interface = dni.interface
    rule = AdamW(weight_decay=interface.decay, beta1=interface.beta1, beta2=interface.beta2)
    steps = state["optimizer.steps"] + 1
    rate = torch.full((), interface.lr * dni.learner.pace, dtype=torch.float64)
    found = {"optimizer.steps": steps}
    for at, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
        kept = {"exp_avg": state[f"optimizer.first_{at}"], "exp_avg_sq": state[f"optimizer.second_{at}"]}
        weight, after = rule.moved(state[name].detach(), gradient, kept, rate, steps.double())
        found |= {
            name: weight,
            f"optimizer.first_{at}": after["exp_avg"],
            f"optimizer.second_{at}": after["exp_avg_sq"],
        }
    return found


def _bounded(guess: Tensor, clip: float, unit: Tensor) -> Tensor:
    """As `gradients.bounded`, asking nothing of the numbers but by operators."""
    length = guess.square().mean().sqrt()
    most = torch.where(unit > 0, clip * unit / length, torch.inf)  # there is nothing to compare with at first
    return torch.where(length.isfinite(), guess * most.clamp(max=1), 0) if clip else guess
