"""The models that growth is measured on are what they say, and so is the fit."""

import json
import sys

import pytest
import torch
from torch import fx

import dni_fx
from tests.benchmarks import phases, scale
from tests.benchmarks.generate import KINDS, generate
from tests.benchmarks.phases import Measurement
from tests.benchmarks.scale import exponent, measured

KIND = pytest.mark.parametrize("kind", list(KINDS))


@KIND
@pytest.mark.parametrize("nodes", [100, 137, 1000, 3000])
def test_a_graph_has_as_many_nodes_as_asked_for_but_for_5_percent(kind, nodes):
    model, _ = generate(kind, nodes)
    assert abs(len(fx.symbolic_trace(model).graph.nodes) - nodes) <= 0.05 * nodes


@KIND
def test_the_same_call_gives_the_same_model_and_leaves_random_state(kind):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    (first, x), (second, y) = generate(kind, 200), generate(kind, 200)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(fx.symbolic_trace(first).graph) == str(fx.symbolic_trace(second).graph)
    assert torch.equal(x, y)
    assert torch.equal(first(x), second(y))


@KIND
def test_symbolic_tracing_captures_every_kind_and_the_deepest_computes_numbers(kind):
    model, x = generate(kind, 1000)
    assert model(x).isfinite().all()
    assert dni_fx.capture(model, x).history[-1].startswith("train: symbolic")


def test_the_fitted_exponent_is_that_of_a_power_and_leaves_small_graphs_and_failures_out():
    def found(nodes, seconds, failed=""):
        return Measurement("chain", nodes, "mark", seconds, failed=failed)

    cubic = [found(nodes, (nodes / 1000) ** 3) for nodes in (1000, 10_000, 100_000)]
    assert exponent(cubic) == 3
    assert exponent([*cubic, found(100, 1e6), found(50_000, 0, "TimeoutError: too slow")]) == 3
    assert exponent(cubic[:1]) is None


def test_every_phase_is_measured_in_a_process_of_its_own():
    found = list(measured("unet", 120, (1,), 2, 60))
    assert [each.phase for each in found] == phases.phases_of((1,))
    assert not any(each.failed for each in found)
    assert {each.nodes for each in found} == {found[0].nodes}
    assert all(each.mib > 0 for each in found)


def test_a_phase_that_takes_too_long_says_so_and_the_next_one_is_measured(capsys):
    meter = phases.Meter("chain", 1)

    def endless():
        while True:
            pass

    assert meter.measure("capture", endless) is None
    assert meter.measure("costs", lambda: 3) == 3
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["failed"].startswith("TimeoutError")
    assert not second["failed"]


def test_the_table_has_a_row_for_each_graph_and_one_for_the_growth(monkeypatch, tmp_path, capsys):
    made = [Measurement("chain", n, p, n / 1000, 1.0) for n in (1000, 10_000) for p in phases.phases_of((1,))]
    monkeypatch.setattr(
        scale, "measured", lambda kind, nodes, *_: [each for each in made if each.nodes == nodes]
    )
    path = tmp_path / "found.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["scale", "--kinds", "chain", "--sizes", "1000", "10000", "--width", "1", "--json", str(path)],
    )
    scale.main()
    printed = capsys.readouterr().out
    assert "10,000" in printed
    assert "1.00" in next(line for line in printed.splitlines() if "exponent" in line)
    assert [Measurement(**each) for each in json.loads(path.read_text())] == made
