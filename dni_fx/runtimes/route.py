"""Which process has which stage, and what has to pass between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from dni_fx.cut_graph import CutGraph
from dni_fx.errors import StageError
from dni_fx.runtimes.staged import last_readers
from passes.split_stages import Name
from passes.words import counted


@dataclass(frozen=True)
class Route:
    """What one of so many ranks does for a graph. Stages lie on ranks in order, as evenly as there can be.

    The loss counts as a stage that follows the last one, on its rank.
    """

    graph: CutGraph
    rank: int
    ranks: int

    def __post_init__(self) -> None:
        if len(self.graph.road.stages) < self.ranks:
            raise StageError(
                f"there are {counted(self.ranks, 'process')} for "
                f"{counted(len(self.graph.road.stages), 'stage')}. Cut the model into more, or start fewer."
            )

    @cached_property
    def loss(self) -> int:
        """The number of the loss among the stages."""
        return len(self.graph.road.stages)

    @cached_property
    def homes(self) -> tuple[int, ...]:
        """The rank of each stage, and of the loss."""
        return (*(at * self.ranks // self.loss for at in range(self.loss)), self.ranks - 1)

    @cached_property
    def within(self) -> range:
        """The stages of this rank."""
        return self.held_by(self.rank)

    def held_by(self, rank: int) -> range:
        """The stages of a rank."""
        found = [at for at in range(self.loss) if self.homes[at] == rank]
        return range(found[0], found[-1] + 1)

    @property
    def is_last(self) -> bool:
        """Whether this rank computes the loss."""
        return self.rank == self.ranks - 1

    @cached_property
    def reads(self) -> tuple[frozenset[str], ...]:
        """What each stage reads, and the loss."""
        result = frozenset(item.of for item in self.graph.road.split.result if isinstance(item, Name))
        return (*(frozenset(stage.code.part.reads) for stage in self.graph.road.stages), result)

    @cached_property
    def writers(self) -> Mapping[str, int]:
        """The stage that writes each value."""
        return {name: stage.index for stage in self.graph.road.stages for name in stage.code.part.writes}

    @cached_property
    def sends(self) -> Mapping[int, Mapping[int, tuple[str, ...]]]:
        """What each stage of this rank sends: names of values by the rank that they go to."""
        found: dict[int, dict[int, tuple[str, ...]]] = {}
        for stage in self.within:
            written = self.graph.road.stages[stage].code.part.writes
            for rank in range(self.ranks):
                wanted = frozenset[str]().union(*self._reads_on(rank))
                names = tuple(name for name in written if name in wanted)
                if names and rank != self.rank:
                    found.setdefault(stage, {})[rank] = names
        return found

    @cached_property
    def needs(self) -> Mapping[int, tuple[int, ...]]:
        """The stages of other ranks that each stage of this one, or the loss, reads from."""
        mine = [*self.within, *([self.loss] if self.is_last else [])]
        found = {
            at: sorted({self.writers[name] for name in self.reads[at] if name in self.writers}) for at in mine
        }
        return {
            at: tuple(stage for stage in stages if self.homes[stage] != self.rank)
            for at, stages in found.items()
        }

    @cached_property
    def readers(self) -> Mapping[int, frozenset[int]]:
        """By stages of other ranks, the stages of this one that read from them."""
        found: defaultdict[int, set[int]] = defaultdict(set)
        for at, stages in self.needs.items():
            for stage in stages:
                found[stage].add(at)
        return {stage: frozenset(places) for stage, places in found.items()}

    @cached_property
    def lent(self) -> Mapping[int, tuple[str, ...]]:
        """Parameters that stages of this rank read and those of a later one move, by that rank."""
        found: defaultdict[int, list[str]] = defaultdict(list)
        for name, ranks in self._shared.items():
            if self.rank in ranks and ranks[-1] != self.rank:
                found[ranks[-1]].append(name)
        return {rank: tuple(names) for rank, names in found.items()}

    @cached_property
    def shared(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters that stages of this rank move and those of others read, with these ranks."""
        return {name: ranks[:-1] for name, ranks in self._shared.items() if ranks[-1] == self.rank}

    @cached_property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Every parameter that some stage reads, once."""
        return {
            name: each for stage in self.graph.road.stages for name, each in stage.named_parameters().items()
        }

    @cached_property
    def memory(self) -> frozenset[int]:
        """Where the parameters and buffers are that stages of this rank read."""
        stages = self.graph.road.stages[self.within.start : self.within.stop]
        held = [each for stage in stages for each in (*stage.parameters(), *stage.named_buffers().values())]
        return frozenset(each.untyped_storage().data_ptr() for each in held)

    @cached_property
    def common_buffers(self) -> Mapping[str, Tensor]:
        """Buffers that stages of this rank and of others read."""
        mine, others = dict[str, Tensor](), set[str]()
        for stage in self.graph.road.stages:
            held = stage.named_buffers()
            mine |= held if stage.index in self.within else {}
            others |= held.keys() if stage.index not in self.within else set()
        return {name: buffer for name, buffer in mine.items() if name in others}

    def refuse_written(self, versions: Mapping[str, int]) -> None:
        """Do nothing if no common buffer was written to since it had this version.

        Raises:
            StageError: some were, and other ranks would not see it.
        """
        written = [name for name, each in self.common_buffers.items() if each._version != versions[name]]
        if written:
            raise StageError(
                f"stages of several processes read {', '.join(written)}, and this one writes to it, which "
                "the others would not see. Keep what uses it in one stage: together= in the policy."
            )

    @cached_property
    def owners(self) -> Mapping[str, int]:
        """The rank that moves each parameter, or is the last to read it."""
        return {name: ranks[-1] for name, ranks in self._ranks_of_parameters.items()}

    @cached_property
    def owned(self) -> tuple[str, ...]:
        """Names of the parameters that this rank moves or is the last to read."""
        return tuple(name for name, rank in self.owners.items() if rank == self.rank)

    def refuse_other_owners(self, others: Iterable[Route]) -> None:
        """Do nothing if the parameters of other graphs are moved by the same ranks.

        Raises:
            StageError: some are not, and there would be two optimizers for them.
        """
        known = dict[str, int]()
        for other in others:
            known |= other.owners
        moved = [name for name, rank in self.owners.items() if known.get(name, rank) != rank]
        if moved:
            raise StageError(
                f"in this call of the model {', '.join(moved)} would be moved by another process than "
                "before. Keep what reads it in one stage: together= in the policy. Or use the local runtime."
            )

    @cached_property
    def _ranks_of_parameters(self) -> Mapping[str, tuple[int, ...]]:
        readers: defaultdict[str, set[int]] = defaultdict(set)
        for stage in self.graph.road.stages:
            for name in stage.named_parameters():
                readers[name].add(self.homes[stage.index])
        return {name: tuple(sorted(ranks)) for name, ranks in readers.items()}

    @cached_property
    def _shared(self) -> Mapping[str, tuple[int, ...]]:
        moved = last_readers(self.graph)
        return {
            name: ranks
            for name, ranks in self._ranks_of_parameters.items()
            if len(ranks) > 1 and self.parameters[name] in moved
        }

    def _reads_on(self, rank: int) -> list[frozenset[str]]:
        return [names for names, home in zip(self.reads, self.homes, strict=True) if home == rank]
