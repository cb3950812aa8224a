"""Traced programs as ONNX models."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload

from dni_fx.errors import ExportError
from dni_fx.exporters import labels, opsets
from dni_fx.exporters.training.tracing import Traced
from dni_fx.exporters.translation import PRODUCER

if TYPE_CHECKING:
    import onnx_ir

_MISSING = re.compile(r"OpOverload\(op='([\w.]+)', overload='(\w+)'\)")


class MissingOperatorError(ExportError):
    """A step needs operators that ONNX lacks, and nobody has said what they are made of."""

    def __init__(self, what: str, operators: tuple[str, ...]) -> None:
        super().__init__(
            f"cannot write {what}: it computes {', '.join(operators)}, which ONNX lacks. What an operator is "
            "made of is told in the table of dni_fx.exporters.training.decompositions."
        )
        self.operators = operators


def onnx_model(traced: Traced, opset: int, what: str) -> onnx_ir.Model:
    """The optimized ONNX model of a program; its inputs and outputs have the names that were traced.

    Raises:
        ExportError: ONNX cannot say what the program says, or not in this opset.
    """
    if drawing := [
        str(each) for each in _operators(traced) if torch.Tag.nondeterministic_seeded in each.tags
    ]:
        raise MissingOperatorError(what, tuple(drawing))  # ONNX's own would draw other numbers for each graph
    try:
        exported = torch.onnx.export(
            traced.program,
            dynamo=True,
            verbose=False,
            input_names=list(traced.inputs),
            output_names=list(traced.outputs),
            opset_version=opset or None,
        )
    except Exception as error:  # whatever a translation of one of hundreds of operators may raise
        raise _refusal(error, what) from error
    assert exported is not None  # it is None for the exporter before this one only
    model = exported.model
    opsets.refuse_other(opset, model.opset_imports[""])
    labels.tidy(model)
    model.producer_name, model.producer_version = PRODUCER, f"torch {torch.__version__}"
    return model


def _operators(traced: Traced) -> list[OpOverload[..., Any]]:
    """The operators that a program computes, each once."""
    targets = [node.target for node in traced.program.graph.nodes]
    return [*dict.fromkeys(each for each in targets if isinstance(each, OpOverload))]


def _refusal(error: BaseException, what: str) -> ExportError:
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if found := _MISSING.findall(str(cause)):
            return MissingOperatorError(what, tuple(dict.fromkeys(f"{name}.{kind}" for name, kind in found)))
    return ExportError(f"cannot write {what}: {type(causes[-1]).__name__}: {causes[-1]}")
