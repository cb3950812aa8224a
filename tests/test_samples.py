"""Samples are short, import little and run."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dni_fx

FOLDER = Path(__file__).parents[1] / "samples"
SAMPLES = sorted(FOLDER.glob("*.py"))
MAY_IMPORT = {"dni_fx", "torch", "numpy", "sklearn", "argparse", "pathlib"}
# A sample of a trainer imports its package, a callback, and what keeps that package still.
TRAINERS = {"with_lightning": "pytorch_lightning", "with_transformers": "transformers"}
MORE = {"logging", "warnings", "tempfile"}

each = pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)


def python(folder, *arguments):
    """What Python prints; the samples and the library can be imported, and stderr stays empty."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (FOLDER, FOLDER.parent))),
    }
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@each
def test_a_sample_is_under_60_lines(sample):
    assert len(sample.read_text("utf-8").splitlines()) < 60


@each
def test_a_sample_imports_only_the_library_torch_and_its_data(sample):
    found = set()
    for node in ast.walk(ast.parse(sample.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    packages = {name.partition(".")[0] for name in found}
    trainer = {TRAINERS[sample.stem]} | MORE if sample.stem in TRAINERS else set()
    assert packages <= MAY_IMPORT | {path.stem for path in SAMPLES} | trainer
    assert "dni_fx" in packages or sample.stem == "nets"
    inner = {name for name in found if name.startswith("dni_fx.")}  # elsewhere the verbs are enough
    assert inner == {f"dni_fx.integrations.{sample.stem.removeprefix('with_')}" for _ in trainer}


def test_digits_prints_one_table_and_writes_the_files_that_it_names(tmp_path):
    printed = python(tmp_path, FOLDER / "digits.py", "--epochs", "1", "--out", "here")
    table = re.findall(
        r"^(backprop|last stage only|without labels|with labels) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE
    )
    assert [row for row, *_ in table] == ["backprop", "last stage only", "without labels", "with labels"]
    assert all(0 < float(cell) <= 100 for _, *cells in table for cell in cells)
    named = re.search(r"^wrote (\S+) and (\S+)$", printed, re.MULTILINE)
    assert {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "here").iterdir()} == set(
        named.groups()
    )
    cut = dni_fx.load(tmp_path / named[1]).eval()
    assert cut(torch.zeros(5, 64)).shape == (5, 10)


def test_local_reports_each_epoch_and_an_accuracy_far_above_chance(tmp_path):
    printed = python(tmp_path, FOLDER / "local.py", "--epochs", "2")
    assert printed.count("\nepoch ") == 2
    assert float(printed.split()[-1]) > 0.5
    assert not list(tmp_path.iterdir())


def test_lightning_trains_a_net_far_above_chance_and_prints_its_figures(tmp_path):
    printed = python(tmp_path, FOLDER / "with_lightning.py", "--epochs", "2")
    figures = {name: float(value) for name, value in map(str.split, printed.splitlines())}
    assert figures["accuracy"] > 0.6
    assert sum(name.startswith("cosine/net.") for name in figures) == 2
    assert not list(tmp_path.iterdir())


def test_the_trainer_of_transformers_trains_a_net_and_logs_its_figures(tmp_path):
    printed = python(tmp_path, FOLDER / "with_transformers.py", "--steps", "20")
    entries = [ast.literal_eval(line) for line in printed.splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert sum(any(name.startswith("cosine/") for name in entry) for entry in entries) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("net", ["MLP", "residual"])
def test_a_net_cut_everywhere_comes_within_3_points_of_backprop_with_labels(net, tmp_path):
    script = (
        "import digits\nfor way in ('backprop', 'with labels'):\n"
        f" model = digits.train({net!r}, way, 0, 20)\n"
        " print(float((model(digits.X_TEST).argmax(1) == digits.Y_TEST).float().mean()))"
    )
    backprop, cut = map(float, python(tmp_path, "-c", script).split())
    assert backprop > 0.95
    assert cut > backprop - 0.03


def test_two_rates_counts_what_only_messages_tell(tmp_path):
    printed = python(tmp_path, FOLDER / "two_rates.py", "--steps", "30")
    assert re.fullmatch(r"step 30: odd digits [\d.]+ right, threes [\d.]+\n", printed)


def test_several_processes_train_what_one_trains(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed = python(tmp_path, *launcher, FOLDER / "several_processes.py")
    epochs = re.findall(r"^epoch (\d): loss ([\d.]+), .* validation accuracy ([\d.]+)", printed, re.MULTILINE)
    assert [number for number, _, _ in epochs] == ["1", "2", "3"]
    assert float(epochs[-1][1]) < float(epochs[0][1])
    assert float(epochs[-1][2]) > 0.9
