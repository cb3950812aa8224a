"""A picture in a page of its own, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from dni_fx.palette import stage_color
from dni_fx.picture.folding import tree_of
from dni_fx.picture.scene import Lane, Scene
from dni_fx.picture.words import facts_of_joint, noun, percent
from passes.bytes import show_bytes

_CSS = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 1.5rem; }
.picture { overflow: auto; border: 1px solid #ccc; } .picture svg { display: block; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:first-child { border-left: 6px solid var(--stage, transparent); }
details > details, details > div { margin-left: 1.2rem; } summary { cursor: pointer; }
.quiet { color: #595959; }
"""
_HEADS = ("stage", "nodes", "cost", "share", "parameters", "saved", "sends")


def page_of(svg: str, scene: Scene) -> str:
    """A page that needs nothing but itself: the picture, a row for each stage, a tree of modules for each."""
    picture = svg[svg.index("<svg") :]
    heads = "".join(f"<th>{noun(scene) if head == 'cost' else head}</th>" for head in _HEADS)
    rows = "\n".join(_row(scene, lane) for lane in scene.lanes)
    trees = "\n".join(_tree(scene, lane) for lane in scene.lanes)
    title = f"{escape(scene.policy)}: balance {scene.balance:.3f}"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n"
        f'<div class="picture">\n{picture}</div>\n'
        f"<h2>Stages</h2>\n<table>\n<tr>{heads}</tr>\n{rows}\n</table>\n"
        f"<h2>Modules</h2>\n{trees}\n</body>\n</html>\n"
    )


def _row(scene: Scene, lane: Lane) -> str:
    sent = [
        f"{escape(joint.anchor)} {facts_of_joint(joint)} {'' if joint.name else '(no gradient)'}".rstrip()
        for joint in scene.joints
        if scene.boxes[joint.source].stage == lane.stage
    ]
    cells = [
        str(lane.stage),
        f"{lane.nodes:,}",
        scene.amount(lane.cost),
        percent(scene.share(lane.cost)),
        show_bytes(lane.parameter_bytes),
        show_bytes(lane.saved),
        "<br>".join(sent) or "nothing",
    ]
    style = f' style="--stage: {stage_color(lane.stage)}"'
    return f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _tree(scene: Scene, lane: Lane) -> str:
    names = [name for at in lane.boxes for name in scene.boxes[at].fold.names]
    tree = tree_of(scene.modules, names)
    lines = "\n".join(_lines(scene, tree, "")) if tree else ""
    return f"<details><summary>stage {lane.stage}</summary>\n{lines}\n</details>"


def _lines(scene: Scene, tree: dict[str, tuple[int, float]], path: str) -> Iterator[str]:
    """A module of a stage, and in it those below."""
    inside = [each for each in tree if each and each.rpartition(".")[0] == path]
    nodes, cost = tree[path]
    kind = scene.modules.kinds.get(path, "")
    facts = f"{nodes:,} {'node' if nodes == 1 else 'nodes'}, {percent(scene.share(cost))}"
    about = f'{escape(path or "model")} <span class="quiet">{escape(kind)} {facts}</span>'
    if not inside:
        yield f"<div>{about}</div>"
        return
    yield f"<details{'' if path else ' open'}><summary>{about}</summary>"
    for each in inside:
        yield from _lines(scene, tree, each)
    yield "</details>"
