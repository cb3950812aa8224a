"""Files that a model can be written to. To add one: a file here, and its line in this table."""

from dni_fx.exporters.base import Exporter, Written
from passes import Registry

EXPORTERS: Registry[type[Exporter]] = Registry(
    "exporter",
    {
        "onnx": "dni_fx.exporters.onnx:Onnx",
        "onnx-stages": "dni_fx.exporters.onnx_stages:OnnxStages",
    },
    group="dni_fx.exporters",
)

__all__ = ["EXPORTERS", "Exporter", "Written"]
