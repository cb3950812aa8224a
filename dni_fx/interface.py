"""What belongs to every boundary, whatever synthesizer fills it."""

from __future__ import annotations

from dataclasses import dataclass

from passes import Named, Registry, SpecError

_COUNTS = ("warmup", "fade", "stale", "guard", "classes")


@dataclass(frozen=True)
class Interface(Named):
    """How a synthetic gradient is used, and how its synthesizer learns.

    `mix` is the paper's lambda: 0 sends the synthetic gradient up, 1 the true one. For the first `warmup`
    times that a true gradient arrives, it goes up as it is; over the next `fade` times the mix falls in a
    straight line from 1 to `mix`. `scale` multiplies the synthetic gradient, and `clip` bounds its length, in
    that of true gradients (their running root mean square); 0 is no bound.

    With `trust=k` only that part of the synthetic gradient is sent, between 0 and 1, which would have been
    nearest to the truth over the last k steps or so; 0 sends all of it. If nothing is said (-1) it is 100 for
    what learns from a truth that comes with a later step, at carried state and links, which then need no
    guard, and 0 elsewhere.

    With a `window` of two or more, boundaries take turns: in each step every `window`-th one is cut and the
    others pass the true gradient, so that many stages train on it together, and on other cuts
    in the next step. 1 is every cut in every step.

    Once it has warmed up, the synthesizer learns in every `every`-th step only, boundaries in turn; in the
    others nobody computes what it would learn from, and neither `diagnosis` nor guard says anything. One that
    learns nothing from the true gradient is compared with it in every `audit`-th step only, boundaries in
    turn, and in each one while the guard has doubts: stages pass no gradient on in the others.
    With `stale=k` it learns from the true gradient that came k times before this one, with the value and the
    labels of that batch, which are kept, so that nobody need have the gradient of a batch until k more are
    through. What is kept is in the state dict.

    No true gradient comes for state that is carried to the next step: its part of the mix is missing.
    With `aux` above 0, carried state has an auxiliary task: to tell from the state that a step is given what
    will be guessed for the one it returns. How far that is off is a loss of the model, with this weight.

    The synthesizer's own optimizer is Adam, with the learning rate `lr`, `beta1`, `beta2`, and `decay` of the
    weights as in AdamW; at `lr=0` there is none, and an optimizer of the user finds the gradients on the
    parameters (`dni_fx.parameter_groups`). After `guard` steps in which the guesses pointed away from the
    truth, fewer if they were far off, or one of both was not finite, the boundary passes true gradients
    from then on; 0 is no guard.
    `classes` is how many classes `dni_context` can hold; 0 reads it off the model's output.
    """

    name = "dni"

    mix: float = 0.0
    scale: float = 1.0
    warmup: int = 0
    fade: int = 0
    window: int = 1
    every: int = 1
    audit: int = 8
    aux: float = 0.0
    stale: int = 0
    clip: float = 3.0
    trust: int = -1
    lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.0
    guard: int = 100
    classes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise SpecError(f"mix is between 0 (synthetic) and 1 (true), not {self.mix}.")
        for field in ("window", "every", "audit"):
            if getattr(self, field) < 1:
                raise SpecError(f"{field} is 1 or more, not {getattr(self, field)}.")
        for field in (*_COUNTS, "scale", "aux", "clip", "lr", "decay"):
            if not getattr(self, field) >= 0:
                raise SpecError(f"{field} is 0 or more, not {getattr(self, field)}.")
        if self.trust < -1:
            raise SpecError(f"trust is 0 or more, or -1 for what suits the boundary, not {self.trust}.")
        if self.aux and not self.lr:
            raise SpecError("aux asks for an lr above 0: what it learns has an optimizer of its own.")
        for field in ("beta1", "beta2"):
            if not 0 <= getattr(self, field) < 1:
                raise SpecError(f"{field} is 0 or more and below 1, not {getattr(self, field)}.")

    def mix_after(self, seen: int) -> float:
        """The part of the true gradient in what goes up after so many true gradients have arrived."""
        if seen < self.warmup:
            return 1.0
        if seen < self.warmup + self.fade:
            return 1 - (1 - self.mix) * (seen - self.warmup) / self.fade
        return self.mix


INTERFACES: Registry[type[Interface]] = Registry("interface", {"dni": Interface})
