"""What belongs to every boundary, whatever synthesizer fills it."""

from __future__ import annotations

from dataclasses import dataclass

from passes import Named, Registry, SpecError


@dataclass(frozen=True)
class Interface(Named):
    """How a synthetic gradient is used, and how its synthesizer learns.

    `mix` is the paper's lambda: 0 sends the synthetic gradient up, 1 the true one. `scale` multiplies the
    synthetic one. For the first `warmup` times that a true gradient arrives, it goes up as it is. `clip`
    bounds each element of a synthetic gradient, in units of the boundary's root mean square; 0 is no
    bound. `lr` is the learning rate of the synthesizer's own Adam; at 0 there is
    none, and an optimizer of the user finds the gradients on the parameters (`dni_fx.parameter_groups`).
    `classes` is how many classes `dni_context` can hold; 0 reads it off the model's output.
    """

    name = "dni"

    mix: float = 0.0
    scale: float = 1.0
    warmup: int = 0
    clip: float = 0.0
    lr: float = 3e-3
    classes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise SpecError(f"mix is between 0 (synthetic) and 1 (true), not {self.mix}.")
        for field in ("scale", "warmup", "clip", "lr", "classes"):
            if getattr(self, field) < 0:
                raise SpecError(f"{field} is 0 or more, not {getattr(self, field)}.")


INTERFACES: Registry[type[Interface]] = Registry("interface", {"dni": Interface})
