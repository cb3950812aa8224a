"""Programs whose one graph was exported in one mode, which is part of its operations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dni_fx.errors import CaptureError
from dni_fx.program import Program
from dni_fx.restored import Saved

_BOTH = frozenset({True, False})
_NOTES = {
    lacking: f"{lacking}: the file holds the graph of {other} mode alone, which stands in for this one"
    for lacking, other in (("train", "eval"), ("eval", "train"))
}


def mode_of(program: Program) -> str:
    """What a program that was exported elsewhere serves: `train` or `eval` mode, or `any`; empty for others.

    It is `any` where nothing in the graph depends on the mode: no dropout, and no normalization by the batch.
    """
    modes = _modes(program)
    if modes is None:
        return ""
    return "any" if modes == _BOTH else "train" if True in modes else "eval"


def refuse_eval_graph(program: Program, remedy: str) -> None:
    """Do nothing if there is a graph to train.

    Raises:
        CaptureError: there is one for eval mode alone; `remedy` is how to train that one all the same.
    """
    if mode_of(program) == "eval":
        raise CaptureError(
            "this file was exported in eval mode, and that is part of its graph: dropout is left out of it, "
            "and batch norm normalizes by the statistics that it had then and never learns others. Export "
            "the model again after model.train(), or name its code. To train this graph as it is, "
            f"{remedy}."
        )


def mode_without_graph(history: Iterable[str]) -> str:
    """The mode, `train` or `eval`, that the graph of the other one stands in for; empty if there is none."""
    said = set(history)
    return next((mode for mode, note in _NOTES.items() if note in said), "")


def in_both_modes(program: Program) -> Program:
    """A program whose one graph serves train and eval mode alike; every other program as it is."""
    modes = _modes(program)
    if modes is None or modes == _BOTH:
        return program
    saved = program.frontend
    assert isinstance(saved, Saved)
    (capture,) = saved.captures.values()
    note = _NOTES["train" if False in modes else "eval"]
    both = replace(
        program,
        frontend=replace(saved, captures=dict.fromkeys(_BOTH, capture)),
        history=[*program.history, note],
        captures=[],
    )
    vars(both.tree)["_program"] = both
    return both


def _modes(program: Program) -> frozenset[bool] | None:
    """The modes that the graphs from a file are for; None if the program is captured from code."""
    return frozenset(program.frontend.captures) if isinstance(program.frontend, Saved) else None
