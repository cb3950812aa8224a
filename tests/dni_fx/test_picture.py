"""A picture shows every node once, every boundary with its bytes, and nothing on top of anything else."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.picture.drawing import figure_of
from dni_fx.picture.layout import layout_of
from dni_fx.picture.scene import BOXES, FEWEST, MOST, scene_of
from dni_fx.picture.texts import shortened, width_of
from passes import Pipeline, boundaries
from passes.crossings import plain_crossings
from passes.dataflow import computed, dataflow
from passes.mark_boundaries import MarkBoundaries
from tests.scenes import CASES, by_order, chain, planned


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def drawn(request):
    """A graph, a plan for it, and what the picture shows."""
    gm, plan = planned(*request.param)
    return gm, plan, scene_of(gm, plan, "flops")


def test_every_computed_node_is_in_one_box_of_its_stage(drawn):
    gm, plan, scene = drawn
    stages = {node.name: stage for node, stage in plan.assign(gm.graph).items()}
    shown = [(name, box.stage) for box in scene.boxes for name in box.fold.names]
    assert sorted(shown) == sorted(stages.items())
    assert len(shown) == len(computed(dataflow(gm)))


def test_boxes_hold_the_cost_of_all_nodes(drawn):
    gm, _, scene = drawn
    flow = dataflow(gm)
    cost = sum(flow.nodes[name]["flops"] + flow.nodes[name]["backward_flops"] for name in computed(flow))
    assert sum(box.cost for box in scene.boxes) == sum(lane.cost for lane in scene.lanes) == cost


def test_every_boundary_is_one_joint_with_its_bytes(drawn):
    gm, plan, scene = drawn
    marked = Pipeline((MarkBoundaries(plan),)).run(gm)
    there = {spec.name: spec for _, spec in boundaries(marked)}
    joints = {joint.name: joint for joint in scene.joints if joint.name}
    assert list(joints) == list(there)
    for name, spec in there.items():
        joint, value = joints[name], spec.value
        size = torch.empty(value.shape, dtype=value.dtype, device="meta")
        assert joint.bytes == size.numel() * size.element_size()
        assert scene.boxes[joint.source].stage == spec.producer
        assert joint.consumers == spec.consumers
        assert {scene.boxes[target].stage for target in joint.targets} == set(spec.consumers)


def test_joints_without_a_gradient_hold_the_bytes_of_all_values_that_cross_without_one(drawn):
    gm, plan, scene = drawn
    plain = plain_crossings(gm, plan, dataflow(gm))
    assert sum(joint.bytes for joint in scene.joints if not joint.name) == sum(plain.values())


@pytest.mark.parametrize("stages", [1, 2, 7, 30])
def test_a_picture_of_3000_nodes_has_few_boxes(stages):
    scene = scene_of(*chain(3000, stages), "flops")
    budget = max(FEWEST, min(MOST, BOXES // stages))
    assert all(1 < len(lane.boxes) <= budget for lane in scene.lanes)
    assert sum(len(box.fold.names) for box in scene.boxes) == 3000


def test_a_deep_tree_of_modules_is_opened_only_as_far_as_there_is_room():
    def tree(depth):
        return nn.Linear(2, 2) if depth == 0 else nn.Sequential(*(tree(depth - 1) for _ in range(5)))

    program = dni_fx.capture(tree(4), (torch.rand(2, 2),), frontend="symbolic")
    gm = training_graph(program)
    scene = scene_of(gm, by_order(gm, 4), "flops")
    assert all(len(lane.boxes) <= MOST for lane in scene.lanes)
    assert all("." in box.fold.path for box in scene.boxes)


def overlap(one, other):
    return one.x < other.right and other.x < one.right and one.y < other.bottom and other.y < one.bottom


def test_no_box_and_no_label_lies_on_another(drawn):
    layout = layout_of(drawn[2])
    places = [*layout.boxes, *layout.labels]
    assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
    page = (0, 0, layout.width, layout.height)
    assert all(
        p.x >= page[0] and p.y >= page[1] and p.right <= page[2] and p.bottom <= page[3] for p in places
    )


def test_no_wire_runs_through_a_box_or_through_the_label_of_another(drawn):
    _, _, scene = drawn
    layout = layout_of(scene)
    for wire in layout.wires:
        others = [place for at, place in enumerate(layout.labels) if at != wire.joint]
        for line in (*wire.strokes, *wire.tips):
            for (x0, y0), (x1, y1) in pairwise(line):
                low, high = (min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))
                for place in (*layout.boxes, *others):
                    across = low[0] < place.right and place.x < high[0]
                    assert not (across and low[1] < place.bottom and place.y < high[1])


def test_every_joint_has_a_wire_that_reaches_each_of_its_readers(drawn):
    _, _, scene = drawn
    layout = layout_of(scene)
    wires = {wire.joint: wire for wire in layout.wires if wire.joint >= 0}
    assert sorted(wires) == list(range(len(scene.joints)))
    for number, joint in enumerate(scene.joints):
        ends = [tip[-1] for tip in wires[number].tips]
        boxes = [layout.boxes[target] for target in joint.targets]
        assert len(ends) == len(boxes)
        assert all(x == box.x and box.y < y < box.bottom for (x, y), box in zip(ends, boxes, strict=True))


def test_no_two_texts_of_the_drawn_figure_overlap_and_all_are_on_the_page(drawn):
    figure = figure_of(drawn[2])
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [(a, b) for a, b in combinations(extents, 2) if a.overlaps(b)]
    page = figure.bbox
    assert all(page.contains(e.x0, e.y0) and page.contains(e.x1, e.y1) for e in extents)


def test_the_texts_of_boxes_and_joints_lie_inside_of_them(drawn):
    figure = figure_of(drawn[2])
    figure.canvas.draw()
    named = [p for p in figure.axes[0].patches if str(p.get_gid()).startswith(("box", "joint"))]
    places = [patch.get_window_extent() for patch in named]
    texts = [text.get_window_extent() for text in figure.axes[0].texts]
    for place in places:
        inside = [text for text in texts if place.overlaps(text)]
        assert len(inside) == 2
        assert all(place.x0 <= text.x0 and text.x1 <= place.x1 for text in inside)


def test_a_shortened_text_keeps_both_ends_and_as_many_letters_as_fit():
    text = "encoder.layers.10.attention.output"
    for size in range(1, len(text) + 3):
        short = shortened(text, lambda each, size=size: len(each) <= size)
        assert len(short) == min(size, len(text))
        head, _, tail = short.partition("…")
        assert text.startswith(head)
        assert text.endswith(tail)


def test_a_longer_text_is_wider():
    assert 0 < width_of("abc", 8.0) < width_of("abcd", 8.0) < width_of("abcd", 9.0)
