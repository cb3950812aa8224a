"""What a picture says of boxes, joints and shares."""

from __future__ import annotations

from dni_fx.picture.scene import Box, Joint, Scene
from passes.bytes import show_bytes


def kind_of(box: Box) -> str:
    """The class of a box's module, and whether some of the module is in other stages."""
    if not box.fold.is_part:
        return box.fold.kind
    return f"part of {box.fold.kind}" if box.fold.kind else "part"


def facts_of_box(scene: Scene, box: Box) -> str:
    """How many nodes a box holds, and what share of the cost of all."""
    count = len(box.fold.names)
    return f"{count:,} {'node' if count == 1 else 'nodes'}  ·  {percent(scene.share(box.cost))}"


def facts_of_joint(joint: Joint) -> str:
    """The shape of a crossing value, its size and how many nodes read it."""
    readers = "1 reader" if joint.readers == 1 else f"{joint.readers} readers"
    return "  ·  ".join([joint.shape, show_bytes(joint.bytes), readers])


def noun(scene: Scene) -> str:
    """What the cost of a scene is called."""
    return "FLOPs" if scene.unit == "flops" else scene.unit


def percent(share: float) -> str:
    """A share for people; what is not nothing does not look like it.

    >>> percent(0), percent(0.0001), percent(0.123)
    ('0 %', '< 0.1 %', '12.3 %')
    """
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %" if share else "0 %"
