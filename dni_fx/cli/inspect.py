"""What is in a file or a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer
from torch import fx, nn

from dni_fx import verbs
from dni_fx.cli import options
from dni_fx.cli.models import Opened, captured, cut_model, open_model
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.cli.output import say_json, say_table
from dni_fx.crossing import crossings_of
from dni_fx.decoupled import Decoupled
from dni_fx.describe import count, history_of, plan_of
from dni_fx.errors import CaptureError
from dni_fx.modes import eval_mode
from dni_fx.program import Program
from dni_fx.sheet import Sheet, sheet_of

NAME = "inspect"
EXAMPLE = "dni-fx inspect dni_fx.demo:mlp"


def run(
    model: options.ModelText,
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    synthesizer: options.SynthesizerText = None,
    interface: options.InterfaceText = None,
    frontend: options.FrontEndText = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what is in a file or a model.

    That is its size and its graph and, where it is cut, stages and boundaries. A model that is not cut is
    shown as --plan and the like would cut it.
    """
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    request = CutRequest.of(plan, synthesizer, interface, frontend)
    if request.given() and request.given() != ["--frontend"]:
        opened = Opened(cut_model(opened, request), opened.example)
    facts = _facts(opened, frontend)
    if as_json:
        say_json({name: v.data() if isinstance(v, Sheet) else v for name, v in facts.items()})
    else:
        _say(facts)


def _facts(opened: Opened, frontend: str | None) -> dict[str, Any]:
    if isinstance(opened.model, Decoupled):
        return _of_cut(opened.model)
    if isinstance(opened.model, nn.Module) and opened.example is None:
        return {"kind": "model", **_size(opened.model)}
    kind = "program" if isinstance(opened.model, Program) else "model"
    program = captured(opened, frontend)
    return {
        "kind": kind,
        **_size(program.tree),
        "nodes": _nodes(_graph_of(program)),
        "history": program.history,
    }


def _of_cut(cut: Decoupled) -> dict[str, Any]:
    graph = verbs.cut_graph(cut)
    original = verbs.recouple(cut)
    module = graph.capture.module(original)
    plan = plan_of(cut)
    dnis = verbs.boundaries(cut)
    boundaries = [
        {
            **dataclasses.asdict(each),
            "synthesizer": str(dnis[spec.name].synthesizer),
            "interface": str(dnis[spec.name].interface),
            "parameters": count(dnis[spec.name].learner.parameters()),
        }
        for spec in graph.marked.specs
        for each in crossings_of(spec)
    ]
    return {
        "kind": "cut model",
        **_size(original),
        "nodes": _nodes(module),
        "plan": plan.policy,
        "sheet": sheet_of(module, plan),
        "boundaries": boundaries,
        "history": history_of(cut),
    }


def _size(model: nn.Module) -> dict[str, Any]:
    return {
        "class": type(model).__name__,
        "parameters": count(model.parameters()),
        "trainable": count(p for p in model.parameters() if p.requires_grad),
    }


def _nodes(gm: fx.GraphModule) -> int:
    return len(gm.graph.nodes)


def _graph_of(program: Program) -> fx.GraphModule:
    """The training graph, or the inference graph of a file that holds nothing else."""
    try:
        return verbs.training_graph(program)
    except CaptureError:
        assert program.example is not None
        with eval_mode(program.tree):
            return program.annotated(program.tree, program.example).module(program.tree)


def _say(facts: dict[str, Any]) -> None:
    lists = {"sheet", "boundaries", "history"}
    say_table(
        ("", ""),
        [(name, f"{v:,}" if isinstance(v, int) else v) for name, v in facts.items() if name not in lists],
    )
    if "sheet" in facts:
        typer.echo(f"\n{facts['sheet']}\n")
        columns = ("boundary", "shape", "dtype", "synthesizer", "interface", "parameters")
        rows = [[_cell(boundary[name]) for name in columns] for boundary in facts["boundaries"]]
        say_table(columns, rows)
    if facts.get("history"):
        typer.echo("\n" + "\n".join(facts["history"]))


def _cell(value: Any) -> Any:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple | list) else value
