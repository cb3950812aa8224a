"""What must be the same in all processes of a run, as plain values that can be sent and read."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch.utils._pytree as pytree
from torch import fx, nn

from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.runtimes.owned import shown
from dni_fx.runtimes.recipe import Recipe
from passes import Plan

_OWN = re.compile(r" at 0x[0-9a-f]+|(?<=cuda:)\d+")
"""What a text says of the process that it is from: a place in its memory, its device."""


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """How gradients become steps; of what makes optimizers and schedules, what it says by itself."""
    return {
        "accumulate": recipe.accumulate,
        "clip": recipe.clip,
        "autocast": str(recipe.autocast),
        "per_epoch": recipe.per_epoch,
        "optimizer": _claimed(recipe.optimizer),
        "scheduler": _claimed(recipe.scheduler),
    }


def of_graph(cut: Decoupled, graph: CutGraph, shows_labels: bool) -> dict[str, Any]:
    """What stages have to agree on to fit together, and to compute what they would in one process.

    Each layer is a fact of its own, so that whoever is told of differences is told of those alone.
    """
    cutting = cutting_of(cut)
    assert isinstance(cutting.plan, Plan)
    text = json.dumps(sorted((str(anchor), stage) for anchor, stage in cutting.plan.stage_of.items()))
    guesses = {name: f"{dni.synthesizer} by {dni.interface}" for name, dni in dnis(cut).items()}
    return {
        "plan": f"{cutting.plan.summary} ({hashlib.sha256(text.encode()).hexdigest()[:12]})",
        "boundaries": [[spec.name, spec.producer, *spec.consumers] for spec in graph.marked.specs],
        "inputs": [list(shape) for shape in graph.capture.shapes],
        "context": cutting.context,
        "labels_as_context": shows_labels,
        **{f"what guesses at {name}": told for name, told in guesses.items()},
        **dict(_layers(graph)),
        **_numbers(graph),
    }


def _claimed(factory: object) -> str:
    """What makes something, if it is a class, or one with options; code of the user's is not asked."""
    if isinstance(factory, type):
        return factory.__name__
    if not (isinstance(factory, functools.partial) and isinstance(factory.func, type)):
        return "" if factory is None else "code"
    given = {str(at): each for at, each in enumerate(factory.args)} | factory.keywords
    options = ", ".join(f"{key}={value}" for key, value in sorted(shown(given).items()))
    return f"{factory.func.__name__}({options})"


def _layers(graph: CutGraph) -> Iterator[tuple[str, str]]:
    """The layers that are called, with their options as they print them."""
    for stage in graph.road.stages:
        for node in stage.code.part.graph.nodes:
            if node.op == "call_module":
                layer: nn.Module = stage.tree.get_submodule(str(node.target))
                yield f"layer {node.target}", _OWN.sub("", repr(layer))


def _numbers(graph: CutGraph) -> dict[str, list[str]]:
    """The plain numbers that functions are given, by stage and function, in an order of their own."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for stage in graph.road.stages:
        for node in stage.code.part.graph.nodes:
            if node.op in {"call_function", "call_method"} and (numbers := _numbers_of(node)):
                name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
                found[f"{name} in stage {stage.index}"].append(numbers)
    return {where: sorted(numbers) for where, numbers in found.items()}


def _numbers_of(node: fx.Node) -> str:
    leaves = pytree.tree_leaves((node.args, dict(node.kwargs)))
    return ", ".join(str(each) for each in leaves if isinstance(each, int | float))
