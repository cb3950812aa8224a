"""Benchmarks of carried state: their tasks ask for what they say, and all rows are given the same."""

import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks.recurrent import chars, copy, memory
from tests.benchmarks.recurrent.characters import Rows
from tests.benchmarks.recurrent.rows import Row
from tests.benchmarks.recurrent.stream import ENOUGH, JUDGED, Curriculum, Stream
from tests.benchmarks.recurrent.tasks import CHANNELS, GAP, GO, TASKS, UNSCORED, Level, episodes

LEVELS = [Level(1), Level(2), Level(7), Level(1, 2), Level(3, 2), Level(4, 4)]
TINY = {
    "copy": "--chunks 2 3 --updates 60 --hidden 8 --batch 8 --seeds 2",
    "chars": "--characters 3000 --hidden 8 --batch 8 --points 2 --seeds 2",
}


def run(monkeypatch, capsys, name, text):
    command = importlib.import_module(f"tests.benchmarks.recurrent.{name}")
    monkeypatch.setattr(sys, "argv", [name, *text.split()])
    command.main()
    return capsys.readouterr()


@pytest.mark.parametrize("name", TINY)
def test_every_command_prints_all_rows_and_measures_nothing_twice(name, monkeypatch, tmp_path, capsys):
    files = f"--json {tmp_path / 'found.json'} --plot {tmp_path / 'found.png'}"
    first = run(monkeypatch, capsys, name, f"{TINY[name]} {files}")
    known = json.loads((tmp_path / "found.json").read_text())
    rows = ["bptt", "dni", "dni-aux", "full"] if name == "copy" else ["bptt-8", "dni-8", "bptt-20", "full"]
    assert all(row in first.out for row in rows)
    assert not any(each["warnings"] for each in known.values())
    assert (tmp_path / "found.png").stat().st_size > 10_000
    again = run(monkeypatch, capsys, name, f"{TINY[name]} {files}")
    assert (again.out, again.err) == (first.out, "")
    if name == "copy":
        assert {each["updates"] for each in known.values()} == {60}
    else:
        seen = [[characters for characters, _ in each["judged"]] for each in known.values()]
        assert all(0 <= each[-1] - 3000 <= 2 * 8 * 128 for each in seen)
        assert all(math.isfinite(bits) for each in known.values() for _, bits in each["judged"])


def test_memory_is_the_same_to_the_byte_however_long_a_sequence_is(monkeypatch, tmp_path, capsys):
    text = "--lengths 20 200 --chunk 5 --hidden 8 --batch 4 "
    text += f"--json {tmp_path / 'found.json'} --plot {tmp_path / 'found.png'}"
    first = run(monkeypatch, capsys, "memory", text)
    known = json.loads((tmp_path / "found.json").read_text())
    live = [figures["live"] for figures in known.values()]
    rows = dict(zip(memory.ROWS, zip(live[::2], live[1::2], strict=True), strict=True))
    short, long = rows.pop("full")
    assert 8 * short < long < 10 * short  # but for what is there once, ten times as much
    assert all(short == long > 0 for short, long in rows.values()), rows
    assert (tmp_path / "found.png").stat().st_size > 10_000
    again = run(monkeypatch, capsys, "memory", text)
    assert (again.out, again.err) == (first.out, "")


def test_what_does_not_fit_into_memory_is_told_and_the_others_are_measured():
    text = "--rows full bptt --lengths 20 8000 --hidden 64 --batch 16 --limit 0.1"
    # In a process of its own: one that has run many tests has memory to spare that no limit takes away.
    command = [sys.executable, "-m", "tests.benchmarks.recurrent.memory", *text.split()]
    folder = Path(__file__).parents[1]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    assert "can't allocate memory" in found.stderr
    full, bptt = (line for line in found.stdout.splitlines() if "│ full" in line or "│ bptt" in line)
    assert full.count(" - ") == 3
    assert " - " not in bptt


def test_lengths_are_whole_numbers_of_chunks(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "memory", "--lengths 22 --chunk 5")
    assert "22 steps are not a whole number of chunks of 5" in capsys.readouterr().err


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("time", [1, 2, 5])
def test_an_episode_asks_for_what_it_has_shown(level, time):
    x, y = episodes(level, 20, time, np.random.default_rng(0))
    assert x.shape == (20, level.padded(time), CHANNELS)
    assert x.shape[1] % time == 0
    for shown, asked in zip(x, y, strict=True):
        symbols = shown[:, :-1].argmax(1).tolist()
        bits = symbols[: symbols.index(GO)]
        assert len(bits) == level.bits
        wanted = [UNSCORED] * (len(bits) + 1) + bits * level.repeats
        assert asked.tolist() == wanted + [UNSCORED] * (len(symbols) - len(wanted))
        assert set(symbols[len(bits) + 1 :]) == {GAP}
        assert (shown[:, :-1].sum(1) == 1).all()
        assert np.flatnonzero(shown[:, -1]).tolist() == [level.bits]
    assert len({tuple(each) for each in y.tolist()}) == min(len(y), 2**level.bits) or level.bits > 1


@pytest.mark.parametrize("time", [2, 3])
def test_chunks_one_after_another_are_whole_episodes(time):
    stream, level, parts = Stream(4, time, 0, Level(3)), Level(3), {at: [] for at in range(4)}
    begun, whole = set(), 0
    for _ in range(60):
        chunk = stream.chunk(level)
        for at in range(4):
            parts[at] += list(zip(chunk.x[at].argmax(-1).tolist(), chunk.y[at].tolist(), strict=True))
            if chunk.ends[at]:
                symbols, asked = zip(*parts[at], strict=True)
                if at in begun:  # the first one began before
                    assert list(asked[4:7]) == list(symbols[:3])
                    assert len(symbols) in (level.padded(time), level.padded(time) + time)
                    whole += 1
                begun.add(at)
                parts[at] = []
    assert whole > 50
    assert len({len(each) for each in parts.values()}) > 1  # out of step


def test_rows_are_given_the_same_while_they_are_at_the_same_length():
    one, other = (Stream(8, 3, seed, Level()) for seed in (5, 5))
    for level in [Level(1)] * 5 + [Level(2)] * 9 + [Level(2, 2)] * 9:
        a, b = one.chunk(level), other.chunk(level)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert torch.equal(a.ends, b.ends)
    assert not torch.equal(Stream(8, 3, 6, Level()).chunk(Level(3)).x, a.x)


def test_whole_episodes_are_one_chunk():
    stream = Stream(4, 0, 0, Level(2))
    for level in (Level(2), Level(3), Level(3, 2)):
        chunk = stream.chunk(level)
        if level == Level(2):
            continue  # it was begun when the stream was made
        assert chunk.x.shape[1] == level.length
        assert chunk.ends.all()
        assert chunk.present.all()
        assert int(chunk.scored.sum()) == 4 * level.bits * level.repeats


def test_a_perfect_loss_advances_and_a_bad_one_does_not():
    wanted = {"copy": [1, 2, 3, 4], "repeat-copy": [3, 5, 7, 10]}
    for name, task in TASKS.items():
        curriculum = Curriculum(task)
        assert curriculum.longest == 0
        for update in range(4):
            assert curriculum.longest == ([0, *wanted[name]])[update]
            curriculum.note(update, 0.9 * ENOUGH * JUDGED / 2, JUDGED // 2)
            assert len(curriculum.passed) == update
            curriculum.note(update, 0.9 * ENOUGH * JUDGED / 2, JUDGED // 2)
        curriculum.note(9, 1.1 * ENOUGH * JUDGED, JUDGED)
        assert [task.counted(level) for _, level in curriculum.passed] == wanted[name]


def test_bits_and_repeats_grow_in_turn():
    level, found = Level(), []
    for _ in range(5):
        found.append((level.bits, level.repeats))
        level = TASKS["repeat-copy"].after(level)
    assert found == [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]


def test_truncated_backpropagation_is_a_guess_of_zeros():
    setting = copy.Setting("copy", time=3, updates=400, hidden=8, batch=8, lr=1e-2)
    plain, zero = (copy.trained(setting, row, 0) for row in (Row("bptt"), Row("dni", "zero")))
    assert plain["loss"] == pytest.approx(zero["loss"], abs=1e-6)
    assert plain["passed"] == zero["passed"]


def test_text_is_read_from_end_to_end():
    ids = torch.arange(101)
    rows = Rows(ids, 4)
    chunks = list(islice(rows.chunks(6), 9))
    read = torch.cat([x for x, _, _ in chunks[:4]], 1)
    assert torch.equal(read, ids[:100].view(4, 25)[:, :24])
    assert all(torch.equal(y, x + 1) for x, y, _ in chunks)
    assert [bool(ends.all()) for *_, ends in chunks] == [at % 4 == 3 for at in range(9)]
    assert torch.equal(chunks[4][0], chunks[0][0])


def test_a_row_of_text_says_how_long_its_chunks_are():
    assert chars.kind_of("bptt-20") == ("bptt", 20)
    with pytest.raises(SystemExit, match="is no row"):
        chars.kind_of("dni")
    assert replace(Level(3), repeats=2).length == 10
