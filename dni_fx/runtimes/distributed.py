"""The stages of a model on several processes, none of which waits for gradients."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from typing_extensions import override

from dni_fx.archive import VERSION
from dni_fx.decoupled import Decoupled
from dni_fx.distributed.post import Post
from dni_fx.distributed.processes import joined, own_device
from dni_fx.errors import StageError
from dni_fx.runtimes.base import Runtime, Worker
from dni_fx.runtimes.likeness import of_recipe
from dni_fx.runtimes.local import Local
from dni_fx.runtimes.member import Member
from dni_fx.runtimes.recipe import Recipe
from passes import SpecError

_RUNS = itertools.count()
"""Numbers of the runs of this process: all processes start the same ones in the same order."""


@dataclass(frozen=True)
class Distributed(Runtime):
    """Each process has some of the stages, trains them as `local` does, and waits for no gradients.

    Start the same program as many times as there are to be processes, with `torchrun --nproc-per-node 2
    train.py`; alone it does what `local` does. Each process makes the model and captures it; stages lie on
    them in order. Values go to whoever reads them without anybody waiting, and true gradients come back and
    teach the synthesizers when they are there. A process is at most `lag` steps ahead of those; with 0 each
    step ends when they have come, and equals one of `local` to the bit, if that has its `streams`. If it is
    `deterministic`, gradients count just `lag` steps later and not as soon as they come, so that a run can be
    repeated. A parameter that stages of several processes read is moved by the last of them, with the sum of
    their gradients; a process that reads it has it as it was `lag` steps ago at the latest. Where such
    gradients are those of several batches, each process adds up its own, which rounds otherwise than `local`.

    With `replicas`, so many processes have each stage, and train it on equal parts of every batch: with two
    of them, the stages lie on half of the processes. Gradients are averaged, as in data parallel training.
    With `shards`, each replica keeps only its part of the weights of a stage, of their gradients and of their
    optimizer: the whole weights are there while the stage runs forward and backward.

    Between steps a process has the weights of its own stages; what others train reads as NaN in it until
    they are brought together: for a validation, in the first process, and at the end of a run, in all.

    Stages draw random numbers from streams by `seed`, the step and the stage. A process that is silent for
    `patience` seconds, or ends, ends the run of the others.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 2.
    """

    name = "distributed"

    lag: int = 4
    deterministic: bool = False
    replicas: int = 1
    shards: bool = False
    seed: int = 0
    patience: float = 60.0

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise SpecError(f"distributed.lag is 0 or more steps, not {self.lag}.")
        if self.replicas < 1:
            raise SpecError(f"distributed.replicas is 1 or more, not {self.replicas}.")
        if self.shards and self.replicas == 1:
            raise SpecError("distributed.shards is for replicas, which share weights: with replicas above 1.")
        if not self.patience > 0:
            raise SpecError(f"distributed.patience is above 0 seconds, not {self.patience}.")

    @property
    @override
    def keeps_like(self) -> str:
        return "local"

    @override
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        wire = joined(self.patience)
        if wire is None:
            return Local(seed=self.seed, streams=True).start(cut, recipe)
        if recipe.autocast is torch.float16:
            raise StageError(
                "with float16 one process would have to tell all others which steps to leave out: use "
                "bfloat16."
            )
        post = Post(wire, next(_RUNS), own_device())
        post.agree("versions", _versions() | {"runtime": str(self)} | of_recipe(recipe))
        return Member(cut, recipe, self, post)


def _versions() -> dict[str, Any]:
    return {"dni_fx": version("dni-fx"), "torch": str(torch.__version__), "files": VERSION}
