"""What is in a file or a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer
from torch import fx, nn

from dni_fx import verbs
from dni_fx.cli.after_all import Printer, printer
from dni_fx.cli.commands.inspect import Inspect
from dni_fx.cli.commands.options import CaptureRequest
from dni_fx.cli.models import Opened, captured, cut_model, open_model
from dni_fx.cli.output import say_json, say_table
from dni_fx.cli.usage import refuse_idle
from dni_fx.crossing import crossings_of
from dni_fx.decoupled import Decoupled
from dni_fx.describe import count, history_of, plan_of
from dni_fx.program import Program
from dni_fx.sheet import Sheet, sheet_of
from dni_fx.single_mode import mode_of


def run(request: Inspect) -> None:
    """Print all facts there are."""
    opened = open_model(request.source)
    prints = printer(request.print_after_all)
    is_cut = isinstance(opened.model, Decoupled)
    if is_cut:
        refuse_idle({"--example": request.source.example}, "this model is cut already")
    if is_cut or request.cut.given().keys() - {"--frontend", "--carry"}:
        opened = Opened(cut_model(opened, request.cut, prints), opened.example)
    facts = _facts(opened, request.cut.capture, prints)
    if request.as_json:
        say_json({name: v.data() if isinstance(v, Sheet) else v for name, v in facts.items()})
    else:
        _say(facts)


def _facts(opened: Opened, request: CaptureRequest, prints: Printer | None) -> dict[str, Any]:
    if isinstance(opened.model, Decoupled):
        return _of_cut(opened.model)
    asks_for_graph = prints is not None or request.frontend or request.carry
    if isinstance(opened.model, nn.Module) and opened.example is None and not asks_for_graph:
        return {"kind": "model", **_size(opened.model)}
    kind = "program" if isinstance(opened.model, Program) else "model"
    mode = {"mode": mode_of(opened.model)} if isinstance(opened.model, Program) else {}
    program = captured(opened, request)
    graph = verbs.training_graph(program)
    if prints is not None:
        prints.show("captured", graph)
    return {
        "kind": kind,
        **mode,
        **_size(program.tree),
        "nodes": _nodes(graph),
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
        for spec in graph.specs
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
