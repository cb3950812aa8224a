"""Reading batches pass after pass, and going on in the middle of one as if nothing had happened."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset

from dni_fx.errors import StageError
from dni_fx.randomness import random_state, set_random_state


@runtime_checkable
class Stateful(Protocol):
    """A loader that says where it is, and goes back there: the next pass is then the rest of that one."""

    def state_dict(self) -> Any:
        """Where it is."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Go back there."""


class Order:
    """One loader. Each iteration is a pass; the first one after a state was loaded is the rest of a pass.

    A loader with a state of its own is asked for it. A data loader over samples that have numbers, or a
    sequence of batches, is read again up to the place from the random state that the pass began with.
    Others can only begin anew.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.read = 0
        self.is_through = False
        self._start: dict[str, Any] = {}
        self._waiting: Mapping[str, Any] | None = None
        self._is_put_back = False

    def over(self, batches: Iterable[Any]) -> Order:
        """The same place in other batches: those of a loader that was made anew, say.

        Raises:
            StageError: it is in the middle of a pass, where these batches cannot go on.
        """
        if batches is self.batches:
            return self
        other = Order(batches)
        if self._waiting is not None:
            other.load_state_dict(self._waiting)
        return other

    @property
    def is_resumable(self) -> bool:
        """Whether it can go on in the middle of a pass."""
        batches = self.batches
        if isinstance(batches, DataLoader):
            is_numbered = not isinstance(cast("Any", batches.dataset), IterableDataset)
            return is_numbered or isinstance(batches, Stateful)
        return isinstance(batches, Stateful | Sequence)

    @property
    def length(self) -> int | None:
        """How many batches a pass has, if that is known."""
        try:
            return len(cast("Sized", self.batches))
        except TypeError:  # also of a data loader over a stream
            return None

    def passage(self, number: int) -> Iterator[Any]:
        """The batches of one pass; samplers that order by the number of the pass are told it, from 0."""
        for sampler in _samplers(self.batches):
            if callable(tell := getattr(sampler, "set_epoch", None)):
                tell(number)
        for batch in self._iterator():
            self.read += 1
            yield batch
        self.is_through = True

    def finish(self) -> None:
        """Count the pass as done: the next one begins anew."""
        self.read, self.is_through = 0, False

    def state_dict(self) -> dict[str, Any]:
        """Where the pass is, how it began, and the state of every random generator now.

        Where it goes back to when the next pass begins, it is already.

        Raises:
            StageError: it is in the middle of a pass and could not go on there.
        """
        if self._waiting is not None:
            return dict(self._waiting)
        if self.read and not (self.is_through or self.is_resumable):
            raise StageError(f"a {type(self.batches).__name__} cannot go on in the middle of a pass.")
        loader = self.batches.state_dict() if isinstance(self.batches, Stateful) else None
        return {
            "read": self.read,
            "through": self.is_through,
            "start": self._start,
            "now": self._random(),
            "loader": loader,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned, when the next pass begins.

        Raises:
            StageError: it is in the middle of a pass, where these batches cannot go on.
        """
        if state["read"] and not (state["through"] or self.is_resumable):
            raise StageError(
                f"the checkpoint was made after {state['read']} batches of an epoch, and a loader of type "
                f"{type(self.batches).__name__} cannot go on there. Pass the one it was made with."
            )
        if state["loader"] is None and isinstance(self.batches, Stateful):
            raise StageError(
                "the checkpoint was made with a loader without a state_dict. Pass one of its kind."
            )
        self._waiting = state

    @property
    def is_resuming(self) -> bool:
        """Whether the next pass is the rest of one."""
        return self._waiting is not None

    def _iterator(self) -> Iterator[Any]:
        state, self._waiting = self._waiting, None
        if state is None:
            self._start, self.read = self._random(), 0
            return self._anew()
        self._start, self.read = state["start"], state["read"]
        is_inside = state["read"] and not state["through"]
        if isinstance(self.batches, Stateful):
            self.batches.load_state_dict(state["loader"])
            self._is_put_back = not is_inside
        elif is_inside:
            return self._replayed(state)
        self._go_back(state["now"])
        if state["through"]:
            return iter(())
        if not state["read"]:
            self._start = state["now"]
        return self._anew()

    def _anew(self) -> Iterator[Any]:
        """A pass; of a loader that was put back to where a pass was over, the one after it."""
        iterator = iter(self.batches)
        if not self._is_put_back:
            return iterator
        self._is_put_back = False
        # Some loaders go on where they were, with nothing, and others in the next pass.
        nothing = object()
        first = next(iterator, nothing)
        return iter(self.batches) if first is nothing else itertools.chain([first], iterator)

    def _replayed(self, state: Mapping[str, Any]) -> Iterator[Any]:
        self._go_back(state["start"])
        iterator, nothing = iter(self.batches), object()
        if any(next(iterator, nothing) is nothing for _ in range(state["read"])):
            raise StageError(
                f"the checkpoint was made after {state['read']} batches of an epoch, and now there are fewer."
            )
        set_random_state(state["now"]["all"])  # the loader's own generators are where they belong
        return iterator

    def _random(self) -> dict[str, Any]:
        own = [generator.get_state() for generator in _generators(self.batches)]
        return {"all": random_state(), "own": own}

    def _go_back(self, state: Mapping[str, Any]) -> None:
        generators = _generators(self.batches)
        if len(generators) != len(state["own"]):
            raise StageError(
                f"the checkpoint was made with a loader of {len(state['own'])} random generators, and this "
                f"one has {len(generators)}. Pass the kind of loader that it was made with."
            )
        for generator, each in zip(generators, state["own"], strict=True):
            generator.set_state(each)
        set_random_state(state["all"])


def _samplers(batches: object) -> list[object]:
    """What decides the order of the samples of a data loader."""
    if not isinstance(batches, DataLoader):
        return []
    found = [batches.sampler, batches.batch_sampler]
    return [each for each in [*found, getattr(batches.batch_sampler, "sampler", None)] if each is not None]


def _generators(batches: object) -> list[torch.Generator]:
    """The random generators that a loader draws from besides those of the process, each once."""
    found = [getattr(each, "generator", None) for each in (batches, *_samplers(batches))]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())
