"""Trains on a device that has onnxruntime and numpy, and no PyTorch, what `onnx-training` has written.

::

    import dni_fx.device

    session = dni_fx.device.open("digits")
    for images, labels in batches:
        loss = session.step({"x": images}, labels)
    session.save("trained.safetensors")  # under the names that the PyTorch model knows
"""

from pathlib import Path

from dni_fx.device.errors import DeviceError
from dni_fx.device.session import Session, open_session

open = open_session

WEB = Path(__file__).parent / "web"
"""Where `dni_fx.js` and its neighbors lie, which train the same folders by onnxruntime-web."""

__all__ = ["WEB", "DeviceError", "Session", "open"]
