"""Trees that files describe: what torch writes for plain containers is read, and nothing is imported."""

import collections
import enum
import json
import re
from dataclasses import dataclass

import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

import dni_fx
from dni_fx.errors import FileError
from dni_fx.fields import with_fields
from dni_fx.trees import tree_of, writable_tree, wrong_tree


@dataclass
class Pair:
    first: object
    second: object


class Color(enum.Enum):
    RED = 1


class Mine:
    """A container with code of its own to read what files say of it."""


pytree.register_pytree_node(
    Mine,
    lambda mine: ([1], None),
    lambda values, context: Mine(),
    serialized_type_name="tests.Mine",
    to_dumpable_context=lambda context: "{}",
    from_dumpable_context=lambda text: pytest.fail("it was read"),
)

TREES = [
    1,
    (1, [2, {"a": 3, 4: (5,)}]),
    collections.OrderedDict(b=1, a=(2,)),
    collections.deque([1, 2], maxlen=3),
    collections.defaultdict(list, a=1),
    torch.Size((1, 2)),
    with_fields((Pair(1, (2,)), 3)),
]


@pytest.mark.parametrize("tree", TREES)
def test_what_is_written_is_read_back(tree):
    spec = pytree.tree_structure(tree)
    assert tree_of(writable_tree(spec)) == spec


def test_what_would_be_imported_is_not_written_either():
    for tree in ({Color.RED: 1}, collections.defaultdict(Color, a=1)):
        with pytest.raises(FileError, match=r"cannot save a model .* names Python objects to import"):
            writable_tree(pytree.tree_structure(tree))


class Returns(nn.Module):
    """Returns its result in a container of the class."""

    def __init__(self, cls):
        super().__init__()
        self.a, self.b, self.cls = nn.Linear(3, 3), nn.Linear(3, 3), cls

    def forward(self, x):
        return self.cls(self.b(torch.tanh(self.a(x))))


def saved_and_loaded(cls, path):
    x = torch.randn(2, 3)
    cut = dni_fx.decouple(Returns(cls), (x,), plan="balanced:stages=2")
    dni_fx.save(cut, path)
    return cut(x), dni_fx.load(path)(x)


def test_a_container_without_a_name_is_refused_with_what_gives_it_one(tmp_path):
    @dataclass
    class Found:
        value: torch.Tensor
        other: torch.Tensor | None = None

    pytree.register_dataclass(Found)
    with pytest.raises(FileError, match="hold a Found") as caught:
        saved_and_loaded(Found, tmp_path / "cut.pt2")
    assert not (tmp_path / "cut.pt2").exists()
    advice = re.search("`serialized_type_name='(.*)'`", str(caught.value))

    @dataclass
    class Named(Found):
        pass

    pytree.register_dataclass(Named, serialized_type_name=advice[1])
    here, there = saved_and_loaded(Named, tmp_path / "cut.pt2")
    assert isinstance(there, Named)
    assert torch.equal(here.value, there.value)


def test_a_container_with_code_of_its_own_needs_trust():
    text = json.dumps([1, {"type": "tests.Mine", "context": "{}", "children_spec": []}])
    assert "is read by code of its own; if you trust 'tests'" in wrong_tree(text)
    assert wrong_tree(text, trusted=("tests",)) == ""


def test_a_tree_as_deep_as_files_can_nest_one_is_refused_without_an_overflow():
    tree = {"type": None, "context": None, "children_spec": []}
    for _ in range(80):
        tree = {"type": "builtins.tuple", "context": "null", "children_spec": [tree]}
    assert "nested more than" in wrong_tree(json.dumps([1, tree]))


def test_a_model_that_returns_a_default_dictionary_comes_back(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            found = collections.defaultdict(list)
            found["y"] = self.b(self.a(x))
            return found

    x = torch.randn(2, 3)
    cut = dni_fx.decouple(Net(), (x,), plan="balanced:stages=2")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    found = dni_fx.load(tmp_path / "cut.pt2")(x)
    assert isinstance(found, collections.defaultdict)
    assert torch.equal(found["y"], cut(x)["y"])
