"""Parameters that stages of several processes read: one moves them, with the gradients of all."""

from __future__ import annotations

from collections import deque

import torch

from dni_fx.distributed.post import Post
from dni_fx.gradients import added
from dni_fx.runtimes.route import Route


class Tied:
    """Brings gradients to the rank that is the last to read a parameter, and its new values back.

    So there is one state of the optimizer for it, and one sum, whoever adds it up; a rank that reads it
    meanwhile has an older value.
    """

    def __init__(self, route: Route, post: Post) -> None:
        self.route = route
        self.post = post
        self.borrowers = sorted({rank for ranks in route.shared.values() for rank in ranks})
        self._coming: deque[tuple[int, int]] = deque()

    @torch.no_grad()
    def collect(self, number: int) -> None:
        """Send the gradients of what others move, and add those that others have for what is moved here."""
        known = self.route.parameters
        for rank, names in self.route.lent.items():
            self.post.send(rank, f"lent {number}", {name: known[name].grad for name in names})
            for name in names:
                known[name].grad = None
            self._coming.append((number, rank))
        told = {rank: self.post.take(rank, f"lent {number}") for rank in self.borrowers}
        for name, ranks in self.route.shared.items():
            theirs = added([told[rank][name] for rank in ranks])
            known[name].grad = added([theirs, known[name].grad])

    def spread(self, number: int) -> None:
        """Send what has been moved here to those who read it."""
        known = self.route.parameters
        for rank in self.borrowers:
            mine = [name for name, ranks in self.route.shared.items() if rank in ranks]
            self.post.send(rank, f"moved {number}", {name: known[name].detach().clone() for name in mine})

    @torch.no_grad()
    def take(self, number: int, more: bool) -> None:
        """Take the values of updates up to this number; of later ones those that are there, if `more`."""
        while self._coming:
            at, rank = self._coming[0]
            if at > number and not (more and self.post.there(rank, f"moved {at}")):
                return
            self._coming.popleft()
            for name, value in self.post.take(rank, f"moved {at}").items():
                self.route.parameters[name].copy_(value)
