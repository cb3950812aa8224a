"""A run that goes on does so with what it began with, and what is asked of it besides is not passed over."""

import json
import warnings

import numpy as np
import pytest

from dni_fx import demo
from tests.commands import MLP, both, in_an_empty_folder, refusal, run

__all__ = ["in_an_empty_folder"]

BEGUN = f"train {MLP} --data dni_fx.demo:clusters --batch-size 256 --checkpoint run.ckpt"


@pytest.fixture(autouse=True)
def begun(in_an_empty_folder):
    run(BEGUN)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--batch-size 128", "--batch-size was 256, and is 128"),
        ("--labels", "--labels was not given, and is given"),
    ],
)
@pytest.mark.parametrize("more", ["", "--dry-run"])
def test_another_run_is_refused_with_what_was_other_and_the_way_round(option, says, more, tmp_path):
    kept = (tmp_path / "run.ckpt").read_bytes()
    said = refusal(f"{BEGUN} {option} --epochs 2 --resume {more}")
    assert f"run.ckpt is of another run: {says}." in said
    assert "`-o trained.pt2`" in said
    assert (tmp_path / "run.ckpt").read_bytes() == kept


def test_the_way_round_that_is_told_works():
    run(f"{BEGUN} --resume -o trained.pt2")
    assert "epoch 1" in run("train trained.pt2 --data dni_fx.demo:clusters --batch-size 128")


def test_other_data_are_refused_and_the_same_in_another_place_are_not():
    arrays = {name: each.numpy().copy() for name, each in demo.clusters().items()}
    np.savez("same.npz", **arrays)
    arrays["x_train"][3, 3] += 1
    np.savez("other.npz", **arrays)
    resumed = BEGUN.replace("dni_fx.demo:clusters", "{}.npz") + " --epochs 2 --resume"
    assert "run.ckpt is of another run: --data was" in refusal(resumed.format("other"))
    assert "epoch 2" in run(resumed.format("same"))


def test_a_seed_that_decides_nothing_any_more_is_told():
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        out, err = both(f"{BEGUN} --seed 5 --epochs 2 --resume")
    assert "epoch 2" in out
    assert err.startswith(
        "dni-fx: warning: --seed 5 does nothing: run.ckpt goes on in the order that --seed 0"
    )
    assert run(f"{BEGUN} --epochs 3 --resume")


def test_a_run_that_has_had_its_epochs_says_so():
    assert "nothing was left to train: run.ckpt has had 1 epoch already" in run(f"{BEGUN} --resume")
    assert json.loads(run(f"{BEGUN} --resume --json"))["epochs_before"] == 1
    assert "nothing was left" not in run(f"{BEGUN} --epochs 2 --resume")
    assert json.loads(run(f"train {MLP} --data dni_fx.demo:clusters --json"))["epochs_before"] == 0
