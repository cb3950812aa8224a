"""Errors of the code that the command line runs for its user: one message, and the place in that code."""

import pytest

from tests.commands import MLP, in_an_empty_folder, module, refusal

__all__ = ["in_an_empty_folder"]

FACTORIES = """
def boom():
    raise ValueError("no weights here")

def misuse():
    return nn.Linear(3)

def deep():
    return boom()

def bare():
    raise KeyError

def reads():
    return open("absent.bin")
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("boom", ":boom raised ValueError: no weights here ({}.py, line 5)"),
        ("bare", ":bare raised KeyError ({}.py, line 14)"),
        (
            "reads",
            ":reads raised FileNotFoundError: [Errno 2] No such file or directory: 'absent.bin' ({}.py",
        ),
        ("deep", ":deep raised ValueError: no weights here ({}.py, line 5)"),
    ],
)
@pytest.mark.parametrize("command", ["inspect {}", f"train {MLP} --data {{}}"])
def test_a_function_that_raises_is_named_with_its_line(name, says, command, tmp_path):
    home = f"raising_{name}_{command[0]}"
    module(tmp_path, home, FACTORIES)
    said = refusal(command.format(f"{home}:{name}"))
    assert said.startswith(f"dni-fx: {home}{says.format(home)}")
    assert ("in boom" in said) == (name == "deep")  # where more than one function of theirs is to be told of
    assert "typer" not in said


def test_what_a_library_raises_is_told_at_the_line_that_called_it(tmp_path):
    module(tmp_path, "misusing", FACTORIES)
    said = refusal("inspect misusing:misuse")
    assert "misusing:misuse raised TypeError: " in said
    assert said.endswith("(misusing.py, line 8)")


def test_what_a_layer_refuses_in_the_middle_of_a_run_is_told_with_the_line_of_the_graph(tmp_path):
    module(
        tmp_path,
        "last_of_nine",
        "def make():\n"
        "    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), torch.ones(4, 4)\n"
        "def data():\n    return torch.ones(9, 4), torch.zeros(9, dtype=torch.long)\n",
    )
    said = refusal("train last_of_nine:make --data last_of_nine:data --batch-size 8")
    assert said.startswith("dni-fx: the model raised ValueError: Expected more than 1 value per channel")
    assert "(in its graph: " in said


def test_a_module_that_cannot_be_imported_is_named_with_its_line(tmp_path):
    module(tmp_path, "broken_import", "import no_such_package_at_all\n")
    assert refusal("inspect broken_import:make") == (
        "dni-fx: broken_import raised ModuleNotFoundError: No module named 'no_such_package_at_all' "
        "(broken_import.py, line 3)"
    )
    module(tmp_path, "broken_syntax", "def make(:\n")
    said = refusal("inspect broken_syntax:make")
    assert said.startswith("dni-fx: broken_syntax raised SyntaxError: ")
    assert said.endswith("(broken_syntax.py, line 3)")


def test_a_sample_that_cannot_be_read_is_told_with_its_line(tmp_path):
    module(
        tmp_path,
        "broken_sample",
        "class Samples(torch.utils.data.Dataset):\n    def __len__(self):\n        return 90\n"
        "    def __getitem__(self, at):\n        if at == 57:\n"
        '            raise ValueError(f"sample {at} is broken")\n        return torch.rand(64), at % 5\n'
        "def make():\n    return Samples()\n",
    )
    said = refusal(f"train {MLP} --data broken_sample:make")
    assert said == (
        "dni-fx: broken_sample:Samples.__getitem__ raised ValueError: sample 57 is broken "
        "(broken_sample.py, line 8)"
    )


WORKERS = """
import dni_fx
import torch.utils.data

class Bad(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, at):
        if at == 5:
            {}
        return torch.zeros(64 + (at if self.uneven else 0)), 1

    uneven = {}

def make():
    return torch.utils.data.DataLoader(Bad(), 4, num_workers=1)
"""


@pytest.mark.parametrize(
    ("error", "uneven", "says"),
    [
        (
            "raise ValueError('sample 5\\nis bad')",
            False,
            "__getitem__ raised ValueError: sample 5 in a worker",
        ),
        ("return self.absent, 1", False, "__getitem__ raised AttributeError: 'Bad' object has no"),
        ("raise KeyError(at)", False, "__getitem__ raised KeyError: 5 in a worker of the data loader"),
        ("raise dni_fx.DniError('no')", False, "__getitem__ raised dni_fx.errors.DniError: no in"),
        ("pass", True, "raised RuntimeError: stack expects each tensor to be equal size"),
    ],
)
def test_an_error_in_a_worker_of_a_data_loader_is_one_line(error, uneven, says, tmp_path):
    name = f"bad_worker_{abs(hash(error))}"
    module(tmp_path, name, WORKERS.format(error, uneven))
    said = refusal(f"train {MLP} --data {name}:make")
    assert said.startswith("dni-fx: ")
    assert says in said
    assert "Original Traceback" not in said
    assert (f"({name}.py, line " in said) != uneven
