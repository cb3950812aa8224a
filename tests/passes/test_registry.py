import re
import sys
from importlib.metadata import EntryPoint

import pytest

from passes import Registry, UnknownNameError, registry


@pytest.fixture
def installed(monkeypatch):
    """What other packages offer, and how often it was asked for."""
    offers, asked = [], []

    def found(*, group):
        asked.append(group)
        return [offer for offer in offers if offer.group == group]

    monkeypatch.setattr(registry, "entry_points", found)
    return offers, asked


def test_an_entry_is_the_thing_or_its_module_and_attribute():
    things: Registry[object] = Registry("thing", {"here": 3, "there": "math:pi"})
    assert things.get("here") == 3
    assert things.get("there") == __import__("math").pi
    assert list(things) == ["here", "there"]


def test_a_module_is_imported_on_first_use_and_no_sooner(monkeypatch):
    things: Registry[object] = Registry("thing", {"colors": "colorsys:rgb_to_hsv"})
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert list(things) == ["colors"]
    assert "colorsys" not in sys.modules
    first = things.get("colors")
    assert "colorsys" in sys.modules
    assert things.get("colors") is first


def test_a_name_is_taken_once():
    things: Registry[int] = Registry("thing", {"one": 1})
    things.register("two", 2)
    assert [things.get(name) for name in things] == [1, 2]
    with pytest.raises(ValueError, match=r"^thing 'one' is already registered as 1\.$"):
        things.register("one", 3)
    assert things.get("one") == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("liner", "no thing named 'liner'. Did you mean 'linear'? Known: conv, linear."),
        ("zebra", "no thing named 'zebra'. Known: conv, linear."),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_known(name, says):
    things: Registry[int] = Registry("thing", {"linear": 1, "conv": 2})
    with pytest.raises(UnknownNameError, match=f"^{re.escape(says)}$") as caught:
        things.get(name)
    assert isinstance(caught.value, LookupError)


def test_a_registry_does_not_change_the_table_it_was_made_of():
    table: dict[str, object] = {"pi": "math:pi"}
    things: Registry[object] = Registry("thing", table)
    things.get("pi")
    things.register("two", 2)
    assert table == {"pi": "math:pi"}


def test_other_packages_add_entries(installed):
    offers, asked = installed
    offers.append(EntryPoint("theirs", "math:tau", "group.things"))
    offers.append(EntryPoint("elsewhere", "math:e", "group.other"))
    things: Registry[object] = Registry("thing", {"ours": 1}, group="group.things")
    assert things.get("ours") == 1
    assert asked == []  # nobody pays for a look at the installed packages who needs none
    assert things.get("theirs") == __import__("math").tau
    assert list(things) == ["ours", "theirs"]
    assert asked == ["group.things"]


def test_other_packages_do_not_change_what_a_name_means(installed):
    offers, _ = installed
    offers.append(EntryPoint("ours", "math:tau", "group.things"))
    things: Registry[object] = Registry("thing", {"ours": 1}, group="group.things")
    assert list(things) == ["ours"]
    assert things.get("ours") == 1


def test_a_table_without_a_group_asks_no_other_package(installed):
    _, asked = installed
    things: Registry[int] = Registry("thing", {"ours": 1})
    assert list(things) == ["ours"]
    assert asked == []
