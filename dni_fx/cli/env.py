"""What this runs on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dni_fx.cli.commands.env import Env
from dni_fx.cli.output import say_json, say_table

_OURS = ("dni-fx", "torch", "networkx", "numpy", "rich", "typer")
_OPTIONAL = (
    "accelerate",
    "matplotlib",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "pillow",
    "pytorch-lightning",
    "safetensors",
    "scikit-learn",
    "tensorboard",
    "transformers",
)
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF")


def run(request: Env) -> None:
    """Print it all."""
    facts = environment()
    if request.as_json:
        say_json(facts)
        return
    rows: list[tuple[str, object]] = []
    for name, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {part}".strip(), "not there" if each is None else each) for part, each in parts]
    say_table(("", ""), rows)


def environment() -> dict[str, Any]:
    """Versions, devices and threads, as plain data; None for what is not there."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _OURS},
        "optional": {name: _version(name) for name in _OPTIONAL},
        "devices": _devices(),
        "cuda": torch.version.cuda,
        "threads": {
            "cores": str(os.cpu_count()),
            "torch": str(torch.get_num_threads()),
            "interop": str(torch.get_num_interop_threads()),
        },
        "default dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "executable": sys.executable,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    found = {"cpu": platform.processor() or platform.machine()}
    if torch.accelerator.is_available():
        kind = str(torch.accelerator.current_accelerator())
        for at in range(torch.accelerator.device_count()):
            name = torch.cuda.get_device_name(at) if kind == "cuda" else kind
            found[f"{kind}:{at}"] = name
    return found
