import pytest
import torch

import dni_fx
from dni_fx.policies import POLICIES
from dni_fx.stage import road
from passes import Pipeline, Plan, PreconditionError, parse
from passes.anchors import anchor_of
from passes.dataflow import dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.split_stages import Name, split_stages
from tests.equality import assert_same, copied
from tests.flows import Sketch
from tests.passes.marked import captured, cut_after, marked
from tests.zoo import ZOO, made


def split(name, *anchors):
    gm, plan = marked(name, *anchors)
    return gm, split_stages(gm, plan)


def test_a_part_reads_and_writes_by_the_names_of_boundaries():
    _, found = split("skips-two-stages", ":tanh", ":tanh.2")
    assert [part.reads for part in found.parts] == [("x",), ("tanh",), ("tanh_2", "tanh")]
    assert [part.writes for part in found.parts] == [("tanh",), ("tanh_2",), ("layers_4",)]
    assert [tuple(part.crossings) for part in found.parts] == [("tanh",), ("tanh_2",), ()]
    assert [part.outputs for part in found.parts] == [(), (), ("layers_4",)]
    assert (found.inputs, found.result, found.in_order) == (("x",), (Name("layers_4"),), True)
    layers = [{name.split(".")[1] for name in part.parameters} for part in found.parts]
    assert layers == [{"0"}, {"1", "2"}, {"3", "4"}]


def test_an_early_output_is_written_by_the_stage_that_makes_it():
    _, found = split("early-output", "layers.1", ":tanh.1")
    assert [part.outputs for part in found.parts] == [("layers_1",), (), ("layers_4",)]
    assert found.result == (Name("layers_1"), Name("layers_4"))


def test_a_tied_parameter_is_in_both_parts_under_one_name():
    for name in ("tied-layer", "tied-weight"):
        _, found = split(name, ":tanh.1")
        assert all("layers.0.weight" in part.parameters for part in found.parts), name


def test_a_mask_crosses_plainly():
    _, found = split("masked", ":mul.1")
    assert found.parts[1].reads == ("mul_1", "to")
    assert found.parts[0].writes == ("to", "mul_1")
    assert found.parts[0].crossings == {"mul_1": ("mul_1",)}


def test_the_result_keeps_what_is_no_tensor():
    _, found = split("dict-of-outputs", ":tanh.1")
    assert found.result[:4] == (Name("layers_4"), Name("layers_1"), Name("sum_1"), 3)
    assert Name("x") in found.result


@pytest.mark.parametrize("name", ZOO)
def test_running_the_parts_one_after_another_is_running_the_graph(name):
    model, inputs = made(name)
    program = dni_fx.capture(model, inputs)
    plan = dni_fx.plan(program, "balanced:stages=2")
    gm = Pipeline((MarkBoundaries(plan),)).run(dni_fx.verbs.training_graph(program))
    found = split_stages(gm, plan)
    stages = road(gm, found)
    torch.manual_seed(0)
    wanted = copied(model)(*(value.clone() for value in inputs))
    torch.manual_seed(0)
    values = dict(zip(found.inputs, (value.clone() for value in inputs), strict=True))
    for stage, drops in zip(stages.stages, stages.drops, strict=True):
        values |= stage.run(stage.reads(values))
        for each in drops:
            values.pop(each, None)
    if found.in_order:
        assert_same(
            stages.result(values), torch.utils._pytree.tree_leaves(wanted, is_leaf=lambda v: v is None)
        )
    state = gm.state_dict()
    for stage in stages.stages:
        for key, tensor in stage.state_dict().items():
            assert tensor.data_ptr() == state[key].data_ptr()


def test_the_stages_own_the_parameters_and_buffers_that_they_read_under_the_models_keys():
    model, inputs = made("batch-norm")
    cut = dni_fx.decouple(model, inputs, plan="balanced:stages=3")
    owned = [stage.state_dict() for stage in dni_fx.stages(cut)]
    keys = [key for each in owned for key in each]
    assert sorted(keys) == sorted(dni_fx.recouple(cut).state_dict())
    assert any(key.endswith("running_mean") for key in keys)


def test_draws_out_of_order_are_noticed():
    gm = captured("branches-draw")
    side = {":tanh": 0, "layers.3": 0, ":tanh.3": 0, ":dropout.2": 0}
    order = cut_after(gm, ":tanh")
    plan = Plan({**order.stage_of, **side})
    found = split_stages(Pipeline((MarkBoundaries(plan),)).run(gm), plan)
    assert not found.in_order
    assert split_stages(Pipeline((MarkBoundaries(order),)).run(gm), order).in_order


def test_an_unmarked_graph_is_refused():
    gm = captured("chain")
    with pytest.raises(PreconditionError) as caught:
        split_stages(gm, cut_after(gm, ":tanh"))
    assert str(caught.value) == "cannot split the graph into stages: mark-boundaries has not run on it"


def test_what_a_recomputed_weight_reads_is_sent_if_it_may_run_only_once():
    """A bias looked up at places that were written to: the look-up is repeated, the writing is not."""
    sketch = Sketch()
    places = sketch.add(sketch.frozen, aliases=frozenset({"frozen"}), dtype=torch.int64)
    written = sketch.add(places, mutates=frozenset({places.name}), aliases=frozenset({places.name}))
    table = sketch.add(sketch.weight, written)
    first = sketch.add(sketch.inputs[0], table, flops=1)
    gm = sketch.done(sketch.add(first, table, flops=1))
    plan = parse("balanced:stages=2", POLICIES).plan(dataflow(gm))
    assert list(plan.copies) == [anchor_of(table)]
    parts = split_stages(Pipeline((MarkBoundaries(plan),)).run(gm), plan).parts
    assert set(parts[1].reads) <= {"x", *parts[0].writes}
    assert written.name in parts[0].writes
