"""What the parts of a drawn picture say when a mouse rests on them."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from dni_fx.picture.scene import Scene
from dni_fx.picture.words import facts_of_box, facts_of_joint, kind_of

_SVG = "http://www.w3.org/2000/svg"
_SHOWN = 12
"""Nodes of a box that its title names."""


def with_titles(svg: str, scene: Scene) -> str:
    """The same picture, in which boxes and joints have titles and texts let the mouse through."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(svg)
    titles = dict(titles_of(scene))
    for group in root.iter(f"{{{_SVG}}}g"):
        name = group.get("id", "")
        if name in titles:
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = titles[name]
            group.insert(0, title)
        elif name.startswith("text_"):
            group.set("pointer-events", "none")
    return ET.tostring(root, encoding="unicode") + "\n"


def titles_of(scene: Scene) -> Iterator[tuple[str, str]]:
    """The title of each box and joint, by the id that it has in the picture."""
    for number, box in enumerate(scene.boxes):
        anchors = [scene.modules.anchor_of[name] for name in box.fold.names]
        more = [f"and {len(anchors) - _SHOWN} more"] if len(anchors) > _SHOWN else []
        about = [kind_of(box), facts_of_box(scene, box), scene.amount(box.cost)]
        lines = [box.fold.label, "  ·  ".join(filter(None, about)), *anchors[:_SHOWN], *more]
        yield f"box-{number}", "\n".join(lines)
    for number, joint in enumerate(scene.joints):
        source = scene.boxes[joint.source].stage
        stages = ", ".join(map(str, joint.consumers))
        kind = f"boundary {joint.name}" if joint.name else "crosses without a gradient"
        way = f"from stage {source} to {stages}"
        yield f"joint-{number}", "\n".join([joint.anchor, facts_of_joint(joint), joint.dtype, kind, way])
