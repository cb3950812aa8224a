from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import pytest
import torch
from torch import nn

import dni_fx
from dni_fx import assembly
from dni_fx.policies import Policy
from passes import Plan
from passes.costs import node_table, time
from passes.dataflow import carrying, computed, dataflow
from passes.errors import PreconditionError
from passes.placement import plan_of


@dataclass(frozen=True)
class Halves(Policy):
    """Cut in two where half of the time is over."""

    name = "halves"

    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        costs, total = time(flow), 0
        half = sum(costs.values()) / 2
        stages: dict[str, int] = {}
        for name in carrying(flow):
            stages[name] = int(total >= half)
            total += costs[name]
        return plan_of(flow, stages, str(self))


@dataclass(frozen=True)
class Timed(Halves):
    """The same, and it says that it reads the time."""

    name = "timed"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"seconds"})


@dataclass(frozen=True)
class Priced(Policy):
    """Cut after the value whose synthesizer costs least, of those that have one."""

    name = "priced"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"synthesizer"})

    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        names = carrying(flow)
        cost = {name: flow.nodes[name]["synthesizer_bytes"] for name in names[:-1]}
        place = names.index(min(cost, key=lambda name: cost[name]))
        return plan_of(flow, {name: int(at > place) for at, name in enumerate(names)}, str(self))


def uneven() -> nn.Module:
    """One large layer among small ones."""
    return nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 2))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(64, 4)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A 1 for every time that a graph is measured."""
    times: list[int] = []
    measure = assembly.measure

    def counting(*args: object, **kwargs: object) -> None:
        times.append(1)
        measure(*args, **kwargs)

    monkeypatch.setattr(assembly, "measure", counting)
    return times


def test_a_policy_that_reads_the_time_gets_it(x: torch.Tensor) -> None:
    program, state = dni_fx.capture(uneven(), x), torch.get_rng_state()
    plan = dni_fx.plan(program, Timed())
    assert torch.equal(torch.get_rng_state(), state)
    assert len(plan) == 2


def test_a_policy_that_does_not_say_so_is_told_that_nothing_was_measured(
    x: torch.Tensor, counted: list[int]
) -> None:
    with pytest.raises(PreconditionError, match="cannot balance by time: the graph was not measured"):
        dni_fx.plan(dni_fx.capture(uneven(), x), Halves())
    dni_fx.plan(dni_fx.capture(uneven(), x), Priced())
    assert not counted


def test_a_program_is_measured_once_and_gives_one_plan(x: torch.Tensor, counted: list[int]) -> None:
    program = dni_fx.capture(uneven(), x)
    first, second = dni_fx.plan(program, Timed()), dni_fx.plan(program, Timed())
    assert first == second
    cut = dni_fx.decouple(program, plan=Timed())
    assert len(dni_fx.stages(cut)) == 2
    assert counted == [1]


@pytest.mark.parametrize("given", [True, False])
def test_decoupling_measures_on_the_example_or_on_the_first_batch(
    given: bool, x: torch.Tensor, counted: list[int]
) -> None:
    model = uneven()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cut = dni_fx.decouple(model, (x,) if given else None, plan=Timed())
    assert counted == [1] * given
    cut(x)
    cut(x)
    assert counted == [1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_decoupling_prices_the_synthesizers_that_it_will_use(x: torch.Tensor) -> None:
    program = dni_fx.capture(uneven(), x)
    first, _, last, _ = carrying(dataflow(assembly.training_graph(program)))
    linear = dni_fx.decouple(program, plan=Priced(), synthesizer="linear")
    assert [name for name, _ in _places(linear)] == ["0"]
    by_pattern = dni_fx.decouple(program, plan=Priced(), synthesizer={"2": "zero", "*": "linear"})
    assert [name for name, _ in _places(by_pattern)] == ["2"]
    assert len(dni_fx.plan(program, Priced())) == 2
    assert first != last


def _places(cut: dni_fx.Decoupled) -> list[tuple[str, object]]:
    return [(dni.spec.value.anchor, dni) for dni in dni_fx.boundaries(cut).values()]


def test_the_table_of_nodes_has_a_row_for_each_computed_node(x: torch.Tensor) -> None:
    program = dni_fx.capture(uneven(), x)
    flow = dataflow(assembly.training_graph(program))
    assert [row["name"] for row in node_table(flow)] == computed(flow)
    assert {row["seconds"] for row in node_table(flow)} == {None}
    dni_fx.plan(program, Timed())
    rows = node_table(dataflow(assembly.training_graph(program)))
    assert all(row["seconds"] > 0 for row in rows)
    assert [row["parameter_bytes"] for row in rows] == [4 * 10, 4 * 3072, 4 * 1025 * 1024, 4 * 2050]
    assert [row["backward_flops"] // row["flops"] for row in rows] == [1, 2, 2, 2]
