"""Cut models to files and back."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.export import ExportedProgram

from dni_fx import archive
from dni_fx.calls import Call, Form, form_of
from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, bare, cutting_of, detach, dnis
from dni_fx.errors import ExportError, FileError
from dni_fx.exported import Exported, export_graph
from dni_fx.feedback import Carry
from dni_fx.literals import Literal, literals_of, put_literals
from dni_fx.modes import eval_mode, training_mode
from dni_fx.older import interfaces_of, state_of
from dni_fx.program import Capture, Program, signature_of
from dni_fx.refusals import refuse_own_hooks
from dni_fx.restored import Restored, Saved, plant, restored_class, without_markers
from dni_fx.sources import exported_program
from dni_fx.unlifted import capture_of
from dni_fx.warning import warn
from passes import Plan, copy_graph
from passes.anchors import set_anchors
from passes.chunk_time import in_one_piece

_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


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

    Raises:
        ExportError: torch.export refuses the graph, or a hook would be lost.
    """
    refuse_own_hooks(cut)
    with eval_mode(cut), torch.no_grad():
        return _export(cut, cutting_of(cut).graph(cut, call), call)


def shown_program(cut: Decoupled, call: Call) -> ExportedProgram:
    """Like `inference_program`, for other tools: what it returns has the form that the model returns.

    Raises:
        ExportError: torch.export refuses the graph, or a hook would be lost.
    """
    program = inference_program(cut, call).program
    with eval_mode(cut), torch.no_grad():
        form = cutting_of(cut).graph(cut, call).capture.out_spec
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


def open_cut(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Opened | Program:
    """Read a file: how a model was cut, or the plain program of a file that dni_fx did not write.

    Raises:
        FileError: the file is missing, damaged, newer than this version, or could run code.
    """
    read = archive.read(path, trusted=trusted)
    if not read.meta:
        return _foreign(read, Path(path))
    meta = read.meta
    try:
        form = _form(meta["call"])
        signature = _signature(meta["call"]["parameters"])
        tree = restored_class(meta["model"], signature)()
        for program in read.programs.values():
            plant(tree, program, meta["order"])
        for name, parameter in tree.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(name in meta["trainable"])
        leaves = read.programs["eval"].example_inputs[0]  # pyright: ignore[reportOptionalSubscript]
        captures = {mode == "train": _capture(mode, each, tree, meta) for mode, each in read.programs.items()}
        frontend = Saved(captures, form, meta["missing"])
        program = _finish(tree, frontend, Call(_typed(form, leaves), tuple(leaves)), meta["history"])
        program.carry = Carry(**meta.get("carry", {"paths": {}}))
        plan = Plan.from_json(json.dumps(meta["plan"]))
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
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"cannot read {path}: its description is not complete ({type(error).__name__}: {error})."
        ) from error


def _export(cut: Decoupled, graph: CutGraph, call: Call) -> Exported:
    whole = copy_graph(graph.marked.module(cut))
    in_one_piece(whole)  # a file holds the layers themselves; its plan says how to cut them in time
    stages = {node.name: node.meta["stage"] for node in whole.graph.nodes if "stage" in node.meta}
    tree = bare(cut)
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
        "call": _described(call, signature_of(original)),
        "result": _result(cutting_of(cut).graphs[0].capture.out_spec),
        "literals": literals,
        "missing": missing,
    }


def _result(form: pytree.TreeSpec) -> str:
    try:
        return pytree.treespec_dumps(form)
    except NotImplementedError as error:  # a class that was registered without a name for files
        raise FileError(
            f"cannot save: a file cannot hold the form of what the model returns: {error}"
        ) from None


def _described(call: Call, signature: inspect.Signature) -> dict[str, Any]:
    """The form of a call and its result as JSON."""
    constants = dict(call.form.constants)
    odd = [f"{type(value).__name__}" for value in constants.values() if not _is_plain(value)]
    if odd:
        raise FileError(
            f"cannot save: the model was captured with arguments that a file cannot hold: {', '.join(odd)}."
        )
    parameters = [
        [p.name, int(p.kind), p.default is not inspect.Parameter.empty] for p in signature.parameters.values()
    ]
    return {
        "names": list(call.form.names),
        "spec": pytree.treespec_dumps(call.form.spec),
        "constants": [[place, value] for place, value in constants.items()],
        "parameters": parameters,
    }


def _form(described: Mapping[str, Any]) -> Form:
    constants = tuple((int(place), value) for place, value in described["constants"])
    return form_of(described["spec"], constants, (), tuple(described["names"]))


def _typed(form: Form, leaves: tuple[torch.Tensor, ...]) -> Form:
    kinds = tuple((leaf.dtype, leaf.requires_grad) for leaf in leaves)
    return Form(form.spec, form.constants, kinds, form.names)


def _signature(parameters: list[Any]) -> inspect.Signature:
    kinds = {int(kind): kind for kind in _KINDS}
    none = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=None if has else none)
            for name, kind, has in parameters
        ]
    )


def _capture(mode: str, program: ExportedProgram, tree: nn.Module, meta: Mapping[str, Any]) -> Capture:
    found = capture_of(program, tree, {})
    without_markers(found.graph, meta["boundaries"])
    set_anchors(found.graph)
    put_literals(found.graph, meta.get("literals", {}).get(mode, ()))
    spec = pytree.treespec_loads(meta["result"]) if "result" in meta else found.out_spec
    return Capture(found.graph, spec, found.constants, (), found.sizes)


def _finish(tree: Restored, frontend: Saved, example: Call, history: list[str]) -> Program:
    program = Program(tree, frontend, bare, example, list(history), is_from_file=True)
    vars(tree)["_program"] = program
    return program


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _foreign(read: archive.Archive, path: Path) -> Program:
    (program,) = read.programs.values()
    name, note = path.stem.replace("-", "_"), f"saved: a program of {path.name}"
    return exported_program(program, name, read.training, "this file", note)
