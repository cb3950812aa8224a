"""Cut models to files and back."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from dni_fx import archive
from dni_fx.calls import Call
from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, bare, cutting_of, detach, dnis
from dni_fx.description import check_description, described_call, form_in, signature_in
from dni_fx.errors import DniError, ExportError, FileError, first_line
from dni_fx.exported import Exported, export_graph
from dni_fx.feedback import Carry
from dni_fx.hooks import let_norms_through
from dni_fx.literals import Literal, literals_of, put_literals
from dni_fx.modes import eval_mode, training_mode
from dni_fx.older import interfaces_of, state_of
from dni_fx.program import Capture, Program, signature_of
from dni_fx.refusals import refuse_own_hooks
from dni_fx.restored import Restored, Saved, plant, restored_class, without_markers
from dni_fx.sources import exported_program
from dni_fx.trees import tree_of, writable_tree
from dni_fx.unlifted import capture_of
from dni_fx.warning import warn
from passes import GraphError, Plan, copy_graph
from passes.anchors import set_anchors
from passes.chunk_time import in_one_piece


@dataclass(frozen=True)
class Opened:
    """What a file of ours holds: a program, and how it was cut."""

    program: Program
    plan: Plan
    synthesizers: Mapping[str, str]
    interfaces: Mapping[str, str]
    context: str
    classes: int
    state: Mapping[str, torch.Tensor]
    missing: str


def inference_program(cut: Decoupled, call: Call) -> Exported:
    """The eval graph of a cut model, its boundaries visible, as an exported program.

    What runs without gradients in it does so in the program: a graph from a file is asked for gradients too.

    Raises:
        ExportError: torch.export refuses the graph, or a hook would be lost.
    """
    refuse_own_hooks(cut)
    with eval_mode(cut), torch.enable_grad():
        return _export(cut, cutting_of(cut).graph(cut, call), call)


def shown_program(cut: Decoupled, call: Call) -> ExportedProgram:
    """Like `inference_program`, for other tools: what it returns has the form that the model returns.

    No gradient is wanted of it, so what runs without any is like the rest.

    Raises:
        ExportError: torch.export refuses the graph, or a hook would be lost.
    """
    refuse_own_hooks(cut)
    with eval_mode(cut), torch.no_grad():
        graph = cutting_of(cut).graph(cut, call)
        program, form = _export(cut, graph, call).program, graph.capture.out_spec
    signature = program.module_call_graph[0].signature
    assert signature is not None
    signature.out_spec = form
    return program


def save(cut: Decoupled, call: Call, path: str | os.PathLike[str]) -> str:
    """Write a cut model to one `.pt2` file; returns why it cannot be trained on, empty if it can.

    Raises:
        FileError: the file cannot be written, or the model holds something that a file cannot.
        ExportError: the inference graph cannot be exported.
    """
    with eval_mode(cut), torch.no_grad():
        graphs = [cutting_of(cut).graph(cut, call)]
        literals = {"eval": literals_of(graphs[0].capture.graph)}
    programs = {"eval": inference_program(cut, call).program}
    missing = ""
    try:
        with training_mode(cut), torch.enable_grad():
            graph = cutting_of(cut).graph(cut, cutting_of(cut).opened(cut, call))
            graphs.append(graph)
            literals["train"] = literals_of(graph.capture.graph)
            programs["train"] = _export(cut, graph, call).program
    except ExportError as error:
        missing = str(error)
    held = {spec.name for graph in graphs for spec in graph.specs}
    if lost := dnis(cut).keys() - held:
        warn(
            f"{path} holds one way through the model, and not the synthesizers of the others: "
            f"{', '.join(sorted(lost))}."
        )
    state = cutting_of(cut).interfaces.state_dict()
    state = {key: value for key, value in state.items() if key.partition(".")[0] in {"steps", *held}}
    meta = _meta(cut, call, missing, literals)
    for part in ("synthesizers", "interfaces", "boundaries"):
        meta[part] = {name: each for name, each in meta[part].items() if name.partition(".")[0] in held}
    archive.write(path, programs, state, meta)
    return missing


def open_cut(
    path: str | os.PathLike[str], trusted: Collection[str] = (), device: torch.device | None = None
) -> Opened | Program:
    """Read a file: how a model was cut, or the plain program of a file that dni_fx did not write.

    Raises:
        FileError: the file is missing, damaged, newer than this version, or could run code.
    """
    read = archive.read(path, trusted=trusted, device=device)
    if read.meta:
        check_description(read.meta, str(path))
    try:
        return _opened(read, trusted) if read.meta else _foreign(read, Path(path))
    except (DniError, GraphError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    except Exception as error:  # what does not fit together shows in whatever is first built of it
        raise FileError(
            f"cannot read {path}: what it says of the model does not fit together "
            f"({type(error).__name__}: {first_line(error):.300})."
        ) from error


def _opened(read: archive.Archive, trusted: Collection[str]) -> Opened:
    meta = read.meta
    tree = restored_class(meta["model"], signature_in(meta["call"]))()
    trainable = set(meta["trainable"])
    for program in read.programs.values():
        plant(tree, program, meta["order"])
    for name, parameter in tree.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name in trainable)
    leaves = _leaves_in(read.programs["eval"].example_inputs)
    if (first := next(tree.parameters(), None)) is not None:
        leaves = tuple(leaf.to(first.device) for leaf in leaves)
    form = form_in(meta["call"], leaves, trusted)
    captures = {
        mode == "train": _capture(mode, each, tree, meta, trusted) for mode, each in read.programs.items()
    }
    program = _finish(tree, Saved(captures, form, meta["missing"]), Call(form, leaves), meta["history"])
    program.carry = Carry(**(meta.get("carry") or {"paths": {}}))
    plan = Plan.from_json(json.dumps(meta["plan"]))
    # Stages are counted up to the last one before anybody looks for gaps between them.
    if len(plan) > max(len(plan.stage_of), 1):
        raise FileError(f"its plan has a stage {len(plan) - 1}, and {len(plan.stage_of)} values.")
    return Opened(
        program,
        plan,
        meta["synthesizers"],
        interfaces_of(meta),
        meta["context"],
        meta["classes"],
        state_of(meta, read.state),
        meta["missing"],
    )


def _leaves_in(example: Any) -> tuple[torch.Tensor, ...]:
    (leaves, keywords) = example or ((), {})
    if keywords or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise FileError("its example inputs are not a flat list of tensors.")
    return tuple(leaves)


def _export(cut: Decoupled, graph: CutGraph, call: Call) -> Exported:
    whole = copy_graph(graph.marked.module(cut))
    in_one_piece(whole)  # a file holds the layers themselves; its plan says how to cut them in time
    stages = {node.name: node.meta["stage"] for node in whole.graph.nodes if "stage" in node.meta}
    tree = bare(cut)
    let_norms_through(tree)
    graph.capture.install(tree)
    return export_graph(tree, whole.graph, call.leaves, stage_of=stages)


def _meta(cut: Decoupled, call: Call, missing: str, literals: Mapping[str, list[Literal]]) -> dict[str, Any]:
    original = detach(cut)
    plan = cutting_of(cut).plan
    assert isinstance(plan, Plan)
    return {
        "model": type(original).__name__,
        "plan": json.loads(plan.to_json()),
        "synthesizers": {name: str(dni.synthesizer) for name, dni in dnis(cut).items()},
        "boundaries": {
            name: value.anchor
            for dni in dnis(cut).values()
            for name, value in zip(dni.spec.names, dni.spec.values, strict=True)
        },
        "interfaces": {name: str(dni.interface) for name, dni in dnis(cut).items()},
        "context": cutting_of(cut).context,
        "classes": next((dni.spec.classes for dni in dnis(cut).values()), 0),
        "carry": cutting_of(cut).carry.plain(),
        "history": cutting_of(cut).program.history,
        "trainable": [n for n, p in original.named_parameters(remove_duplicate=False) if p.requires_grad],
        "order": [name for name, _ in original.named_parameters(remove_duplicate=False)]
        + [name for name, _ in original.named_buffers(remove_duplicate=False)],
        "call": described_call(call, signature_of(original)),
        "result": writable_tree(cutting_of(cut).graphs[0].capture.out_spec),
        "literals": literals,
        "missing": missing,
    }


def _capture(
    mode: str, program: ExportedProgram, tree: nn.Module, meta: Mapping[str, Any], trusted: Collection[str]
) -> Capture:
    found = capture_of(program, tree, {})
    without_markers(found.graph, meta["boundaries"])
    set_anchors(found.graph)
    put_literals(found.graph, meta.get("literals", {}).get(mode, ()))
    spec = tree_of(meta["result"], trusted) if meta.get("result") is not None else found.out_spec
    return Capture(found.graph, spec, found.constants, (), found.sizes)


def _finish(tree: Restored, frontend: Saved, example: Call, history: list[str]) -> Program:
    program = Program(tree, frontend, bare, example, list(history), is_from_file=True)
    vars(tree)["_program"] = program
    return program


def _foreign(read: archive.Archive, path: Path) -> Program:
    (program,) = read.programs.values()
    name, note = path.stem.replace("-", "_"), f"saved: a program of {path.name}"
    return exported_program(program, name, read.training, "this file", note)
