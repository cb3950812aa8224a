"""What two files can be compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx, nn

from dni_fx import verbs
from dni_fx.cli.commands.options import CaptureRequest, ModelRequest
from dni_fx.cli.models import Opened, captured, is_pickled, open_model
from dni_fx.cli.named_files import read_plan, read_state
from dni_fx.crossing import crossings_of
from dni_fx.decoupled import Decoupled
from dni_fx.describe import plan_of
from dni_fx.errors import FileError
from passes import Plan
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


def side_of(text: str, allow_pickle: bool) -> Side:
    """What is in a file, or in a model that code makes.

    Raises:
        FileError: it cannot be read.
    """
    suffix = Path(text).suffix
    if suffix == ".json":
        plan = read_plan(text)
        assert isinstance(plan, Plan)
        return Side(plan=plan)
    is_module = allow_pickle and is_pickled(Path(text))
    if suffix in _STATE and not is_module:
        return Side(state=_tensors(read_state(Path(text)), text))
    return _of_model(open_model(ModelRequest(model=text, allow_pickle=is_module)))


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
        nodes = _nodes(graph.capture.module(verbs.recouple(model)))
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
