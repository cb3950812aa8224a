"""Benchmarks of learning run at their smallest, compare like with like, and go on where they were stopped."""

import importlib
import json
import math
import sys
from functools import partial

import pytest
import torch

from tests.benchmarks.learning import pool, records
from tests.benchmarks.learning.data import images, text
from tests.benchmarks.learning.jobs import Group, Job
from tests.benchmarks.learning.mnist import task_of
from tests.benchmarks.learning.records import Point, Run
from tests.benchmarks.learning.rows import Row
from tests.benchmarks.learning.runs import train

SMALL = {
    "mnist": "--hidden 2 --steps 2 --batch 16 --points 1 --seeds 1",
    "one_cut": "--steps 2 --points 1 --seeds 2",
    "images": "--channels 4 --bf16 --channels-last --steps 2 --batch 16 --points 1 --seeds 1",
    "residual": "--width 4 --stages 2 3 --steps 2 --batch 16 --points 1 --seeds 1",
    "gpt": "--blocks 2 --width 16 --time 8 --stages 2 3 --steps 2 --batch 4 --points 1 --seeds 1",
    "stability": "--nets mlp --batches 1 --steps 2 --seeds 1",
    "poison": "--steps 2 --batch 16 --points 1 --seeds 1",
}


def run(monkeypatch, name, text):
    command = importlib.import_module(f"tests.benchmarks.learning.{name}")
    monkeypatch.setattr(sys, "argv", [name, *text.split()])
    command.main()


@pytest.mark.parametrize("name", SMALL)
def test_every_command_prints_a_table_and_keeps_its_runs(name, monkeypatch, tmp_path, capsys):
    path = tmp_path / "runs.json"
    rows = ["cDNI"] if name == "poison" else ["backprop", "zero", "cDNI"]
    run(monkeypatch, name, f"{SMALL[name]} --rows {','.join(rows)} --jobs 1 --json {path}")
    printed = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert {each["row"] for each in found} == set(rows)
    assert all(not each["failed"] for each in found)
    assert all(row in printed for row in rows)
    assert all(math.isfinite(point["validation"]) for each in found for point in each["points"])


def test_the_cost_of_a_step_is_told_of_every_row(monkeypatch, tmp_path, capsys):
    path = tmp_path / "times.json"
    run(monkeypatch, "step_cost", f"--hidden 2 --batch 16 --rounds 2 --json {path}")
    printed = capsys.readouterr().out
    assert [each["row"] for each in json.loads(path.read_text())] == ["backprop", "linear", "zero"]
    assert all(row in printed for row in ("backprop", "linear", "zero"))


def test_errors_are_told_of_every_way_to_unlock(monkeypatch, tmp_path, capsys):
    path = tmp_path / "errors.json"
    run(monkeypatch, "unlocked", f"--hidden 2 --batch 16 --epochs 2 --steps 2 --json {path}")
    printed, found = capsys.readouterr().out, json.loads(path.read_text())
    assert [each["row"] for each in found] == ["backprop", "local", "asynchronous", "forward"]
    assert [each["steps"] for each in found] == [4, 4, 20, 4]
    assert all(0 < error < 1 for each in found for error in each["errors"])
    assert all(each["row"] in printed for each in found)


def test_runs_that_are_in_the_file_are_not_run_again(monkeypatch, tmp_path, capsys):
    path = tmp_path / "runs.json"
    options = f"{SMALL['gpt']} --jobs 1 --json {path} --rows"
    run(monkeypatch, "gpt", f"{options} backprop,zero")
    assert "1 of 3 runs" in capsys.readouterr().err  # backprop is the same for two and for three stages
    run(monkeypatch, "gpt", f"{options} backprop,zero")
    again = capsys.readouterr()
    assert "runs" not in again.err
    assert "3 stages" in again.out
    before = path.read_text()
    run(monkeypatch, "gpt", f"{options} backprop,zero,DNI linear")
    assert "1 of 4 runs" in capsys.readouterr().err
    assert path.read_text().startswith(before.rstrip("]\n"))


def test_a_run_that_fails_is_told_of_and_tried_again(monkeypatch, tmp_path, capsys):
    path = tmp_path / "runs.json"
    options = f"{SMALL['one_cut']} --seeds 1 --jobs 1 --rows cDNI --json {path} --cdni"
    for _ in range(2):
        run(monkeypatch, "one_cut", f"{options} conv")
        said = capsys.readouterr()
        assert "1 of 1 runs" in said.err
        assert "failed: SynthesizerError: cannot build conv" in said.out


def small(steps):
    return task_of(2, partial(images, None), 16, steps, points=2)


def test_an_oracle_reaches_what_backprop_reaches_and_the_seed_decides_all():
    one, other = (train(Job(small(6), row, 1)) for row in (Row("backprop"), Row("oracle", "oracle")))
    assert [p.validation for p in one.points] == [p.validation for p in other.points]
    assert one.points[-1].loss == other.points[-1].loss
    again = train(Job(small(6), Row("backprop"), 2))
    assert again.points[-1].validation != one.points[-1].validation


def test_a_run_goes_on_until_its_time_is_used_up():
    run = train(Job(small(2), Row("zero", "zero"), 0), until=0.05)
    assert run.seconds >= 0.05
    assert run.steps > 2
    assert [point.step for point in run.points[:3]] == [0, 1, 2]


def test_a_loss_that_is_not_finite_ends_the_run():
    def spoil(net):
        next(net.parameters()).data.fill_(math.inf)

    spoiled = train(
        Job(task_of(2, partial(images, None), 16, 8, points=4, halfway=spoil), Row("backprop"), 0)
    )
    assert (spoiled.steps, spoiled.finite) == (6, False)


def test_the_others_of_a_group_may_take_the_time_of_the_first(monkeypatch):
    asked = []

    def attempt(job, until):
        asked.append((job.row.name, job.seed, until))
        return Run(job.key, "", job.row.name, job.seed, (Point(1, 3.0 + job.seed, 0, 0, 0, 0),))

    monkeypatch.setattr(pool, "attempt", attempt)
    jobs = {(name, seed): Job(small(2), Row(name), seed) for name in "abc" for seed in range(3)}
    groups = [Group(jobs["a", seed], (jobs["b", seed], jobs["c", seed])) for seed in range(2)]
    list(pool.carried_out([*groups, Group(None, (jobs["b", 2],), 7.0)], 1))
    first = [("a", 0, 0.0), ("b", 0, 3.0), ("c", 0, 3.0)]
    assert asked == [*first, ("a", 1, 0.0), ("b", 1, 4.0), ("c", 1, 4.0), ("b", 2, 7.0)]


def test_figures_lie_between_points_and_end_with_them(tmp_path):
    points = tuple(Point(step, step / 10, 0.0, 0.0, 3 - step / 100, 0.5) for step in (0, 100, 200))
    made = Run("key", "setting", "zero", 0, points)
    assert made.at_step(50, "validation") == 2.5
    assert made.at_seconds(15, "validation") == 1.5
    assert math.isnan(made.at_seconds(21, "validation"))
    records.save(tmp_path / "runs.json", [made])
    assert records.load(tmp_path / "runs.json") == {"key": made}


def test_an_epoch_of_images_shows_each_once_and_text_is_shifted_by_one():
    data = images(None)
    size = len(data.x) // 4
    batches = data.batches(size, seed=0)
    seen = torch.cat([next(batches)[0] for _ in range(data.epoch(size))])
    assert (seen.min(), seen.max()) == (0, 1)
    every = data.x / 255
    assert len({tuple(x.flatten().tolist()) for x in seen}) >= len(seen) - (
        len(every) - len(every.unique(dim=0))
    )
    x, y = next(text(None, 8).batches(4, seed=0))
    assert torch.equal(x[:, 1:], y[:, :-1])
