"""What two files can be compared by."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, fx, nn

from dni_fx import verbs
from dni_fx.cli.commands.options import CaptureRequest, ModelRequest
from dni_fx.cli.models import Opened, captured, is_pickled, open_model
from dni_fx.cli.named_files import read_plan, read_state
from dni_fx.crossing import crossings_of
from dni_fx.decoupled import Decoupled
from dni_fx.describe import plan_of
from dni_fx.errors import DniError, FileError
from dni_fx.program import Program
from passes import GraphError, Plan
from passes.anchors import anchor_of

_STATE = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Side:
    """What a file holds; None for what it does not.

    `nodes` names the operation that makes each value, by the value's place in the model; `boundaries`
    tells what crosses each of them, and what fills it. `state` is the model's own, and
    `synthesizers` what was added.
    """

    nodes: Mapping[str, str] | None = None
    plan: Plan | None = None
    boundaries: Mapping[str, str] | None = None
    state: Mapping[str, Tensor] | None = None
    synthesizers: Mapping[str, Tensor] | None = None


def sides_of(texts: Sequence[str], allow_pickle: bool) -> list[Side]:
    """What is in two files, or in models that code makes.

    A cut file holds the operations that modules run. Code beside one is brought to the same form, the way
    that the file was made: it is cut, saved, and read back.

    Raises:
        FileError: one cannot be read.
    """
    found = [_found(text, allow_pickle) for text in texts]
    sides = [each if isinstance(each, Side) else _of_model(each) for each in found]
    cuts = [side.nodes for side in sides if side.boundaries is not None and side.nodes is not None]
    for at, each in enumerate(found):
        if cuts and isinstance(each, Opened) and _is_code(each):
            sides[at] = replace(sides[at], nodes=_as_in_a_file(each, cuts[0]) or sides[at].nodes)
    return sides


def _is_code(opened: Opened) -> bool:
    return not isinstance(opened.model, Decoupled | Program) and opened.example is not None


def _as_in_a_file(opened: Opened, wanted: Mapping[str, str]) -> dict[str, str] | None:
    """The operations that a file would hold of this code; None if none can be made.

    Of the front-ends that one may be made with, the one is taken that comes nearest to what is `wanted`.
    """
    nearest: dict[str, str] | None = None
    for frontend in ("auto", "export", "dynamo"):
        try:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a file that is gone at once
                path = Path(folder) / "cut.pt2"
                program = captured(opened, CaptureRequest(frontend=frontend))
                verbs.save(verbs.decouple(program, plan="balanced:stages=1", synthesizer="zero"), path)
                nodes = _nodes_of(verbs.load(path))
        except (DniError, GraphError):
            continue  # another one may be able to
        if nearest is None or _apart(nodes, wanted) < _apart(nearest, wanted):
            nearest = nodes
        if nearest == wanted:
            break
    return nearest


def _apart(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    return len(one.items() ^ other.items())


def _nodes_of(cut: Decoupled) -> dict[str, str]:
    return _nodes(verbs.cut_graph(cut).capture.module(verbs.recouple(cut)))


def _found(text: str, allow_pickle: bool) -> Opened | Side:
    suffix = Path(text).suffix
    if suffix == ".json":
        plan = read_plan(text)
        assert isinstance(plan, Plan)
        return Side(plan=plan)
    is_module = allow_pickle and is_pickled(Path(text))
    if suffix in _STATE and not is_module:
        return Side(state=_tensors(read_state(Path(text)), text))
    return open_model(ModelRequest(model=text, allow_pickle=is_module))


def _of_model(opened: Opened) -> Side:
    model = opened.model
    if isinstance(model, Decoupled):
        graph = verbs.cut_graph(model)
        dnis = verbs.boundaries(model)
        boundaries = {
            spec.name: f"{' + '.join(map(str, crossings_of(spec)))}, {dnis[spec.name].synthesizer}, "
            f"{dnis[spec.name].interface}"
            for spec in graph.specs
        }
        nodes = _nodes_of(model)
        own, whole = verbs.recouple(model).state_dict(), model.state_dict()
        rest = {name: each for name, each in whole.items() if name not in own}
        return Side(nodes, plan_of(model), boundaries, own, rest)
    if isinstance(model, nn.Module) and opened.example is None:
        return Side(state=model.state_dict())
    program = captured(opened, CaptureRequest())
    return Side(_nodes(verbs.training_graph(program)), state=program.tree.state_dict())


def _nodes(gm: fx.GraphModule) -> dict[str, str]:
    return {anchor_of(node): _operation(gm, node) for node in gm.graph.nodes if "anchor" in node.meta}


def _operation(gm: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(gm.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def _tensors(state: Mapping[str, object], text: str) -> dict[str, Tensor]:
    if odd := [name for name, each in state.items() if not isinstance(each, Tensor)]:
        raise FileError(f"{text} is no state dict: {', '.join(map(str, odd[:5]))} in it is no tensor.")
    return {name: each for name, each in state.items() if isinstance(each, Tensor)}
