"""What the library warns of is told in the tool's own form, once, on stderr."""

import json
import warnings

import pytest

from tests.commands import MLP, both, failing, in_an_empty_folder, module

__all__ = ["in_an_empty_folder"]


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Warnings are shown and raise nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def test_a_warning_is_one_line_on_stderr_and_stdout_stays_one_document(tmp_path):
    text = "import warnings\ndef make():\n    for _ in range(3):\n        warnings.warn('look {}')\n    "
    module(tmp_path, "one_warning", text.format("here") + "return nn.Linear(3, 2)\n")
    out, err = both("inspect one_warning:make --json")
    assert err == "dni-fx: warning: look here\n"
    assert json.loads(out)["parameters"] == 8


def test_a_warning_is_told_again_by_the_next_command(tmp_path):
    text = "import warnings\ndef make():\n    warnings.warn_explicit('again', UserWarning, 'there', 1)\n    "
    module(tmp_path, "told_again", text + "return nn.Linear(3, 2)\n")
    for _ in range(2):
        assert both("inspect told_again:make")[1] == "dni-fx: warning: again\n"


def test_a_boundary_that_is_locked_is_told_with_what_can_be_typed():
    command = f"train {MLP} --data dni_fx.demo:clusters --optimizer sgd --lr 1e30"
    out, err = failing(f"{command} --interface dni:guard=1")
    assert "epoch 1" in out
    (locked,) = (line for line in err.splitlines() if "sends true gradients" in line)
    assert locked.startswith("dni-fx: warning: the synthetic gradients at 3 ")
    assert "dni:guard=0" in locked
    assert sum("the loss of epoch 1" in line for line in err.splitlines()) == 1
    assert "sends true gradients" not in failing(f"{command} --interface dni:guard=0")[1]
