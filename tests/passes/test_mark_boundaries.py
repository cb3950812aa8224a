import pickle

import pytest
import torch
from torch import fx
from torch.testing import FileCheck

from passes import PASSES, Pipeline, Plan, PreconditionError, boundaries, parse
from passes.mark_boundaries import MarkBoundaries
from tests.passes.marked import captured, cut_after, marked


def test_a_value_read_by_two_stages_gets_one_boundary():
    gm, _ = marked("skips-two-stages", ":tanh", ":tanh.2")
    FileCheck().run(
        """
        # CHECK: %tanh : [num_users=1] = call_function[target=torch.tanh](args = (%layers_0,)
        # CHECK-NEXT: %dni_tanh : [num_users=2] = call_module[target=dni.tanh](args = (%tanh,)
        # CHECK: %tanh_2 : [num_users=1]
        # CHECK-NEXT: %dni_tanh_2 : [num_users=1] = call_module[target=dni.tanh_2](args = (%tanh_2,)
        # CHECK-NEXT: %layers_3 : [num_users=1] = call_module[target=layers.3](args = (%dni_tanh_2,)
        # CHECK: operator.add](args = (%tanh_3, %dni_tanh)
        # CHECK-NOT: target=dni
        """,
        str(gm.graph),
    )
    specs = {spec.name: spec for _, spec in boundaries(gm)}
    assert (specs["tanh"].producer, specs["tanh"].consumers) == (0, (1, 2))
    assert (specs["tanh_2"].producer, specs["tanh_2"].consumers) == (1, (2,))
    assert (specs["tanh"].value.shape, specs["tanh"].value.dims) == ((3, 6), ("b", 6))
    assert (specs["tanh"].value.dtype, specs["tanh"].value.feature_dim) == (torch.float64, 1)


def test_readers_in_the_same_stage_and_the_output_read_the_value_itself():
    gm, _ = marked("returns-what-crosses", ":tanh.2")
    FileCheck().run(
        """
        # CHECK: %tanh_2 : [num_users=2]
        # CHECK-NEXT: %dni_tanh_2 : [num_users=1] = call_module[target=dni.tanh_2](args = (%tanh_2,)
        # CHECK: return [tanh_2, layers_4]
        """,
        str(gm.graph),
    )


def test_values_without_a_gradient_cross_plainly():
    gm, _ = marked("masked", ":mul.1")
    FileCheck().run(
        """
        # CHECK: %to : [num_users=5]
        # CHECK: %dni_mul_1 : [num_users=1] = call_module[target=dni.mul_1]
        # CHECK: operator.mul](args = (%tanh_2, %to)
        # CHECK-NOT: target=dni
        """,
        str(gm.graph),
    )


def test_a_stage_that_writes_into_a_value_of_another_gets_its_own_copy():
    gm, _ = marked("in-place-relu", "layers.1")
    FileCheck().run(
        """
        # CHECK: %layers_1
        # CHECK-NEXT: %dni_layers_1 : [num_users=1] = call_module[target=dni.layers_1](args = (%layers_1,)
        # CHECK-NEXT: %clone : [num_users=1] = call_method[target=clone](args = (%dni_layers_1,)
        # CHECK-NEXT: %act_1 : [num_users=1] = call_module[target=act](args = (%clone,)
        # CHECK-NOT: clone
        """,
        str(gm.graph),
    )


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("residual", [":add.1"]),
        ("in-place-relu", ["layers.1", "layers.3"]),
        ("skips-two-stages", [":tanh", ":tanh.2"]),
    ],
)
def test_marking_then_erasing_is_the_identity(name, cuts):
    gm = captured(name)
    text = str(gm.graph)
    twice = Pipeline((MarkBoundaries(cut_after(gm, *cuts)), parse("erase-boundaries", PASSES)))
    assert str(twice.run(gm).graph) == text
    assert "dni" in str(Pipeline(twice.passes[:1]).run(gm).graph)
    assert str(gm.graph) == text


def test_parameters_are_shared_and_never_copied():
    gm = captured("residual")
    cut = Pipeline((MarkBoundaries(cut_after(gm, ":add")),)).run(gm)
    assert {id(p) for p in cut.parameters()} == {id(p) for p in gm.parameters()}


def test_every_computed_node_knows_its_stage():
    gm, plan = marked("u-net", ":relu.1")
    computed = [n for n in gm.graph.nodes if n.op not in {"placeholder", "get_attr", "output"}]
    assert all(n.meta["stage"] in range(len(plan)) for n in computed)
    assert {n.meta["stage"] for n in computed} == {0, 1}


def test_boundaries_survive_pickling():
    gm, _ = marked("residual", ":add")
    again = pickle.loads(pickle.dumps(gm))
    assert [spec for _, spec in boundaries(again)] == [spec for _, spec in boundaries(gm)]


def refusal(gm, plan):
    with pytest.raises(PreconditionError) as caught:
        Pipeline((MarkBoundaries(plan),)).run(gm)
    return str(caught.value).partition(":\n")[2]


def test_an_edge_backwards_is_refused_by_name():
    gm = captured("chain")
    plan = cut_after(gm, ":tanh.1", **{"layers.0": 1})
    assert refusal(gm, plan) == ("  * layers.0 (stage 1) feeds :tanh (stage 0); no edge may run backwards")


def test_all_problems_are_listed_at_once():
    gm = captured("chain")
    plan = cut_after(gm, ":tanh.1", **{"layers.0": 1, "layers.1": 1})
    assert refusal(gm, plan).splitlines() == [
        "  * layers.0 (stage 1) feeds :tanh (stage 0); no edge may run backwards",
        "  * layers.1 (stage 1) feeds :tanh.1 (stage 0); no edge may run backwards",
    ]


def test_a_tuple_and_what_unpacks_it_stay_together():
    gm = captured("chunk-and-cat")
    plan = cut_after(gm, ":chunk")
    assert refusal(gm, plan) == (
        "  * these must stay in one stage, since they share a tuple or write to one memory: :chunk (stage "
        "0), :getitem (stage 1), :getitem.1 (stage 1)"
    )


def test_a_marked_graph_is_not_marked_again():
    gm, plan = marked("chain", ":tanh.1")
    assert refusal(gm, plan) == "  * the graph is marked already: tanh_1"


def test_a_graph_without_shapes_is_refused():
    gm = fx.symbolic_trace(captured("chain"))
    assert refusal(gm, Plan({})) == (
        "  * shapes are not known of x, layers_0, tanh, layers_1, tanh_1; annotate the graph first"
    )
