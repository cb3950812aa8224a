"""What passes between processes is JSON and tensors, and comes out as it went in."""

import json
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dni_fx.distributed.packing import packed, unpacked
from dni_fx.errors import StageError

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.text() | st.integers() | st.booleans()
trees = st.recursive(
    plain | st.sampled_from([torch.float32, torch.bool, torch.Size([2, 3]), torch.device("cuda", 1)]),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.dictionaries(keys, inner).map(OrderedDict)
    ),
)


def same(one, other):
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or one == other
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(trees)
def test_a_tree_comes_out_as_it_went_in(tree):
    text, tensors = packed(tree)
    found = unpacked(text, tensors)
    assert type(found) is type(tree)
    assert same(tree, found)


def test_tensors_keep_their_places_and_are_not_copied():
    first, second = torch.ones(2), torch.zeros(3, dtype=torch.bool)
    tree = {"a": [second, (first, {1, 2})], "b": Counter("aab"), "c": first}
    text, tensors = packed(tree)
    found = unpacked(text, tensors)
    assert found["a"][0] is second
    assert found["a"][1] == (first, {1, 2})
    assert found["b"] == Counter("aab")
    assert found["c"] is first


@dataclass
class Odd:
    x: int = 0


@pytest.mark.parametrize("value", [Odd(), object(), len, 1j, [Odd()]])
def test_what_is_neither_json_nor_tensor_is_refused_by_name(value):
    with pytest.raises(StageError, match="cannot be sent to another process"):
        packed(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '["list"]',
        '["tensor", 7]',
        '["tensor", "0"]',
        '["os.system", ["ls"]]',
        '["dtype", "load"]',
        '["bytes", "xyz"]',
        json.dumps(["dict", [[1]]]),
        json.dumps({"py/object": "os.system"}),
    ],
)
def test_what_another_process_makes_up_is_refused_and_nothing_is_run(text):
    with pytest.raises(StageError, match=r"is no message of dni_fx"):
        unpacked(text, [torch.ones(1)])
