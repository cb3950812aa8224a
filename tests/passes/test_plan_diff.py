"""What is told of a plan that belongs to another graph."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes import Anchor
from passes.plan_diff import difference

names = st.lists(st.sampled_from(["a", "a.b", "a.b:add", "a:mul", ":add", "c.0", "c.1@1:relu"]), unique=True)


@given(names, names)
def test_there_is_a_difference_if_and_only_if_the_names_differ(plan, there):
    told = difference(dict.fromkeys(plan, 0), there)
    assert bool(told) == (set(plan) != set(there))
    assert not told or "belongs to another graph" in told


@given(names, names)
def test_every_name_of_few_that_only_one_side_has_is_told_on_its_side(plan, there):
    told = difference(dict.fromkeys(plan, 0), there)
    if not told or "They fit" in told:
        return
    assert set(re.findall(r"^ +- (\S+) ", told, re.MULTILINE)) == set(plan) - set(there)
    assert set(re.findall(r"^ +\+ (\S+)$", told, re.MULTILINE)) == set(there) - set(plan)


@pytest.mark.parametrize("prefix", ["model", "net.inner"])
def test_a_prefix_that_makes_all_names_fit_is_told_instead_of_the_names(prefix):
    short = [Anchor(name) for name in ("layers.0", "layers.0:add", ":add")]
    long = [Anchor(name) for name in (f"{prefix}.layers.0", f"{prefix}.layers.0:add", f"{prefix}:add")]
    assert f"once `{prefix}` stands before each name" in difference(dict.fromkeys(short, 0), long)
    assert f"once `{prefix}` is taken off" in difference(dict.fromkeys(long, 0), short)


def test_a_name_that_is_close_is_told():
    told = difference({Anchor("encoder.linear1"): 2}, [Anchor("encoder.linear_1")])
    assert "- encoder.linear1 (stage 2): is it encoder.linear_1 now?" in told


def test_the_difference_is_told_by_module_and_its_length_is_limited():
    plan = {Anchor(f"layers.{at}:{name}"): 0 for at in range(100) for name in "abcdefgh"}
    there = [Anchor(f"blocks.{at}:{name}") for at in range(100) for name in "abcdefgh"]
    told = difference(plan, there).splitlines()
    assert len(told) < 80
    assert "800 of its 800 values" in told[0]
    assert told[1].strip() == "in layers.0:"
    assert told[6].strip() == "and 4 more"
    assert told[-1].strip() == "and in 192 more modules"
