"""The zoo's tool says what holds, and what does not."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import SGD

from tests import zoo
from tests.zoo.__main__ import main
from tests.zoo.checks import CHECKS, Subject, pair_of
from tests.zoo.lessons import OPTIMIZERS, Lesson, lessons
from tests.zoo.plain import Chain, rows
from tests.zoo.round_trip import STEPS, TOLERANCE, relative


class Remembers(Chain):
    """State in an attribute, which no front-end captures."""

    def forward(self, x):
        self.last = x
        return super().forward(x)


def altered(cut):
    with torch.no_grad():
        cut.layers[0].weight.mul_(1.5)


def not_finite(cut):
    with torch.no_grad():
        cut.layers[0].weight.fill_(torch.nan)


@pytest.mark.parametrize("check", ["train", "eval", "batch", "gradients", "steps"])
def test_a_check_fails_where_the_copy_has_another_weight(check):
    pair = pair_of(Subject("chain", "hand", torch.float64))
    CHECKS[check](pair)
    altered(pair.cut)
    with pytest.raises(AssertionError):
        CHECKS[check](pair)


@pytest.mark.parametrize("check", ["train", "eval", "batch", "gradients", "steps", "trains"])
def test_a_check_fails_where_numbers_are_not_finite(check):
    pair = pair_of(Subject("chain", "hand", torch.float64))
    not_finite(pair.cut)
    with pytest.raises(AssertionError):
        CHECKS[check](pair)


def test_the_table_goes_on_after_a_model_that_fails_and_the_file_says_why(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(zoo.ZOO, "broken", lambda: (Remembers(), rows()))
    path = tmp_path / "rows.json"
    assert main(["broken", "chain", "--stages", "2", "--json", str(path)]) == 1
    good, bad = sorted(json.loads(path.read_text()), key=lambda row: row["name"], reverse=True)
    assert (good["name"], good["frontend"], good["stages"], good["failed"]) == ("chain", "symbolic", 2, {})
    assert good["checks"] == dict.fromkeys(CHECKS, True)
    assert list(bad["failed"]) == ["cut"]
    assert "it sets last" in bad["failed"]["cut"]
    assert "1 of 2 hold all checks" in capsys.readouterr().out


def test_the_tool_ends_well_where_all_checks_hold(capsys):
    assert main(["sequential", "--hand"]) == 0
    assert "1 of 1 hold all checks" in capsys.readouterr().out


def test_a_model_that_cannot_be_cut_so_often_gets_as_many_stages_as_it_can():
    assert pair_of(Subject("sequential", "hand", torch.float64), stages=9).stages == 3


def test_a_plan_can_be_named(capsys):
    assert main(["chain", "--plan", "at:after=layers.0"]) == 0


def test_names_are_listed_once(capsys):
    assert main(["--list", "bert", "chain"]) == 0
    assert capsys.readouterr().out == "chain\nbert\n"


def test_a_name_that_no_model_has_is_refused(capsys):
    assert main(["nothing"]) == 2
    assert capsys.readouterr().err == "no model of the zoo is called nothing; --list names them\n"


def test_a_model_comes_back_from_files_and_onnxruntime_as_it_was(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert main(["masked", "--round-trip", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())
    assert row["checks"] == dict.fromkeys(STEPS, True)
    assert row["interfaces"] == row["boundaries"] == 2
    assert row["apart"] <= TOLERANCE
    assert "1 of 1 hold all checks" in capsys.readouterr().out


def test_a_model_that_no_file_can_hold_is_told_with_the_step_and_the_reason(capsys):
    assert main(["writes-buffers", "--round-trip"]) == 1
    printed = capsys.readouterr().out
    assert "0 of 1 hold all checks" in printed
    assert "writes-buffers (float32), export: ExportError: cannot write this program as ONNX" in printed


@pytest.mark.parametrize(
    ("got", "apart"),
    [
        (np.array([1.0, 2.0]), 0.0),
        (np.array([1.0, 2.5]), 0.25),
        (np.array([1.0, np.nan]), np.inf),
        (np.array([1, 2]), np.inf),
        (np.array([[1.0, 2.0]]), np.inf),
    ],
)
def test_the_distance_is_relative_to_the_largest_element(got, apart):
    assert relative(np.array([1.0, 2.0]), got) == apart


def test_a_model_is_trained_on_a_device_as_pytorch_trains_it(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert (
        main(["sequential", "--hand", "--training-export", "--optimizer", "adam", "--json", str(path)]) == 0
    )
    (row,) = json.loads(path.read_text())
    assert row["checks"] == dict.fromkeys(lessons("adam"), True)
    assert 0 < row["apart"] <= OPTIMIZERS["adam"].tolerance
    assert "1 of 1 hold all checks" in capsys.readouterr().out


@pytest.mark.parametrize("by_results", [False, True])
def test_a_device_that_trains_otherwise_is_told(by_results, monkeypatch, capsys):
    faster = Lesson("sgd", partial(SGD, lr=0.011), 0.01, by_results=by_results)
    monkeypatch.setitem(OPTIMIZERS, "sgd", faster)
    assert main(["sequential", "--training-export", "--optimizer", "sgd"]) == 1
    assert re.search(r"exact: AssertionError: \S+.* is \S+ apart after 10 steps", capsys.readouterr().out)


def test_an_operator_that_no_graph_can_have_is_told(capsys):
    assert main(["fourier", "--training-export"]) == 1
    assert re.search(
        r"fourier \(float32\), write: MissingOperatorError: cannot write .* computes aten",
        capsys.readouterr().out,
    )
