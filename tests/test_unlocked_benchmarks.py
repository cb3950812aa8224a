"""Benchmarks of memory and of throughput run at their smallest, and their figures say what they claim."""

import importlib
import json
import sys

import pytest
import torch

from tests.benchmarks.unlocked.measures import Memory, memory_of, trained
from tests.benchmarks.unlocked.meters import Timeline, by_allocator, isolated, storages
from tests.benchmarks.unlocked.settings import KNOWN, Setting
from tests.benchmarks.unlocked.ways import CUT, NAMES, Choice, Way

CONV = Choice("conv")
DEEP = Setting("mlp", depth=16, width=32, batch=512)
SMALL = {
    "mlp": Setting("mlp", depth=3, width=16, batch=8),
    "resnet": Setting("resnet", depth=3, width=4, batch=2),
    "gpt": Setting("gpt", depth=3, width=16, batch=2, time=16, vocabulary=65),
    "gpt-16k": Setting("gpt", depth=3, width=16, batch=1, time=16, vocabulary=16_384),
}


def run(monkeypatch, capsys, name, text):
    command = importlib.import_module(f"tests.benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, *text.split()])
    command.main()
    return capsys.readouterr()


def test_the_tables_of_memory_hold_what_the_file_holds(monkeypatch, tmp_path, capsys):
    rows = "backprop checkpoint drop-in local"
    sizes = "--nets mlp --depth 16 --width 32 --batch 512 --stages 4 --depths 8 16 --per-stage 4"
    files = f"--json {tmp_path / 'found.json'} --plot {tmp_path / 'found.png'}"
    command = f"{sizes} --rows {rows} --seconds 0.2 {files}"
    first = run(monkeypatch, capsys, "memory", command)
    known = json.loads((tmp_path / "found.json").read_text())
    live = {name: each["live"] for name in rows.split() for each in [_of(known, name, "depth=16")]}
    assert live["local"] < 0.6 * live["backprop"]
    assert live["drop-in"] < 0.7 * live["backprop"]
    assert all(f"{live[name] / live['backprop']:.3f}" in first.out for name in live)
    assert _of(known, "backprop", "depth=8")["live"] < 0.6 * live["backprop"]
    assert (tmp_path / "found.png").stat().st_size > 10_000
    again = run(monkeypatch, capsys, "memory", command)
    assert (again.out, again.err) == (first.out, "")  # nothing is measured again


def _of(known, name, depth):
    """The figures of memory of a row, whatever its stages."""
    return next(
        each for key, each in known.items() if key.startswith("memory") and f" {name}" in key and depth in key
    )


def test_the_longest_sample_that_fits_is_longer_for_stages_that_need_not_wait(monkeypatch, tmp_path, capsys):
    sizes = "--nets gpt --depth 6 --width 16 --stages 3 --no-rows --cap 700000 --shortest 32 --most 128"
    path = tmp_path / "found.json"
    out = run(monkeypatch, capsys, "memory", f"{sizes} --rows backprop local --seconds 0.1 --json {path}").out
    lines = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    tokens = {cells[1].split(",")[0].strip(): int(cells[2].replace(",", "")) for cells in lines}
    assert 0 < tokens["backprop"] < tokens["local"]
    below = [size for key, size in json.loads(path.read_text()).items() if key.startswith("live")]
    assert min(below) < 700_000 < max(below)


def test_the_table_of_throughput_has_a_loss_beside_every_time(monkeypatch, tmp_path, capsys):
    sizes = "--nets gpt --depth 2 --width 16 --time 16 --batch 2 --stages 2 --seconds 0.2 --points 2"
    files = f"--json {tmp_path / 'found.json'} --plot {tmp_path / 'found.svg'}"
    out = run(monkeypatch, capsys, "throughput", f"{sizes} --rows backprop local zero {files}").out
    known = json.loads((tmp_path / "found.json").read_text())
    (learned,) = (each for key, each in known.items() if key.startswith("training"))
    for each in learned:
        assert sum(each["times"]["wall"]) >= 0.2
        assert f"{each['judged'][-1][1]:.4f}" in out
        assert len(each["judged"]) <= 2
    assert b"<svg" in (tmp_path / "found.svg").read_bytes()


@pytest.mark.parametrize("net", SMALL)
def test_every_way_trains_every_net(net):
    assert SMALL.keys() == KNOWN.keys()
    ways = [Way(name, 2 if name in CUT else 1) for name in NAMES if name != "budget"]
    for way, learned in zip(ways, isolated(trained, [(SMALL[net], way) for way in ways], 0.02), strict=True):
        assert learned.loss < 12, way


def test_exact_ways_reach_what_backprop_reaches():
    ways = Way("backprop"), Way("checkpoint", 2), Way("accumulate"), Way("drop-in", 1), Way("local", 1)
    losses = [isolated(_after_three_steps, way) for way in ways]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)  # sums are taken in another order


def _after_three_steps(way):
    from tests.benchmarks.unlocked.measures import Run

    run = Run((SMALL["gpt"], way))
    for _ in range(3):
        run.timed()
    run.judge(0)
    return run.learned.loss


@pytest.mark.parametrize("name", ["backprop", "checkpoint", "drop-in", "local"])
def test_the_allocator_and_the_live_tensors_tell_the_same(name):
    found = isolated(memory_of, DEEP, Way(name, 4))
    assert found.allocator == pytest.approx(found.live, rel=0.03)  # kernels take some for themselves
    assert 0 < found.activations < found.live


def test_compiled_code_is_measured_or_the_reason_is_told():
    found = isolated(memory_of, SMALL["mlp"], Way("budget"))
    assert isinstance(found, Memory)
    assert found.activations is None
    assert found.live == found.allocator > 0
    with pytest.raises(RuntimeError, match="SynthesizerError: cannot build conv"):
        isolated(memory_of, SMALL["mlp"], Way("local", 2, CONV))


def test_a_timeline_tells_what_was_there_at_the_peak():
    start = torch.zeros(1000)
    with Timeline(start) as seen:
        kept = start + 1
        start.sin().cos()
    assert seen.most == 3 * 4000
    assert seen.at_peak() == [
        ("aten.add.Tensor", 4000, 1),
        ("aten.sin.default", 4000, 1),
        ("aten.cos.default", 4000, 1),
    ]
    assert seen.without(storages([kept])) == 2 * 4000


def test_the_allocator_tells_of_memory_that_is_free_again():
    assert by_allocator(lambda: torch.zeros(5000).sum()) >= 20_000
