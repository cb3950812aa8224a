"""`dni-fx diff`: 0 for what is equal to the bit, 1 for what is not, and where and by how much."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dni_fx
from dni_fx import demo
from dni_fx.cli.differences import names_apart, numbers_apart, plans_apart, weights_apart
from passes import Plan
from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]


def apart(one, other):
    return json.loads(run(f"diff {one} {other} --json", exit_code=1))


def test_a_file_is_equal_to_itself():
    run(f"decouple {MLP} -o cut.pt2")
    found = json.loads(run("diff cut.pt2 cut.pt2 --json"))
    assert found["equal"]
    assert found["compared"] == ["graph", "plan", "boundaries", "weights", "synthesizers"]
    assert "different" not in run("diff cut.pt2 cut.pt2")


def test_one_weight_that_was_changed_is_named_with_the_amount():
    state = demo.mlp()[0].state_dict()
    torch.save(state, "one.pt")
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["2.bias"][3] += 0.5
    torch.save(changed, "other.pt")
    weights = apart("one.pt", "other.pt")["weights"]
    (name,) = weights["numbers"]
    assert name == "2.bias"
    found = weights["numbers"][name]
    away = (changed[name].double() - state[name].double()).norm()
    assert (found["elements"], found["of"]) == (1, 128)
    assert found["largest"] == pytest.approx(0.5, rel=1e-6)
    assert found["relative"] == pytest.approx(float(away / state[name].double().norm()), rel=1e-9)
    assert weights["equal"] == len(state) - 1
    shown = run("diff one.pt other.pt", exit_code=1)
    assert "1 of 8 tensors differ" in shown
    assert "1 of 128" in shown


def test_names_and_shapes_that_differ_are_named():
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, "one.pt")
    torch.save(
        {"b": torch.zeros(3), "c": torch.zeros(2, dtype=torch.float64), "d": torch.zeros(2)}, "other.pt"
    )
    names = apart("one.pt", "other.pt")["weights"]["names"]
    assert (names["only_one"], names["only_other"]) == (["a"], ["d"])
    assert names["changed"] == {"b": ["(2,) float32", "(3,) float32"], "c": ["(2,) float32", "(2,) float64"]}


def test_a_value_that_moved_to_another_stage_is_named_and_so_are_the_boundaries():
    run(f"decouple {MLP} --plan at:after=1+3 -o one.pt2")
    run(f"decouple {MLP} --plan at:after=2+3 -o other.pt2")
    found = apart("one.pt2", "other.pt2")
    moved = found["plan"]["values"]["changed"]
    assert moved == {"2": [1, 0]}
    assert found["plan"]["rest"]["policy"] == ["at:after=1+3", "at:after=2+3"]
    assert (found["boundaries"]["only_one"], found["boundaries"]["only_other"]) == (["1"], ["2"])
    assert not found["weights"]["numbers"]
    shown = run("diff one.pt2 other.pt2", exit_code=1)
    assert "  2: stage 1 -> stage 0\n" in shown
    assert "boundaries: different\n  - 1\n  + 2\n" in shown


def test_another_synthesizer_is_a_difference_of_the_boundary():
    run(f"decouple {MLP} --plan at:after=3 --synthesizer linear -o one.pt2")
    run(f"decouple {MLP} --plan at:after=3 --synthesizer zero -o other.pt2")
    found = apart("one.pt2", "other.pt2")
    (one, other) = found["boundaries"]["changed"]["3"]
    assert ", linear, " in one
    assert ", zero, " in other


def test_plans_in_files_are_compared_alone(tmp_path):
    run(f"plan {MLP} --plan at:after=1 -o one.json")
    text = (tmp_path / "one.json").read_text("utf-8")
    (tmp_path / "other.json").write_text(text.replace('"2": 1', '"2": 0'), "utf-8")
    found = apart("one.json", "other.json")
    assert found["compared"] == ["plan"]
    assert found["plan"]["values"]["changed"] == {"2": [1, 0]}


def test_operations_that_differ_are_named(tmp_path):
    for name, layer in (("relu", "ReLU"), ("tanh", "Tanh")):
        module(
            tmp_path,
            f"with_{name}",
            f"def make():\n    torch.manual_seed(0)\n"
            f"    return nn.Sequential(nn.Linear(2, 2), nn.{layer}()), torch.ones(3, 2)\n",
        )
    graph = apart("with_relu:make", "with_tanh:make")["graph"]
    assert graph["changed"] == {"1": ["ReLU", "Tanh"]}


def test_what_has_nothing_in_common_is_no_answer():
    run(f"plan {MLP} -o plan.json")
    torch.save({"a": torch.zeros(2)}, "state.pt")
    assert "one holds a plan, the other weights" in refusal("diff plan.json state.pt")
    assert "ONE" in refusal("diff", exit_code=2)
    assert "missing.pt" in refusal("diff missing.pt state.pt")


def test_a_plain_file_is_compared_with_the_weights_of_a_cut_model():
    run(f"decouple {MLP} -o cut.pt2")
    torch.save(dni_fx.recouple(dni_fx.load("cut.pt2")).state_dict(), "state.pt")
    found = json.loads(run("diff cut.pt2 state.pt --json"))
    assert found["equal"]
    assert found["compared"] == ["weights"]


@pytest.mark.parametrize("frontend", ["auto", "export"])
@pytest.mark.parametrize("first", [True, False])
def test_code_and_what_was_cut_of_it_have_one_graph_and_their_differences_are_those_of_the_model(
    frontend, first, tmp_path
):
    """A file holds operations and code has modules: every node was called different."""
    name = f"code_{frontend}_{first}"
    text = "    torch.manual_seed(0)\n    return nn.Sequential(nn.Linear(4, 4), nn.{}(), nn.Linear(4, 2)), "
    both = [f"def {layer.lower()}():\n{text.format(layer)}torch.ones(3, 4)\n" for layer in ("ReLU", "Tanh")]
    module(tmp_path, name, "".join(both))
    run(f"decouple {name}:relu --frontend {frontend} -o cut.pt2")
    for layer, code in (("relu", 0), ("tanh", 1)):
        sides = (f"{name}:{layer}", "cut.pt2") if first else ("cut.pt2", f"{name}:{layer}")
        found = json.loads(run(f"diff {' '.join(sides)} --json", exit_code=code))
        assert found["compared"] == ["graph", "weights"]
        apart = found["graph"]
        if layer == "relu":
            assert apart == {"only_one": [], "only_other": [], "changed": {}}
        elif frontend == "auto":
            both = ["tanh.default", "relu.default"]
            assert apart == {
                "only_one": [],
                "only_other": [],
                "changed": {"1": both if first else both[::-1]},
            }
        else:
            names = [["1:tanh"], ["1:relu"]]
            assert [apart["only_one"], apart["only_other"]] == (names if first else names[::-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int8, torch.bool])
def test_numbers_are_equal_if_their_bits_are(dtype):
    x = torch.tensor([[1, 0, 1]]).to(dtype)
    assert numbers_apart(x, x.clone().t().contiguous().t()).elements == 0
    y = x.clone()
    y[0, 1] = 1
    found = numbers_apart(x, y)
    assert (found.elements, found.of, found.largest) == (1, 3, 1.0)


def test_numbers_that_are_not_finite_are_equal_to_themselves_and_no_others():
    x = torch.tensor([float("nan"), 1.0])
    assert numbers_apart(x, x.clone()).elements == 0
    assert numbers_apart(x, torch.tensor([0.0, 1.0])).elements == 1
    assert numbers_apart(torch.zeros(()), torch.zeros(())).of == 1
    assert numbers_apart(torch.zeros(0), torch.zeros(0)).elements == 0


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
)
def test_nothing_is_apart_if_and_only_if_both_are_equal(one, other):
    assert bool(names_apart(one, other)) == (one != other)
    plans = Plan(one, policy="hand"), Plan(other, policy="hand")
    assert bool(plans_apart(*plans)) == (plans[0] != plans[1])
    states = [{name: torch.tensor(value) for name, value in each.items()} for each in (one, other)]
    assert bool(weights_apart(*states)) == (one != other)
