"""Files that a model can be written to. To add one: a file here, and its line in this table."""

from typing import TYPE_CHECKING

from dni_fx.exporters.base import Exporter, Written
from passes import Registry

if TYPE_CHECKING:
    from dni_fx.exporters.onnx_training import OnnxTraining

EXPORTERS: Registry[type[Exporter]] = Registry(
    "exporter",
    {
        "onnx": "dni_fx.exporters.onnx:Onnx",
        "onnx-stages": "dni_fx.exporters.onnx_stages:OnnxStages",
    },
    group="dni_fx.exporters",
)
"""Those that write what a model computes."""

TRAINING_EXPORTERS: "Registry[type[OnnxTraining]]" = Registry(
    "training exporter", {"onnx-training": "dni_fx.exporters.onnx_training:OnnxTraining"}
)
"""Those that write how it is trained."""

__all__ = ["EXPORTERS", "TRAINING_EXPORTERS", "Exporter", "Written"]
