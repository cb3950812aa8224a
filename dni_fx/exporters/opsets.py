"""The opsets that a file can be written in."""

from __future__ import annotations

import importlib

from dni_fx.errors import ExportError


def opsets() -> range:
    """The opsets that any model can be converted to; below them, it depends on the model's operators."""
    converter = importlib.import_module("onnxscript.version_converter._version_converter")
    return range(converter.SUPPORTED_MIN_ONNX_OPSET, converter.SUPPORTED_MAX_ONNX_OPSET + 1)


def refuse_unknown(opset: int) -> None:
    """Do nothing if there may be a model of this opset, or if it is 0, the one that torch writes unasked.

    Raises:
        ExportError: there cannot.
    """
    if not 0 <= opset < opsets().stop:
        raise ExportError(f"cannot write opset {opset}: {_advice()}")


def refuse_other(opset: int, reached: int) -> None:
    """Do nothing if a model has the opset that was asked for.

    Raises:
        ExportError: its conversion stopped at another one.
    """
    if opset not in (0, reached):
        raise ExportError(
            f"cannot write this model in opset {opset}: the conversion stopped at {reached}. {_advice()}"
        )


def _advice() -> str:
    first, last = opsets()[0], opsets()[-1]
    return (
        f"Any model can be written in {first} to {last}, some models in older ones. Leave opset out to get "
        "the one that this torch writes best."
    )
