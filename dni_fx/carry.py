"""Carried state: what a step makes of the state it is given, and of the state it returns.

A model that returns state for its next step is a graph with an edge back. In time that edge is a cut like any
other: the next step makes the gradient of the state, too late for the step that made it.

    state ──listen──▶ step ──▶ outputs ──send──▶ loss         forward: identities
      ▲                │
      └──── next ── new state
                                                               backward: what arrives at `listen` teaches
                                                               the synthesizer; `send` brings its guess of
                                                               what the next step will say to the new state

Sources:
    Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.2 and appendix.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dni_fx.dni import DNI
from dni_fx.errors import StageError
from dni_fx.feedback import Feedback
from dni_fx.gradients import added
from dni_fx.step import Synthesis
from passes.chunks import as_it_was, batch_in_front

_MOST = 10_000
"""So many operations before a state are looked at: Python cannot let go of many more."""
RESET = "dni_reset"
"""The keyword of a call under which samples are marked whose episode ends with it."""


class Passage:
    """The state of one step on its way through a model: in by `enter`, out by `leave`.

    Gradients arrive by autograd, or are handed to `close` where a runtime asks `enter` for `leaves`.
    `reset` marks the samples whose episode ends with this step: they get a gradient of zeros from beyond it,
    and begin the next one with a state of zeros.
    """

    def __init__(self, feedbacks: Sequence[Feedback], dnis: Mapping[str, DNI], reset: Tensor | None) -> None:
        self.edges = [_Edge(each, dnis[each.spec.name]) for each in feedbacks if each.spec is not None]
        self.feedbacks = feedbacks
        self.reset = reset

    def enter(self, leaves: Sequence[Tensor], as_leaves: bool = False) -> list[Tensor]:
        """The tensors of the call, those of the state in a form that gradients are heard of."""
        entered = list(leaves)
        for edge in self.edges:
            edge.enter(entered, as_leaves)
        return entered

    def leave(self, outputs: Sequence[Any]) -> list[Any]:
        """The flat outputs; a backward pass from any of them brings synthetic gradients to the new state."""
        left = list(outputs)
        for edge in self.edges:
            edge.leave(left, self.reset)
        if self.reset is not None:
            for each in self.feedbacks:
                end_episodes(each, left, self.reset)
        return left

    def unsent(self, outputs: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
        """The state of the outputs that `leave` was given, and what no backward pass has brought to it."""
        found: list[tuple[Tensor, Tensor]] = []
        for edge in self.edges:
            live = [outputs[at] for at in edge.writes if _is_live(outputs[at])]
            found += zip(live, edge.taken(), strict=False)
        return found

    def close(self, active: set[int]) -> None:
        """Learn from what has arrived at the leaves that `enter` made, if all their readers are `active`."""
        for edge in self.edges:
            edge.hand_down()
            if active.issuperset(edge.dni.spec.consumers):
                edge.arrive([leaf.grad for leaf in edge.leaves])


def end_episodes(feedback: Feedback, outputs: list[Any], reset: Tensor) -> None:
    """Put zeros in the place of the state of samples whose episode is over."""
    for at, dim in zip(feedback.writes, feedback.batch_dims, strict=True):
        outputs[at] = outputs[at].masked_fill(_along(reset, outputs[at], dim), 0)  # which keeps the type


class _Edge:
    """One edge back in one step."""

    def __init__(self, feedback: Feedback, dni: DNI) -> None:
        self.dni = dni
        self.reads = [feedback.reads[at] for at in feedback.carries]
        self.writes = [feedback.writes[at] for at in feedback.carries]
        self.dims = [feedback.batch_dims[at] for at in feedback.carries]
        self.synthesis: Synthesis | None = None
        self.given: tuple[Tensor, ...] = ()
        self.carried: Tensor | None = None
        self.wanted: Sequence[Tensor | None] = ()
        self.leaves: list[Tensor] = []
        self.learned: list[Tensor | None] = []
        self.upward: tuple[Tensor, ...] = ()

    def enter(self, entered: list[Tensor], as_leaves: bool) -> None:
        """Guess for the state that comes in, to be taught by what arrives there."""
        state = [entered[at].detach() for at in self.reads]
        self.given = self._flat(state)
        self.learned = [entered[at] if is_first(entered[at]) else None for at in self.reads]
        begins = any(each is not None for each in self.learned)  # and for that no guess is ever sent
        if self.dni.wants_truth and not begins:
            self.carried = _carried(self.given)
            if self.carried is None or self.carried.numel():
                self.synthesis = self.dni.synthesize(tuple(self._lesson(each) for each in self.given))
        if as_leaves:
            self.leaves = [each.requires_grad_() for each in state]
            given: Sequence[Tensor] = self.leaves
        else:
            both = zip(self.learned, state, strict=True)
            given = _Listen.apply(
                self, *(each.requires_grad_() if own is None else own for own, each in both)
            )
        for at, value in zip(self.reads, given, strict=True):
            entered[at] = value

    def leave(self, left: list[Any], reset: Tensor | None) -> None:
        """Let every output bring what is guessed for the state that goes out.

        What was made by a stage that is not updated in this step gets nothing.
        """
        state = [left[at] for at in self.writes]
        if not any(map(_is_live, state)):
            return
        guess = self.dni.synthesize(self._flat([each.detach() for each in state]), learns=False)
        mix = self.dni.mix
        up = self.dni.upward(guess, guess.gradients, (None,) * len(state), mix)
        self._look_ahead(guess)
        if mix == 1 or all(each is None for each in up):
            return
        both = zip(state, self._formed(up, state, reset), strict=True)
        live, self.upward = zip(*[(each, formed) for each, formed in both if _is_live(each)], strict=True)
        for at, value in enumerate(left):
            if _is_live(value):
                left[at] = _Send.apply(self, at in self.writes, value, *live)

    def hand_down(self) -> None:
        """Bring what has arrived at the leaves to a first state that the user learns."""
        for own, leaf in zip(self.learned, self.leaves, strict=True):
            if own is not None and leaf.grad is not None:
                torch.autograd.backward(own, leaf.grad, retain_graph=True)  # parts may be of one parameter

    def arrive(self, true: Sequence[Tensor | None]) -> None:
        """Learn from the gradient of the state that came in."""
        if self.synthesis is not None:
            both = zip(true, self.dims, strict=True)
            flat = [None if each is None else batch_in_front(each, dim) for each, dim in both]
            asked = self.wanted or [None] * len(flat)
            whole = [added([*each]) for each in zip(flat, asked, strict=True)]
            self.dni.regress(self.synthesis, tuple(None if t is None else self._lesson(t) for t in whole))

    def _lesson(self, value: Tensor) -> Tensor:
        """Of all samples, those that something is to be learned from."""
        return value if self.carried is None else value.index_select(0, self.carried)

    def _look_ahead(self, guess: Synthesis) -> None:
        """Compare the guess for the new state with what the old one tells of it."""
        if self.dni.ahead is not None and not guess.natural and self.synthesis is not None:
            wanted = self.dni.ahead.compare(self.given, guess.gradients, self.dni.interface)
            self.wanted = [each * guess.gradient_scale for each in wanted]

    def taken(self) -> tuple[Tensor, ...]:
        """What goes to the new state, once; nothing after that."""
        up, self.upward = self.upward, ()
        return up

    def _flat(self, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(batch_in_front(each, dim) for each, dim in zip(state, self.dims, strict=True))

    def _formed(
        self, up: Sequence[Tensor | None], state: Sequence[Tensor], reset: Tensor | None
    ) -> tuple[Tensor, ...]:
        formed: list[Tensor] = []
        for guess, value, dim in zip(up, state, self.dims, strict=True):
            each = torch.zeros_like(value) if guess is None else as_it_was(guess, value, dim)
            formed.append(each if reset is None else each.masked_fill(_along(reset, each, dim), 0))
        return tuple(formed)


class _Listen(torch.autograd.Function):
    """Identity; in backward the gradient ends here, and teaches."""

    @staticmethod
    def forward(ctx: Any, edge: _Edge, *state: Tensor) -> tuple[Tensor, ...]:
        ctx.edge = edge
        ctx.set_materialize_grads(False)
        return tuple(each.view_as(each) for each in state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *true: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.edge.arrive(true)
        both = zip(true, ctx.edge.learned, strict=True)
        return None, *(None if own is None else up for up, own in both)


class _Send(torch.autograd.Function):
    """Identity of an output; the first one that a backward pass comes through brings along the guess.

    What is to be `own` is no view: users take state off its graph in place.
    """

    @staticmethod
    def forward(ctx: Any, edge: _Edge, own: bool, output: Tensor, *state: Tensor) -> Tensor:
        ctx.edge, ctx.count = edge, len(state)
        ctx.set_materialize_grads(False)
        return output.clone() if own else output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, up, *(ctx.edge.taken() or (None,) * ctx.count)


def _carried(state: Sequence[Tensor]) -> Tensor | None:
    """The samples whose state is not all zeros, None if they all are such: it was carried here.

    No guess is ever sent for the state that an episode begins with. What arrives there would teach nothing
    that is asked for, and be the noisiest part of the lesson: nothing of the episode is known yet.
    """
    begun = functools.reduce(torch.logical_or, [each.flatten(1).any(1) for each in state])
    found = begun.nonzero().squeeze(1)
    return None if len(found) == len(begun) else found


def is_first(state: Tensor) -> bool:
    """Whether this is no state that a step has returned, but one that the user learns.

    Such is a parameter, or what was made of nothing but parameters, with no step of a cut model in between.
    """
    if isinstance(state, nn.Parameter):
        return state.requires_grad
    if state.grad_fn is None:
        return False
    waiting: list[Any] = [state.grad_fn]
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        is_of_step = getattr(function, "_forward_cls", None) in (_Listen, _Send)
        end = getattr(function, "variable", None)
        if is_of_step or not (end is None or isinstance(end, nn.Parameter)):
            return False
        seen.add(function)
        waiting += [following for following, _ in function.next_functions]
    return not waiting


def _is_live(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _along(reset: Tensor, value: Tensor, dim: int) -> Tensor:
    """A mask `(batch,)` in the dimensions of a value."""
    if reset.shape != value.shape[dim : dim + 1]:
        raise StageError(
            f"dni_reset is of shape {tuple(reset.shape)}, and the state has a batch of {value.shape[dim]}: "
            "it marks the samples whose episode ends with this step."
        )
    return reset.bool().view(*[-1 if at == dim else 1 for at in range(value.dim())])
