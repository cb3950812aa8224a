"""Cut a PyTorch model into stages that learn without waiting for one another."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A shell that completes a command line, or who asks for help, does not wait for torch: commands import it.
_IS_COMMAND = Path(*sys.argv[:1]).stem == "dni-fx" or (sys.argv[:1] == ["-m"] and "dni_fx" in sys.orig_argv)
if not _IS_COMMAND:
    try:
        from dni_fx import ready as ready
    except ModuleNotFoundError as error:  # a device that trains with dni_fx.device alone has no torch
        if error.name != "torch":
            raise

if TYPE_CHECKING:
    from dni_fx.decoupled import Decoupled as Decoupled
    from dni_fx.errors import DniError as DniError
    from dni_fx.history import diagnose as diagnose
    from dni_fx.interface import Interface as Interface
    from dni_fx.lessons import export_training as export_training
    from dni_fx.link import Link as Link
    from dni_fx.program import Program as Program
    from dni_fx.sharing import from_pretrained as from_pretrained
    from dni_fx.sharing import save_interfaces as save_interfaces
    from dni_fx.training.batches import accuracy as accuracy
    from dni_fx.training.callbacks import Callback as Callback
    from dni_fx.training.evaluation import evaluate as evaluate
    from dni_fx.training.trainer import Trainer as Trainer
    from dni_fx.verbs import boundaries as boundaries
    from dni_fx.verbs import capture as capture
    from dni_fx.verbs import decouple as decouple
    from dni_fx.verbs import decouple_ as decouple_
    from dni_fx.verbs import export as export
    from dni_fx.verbs import load as load
    from dni_fx.verbs import load_program as load_program
    from dni_fx.verbs import parameter_groups as parameter_groups
    from dni_fx.verbs import plan as plan
    from dni_fx.verbs import recouple as recouple
    from dni_fx.verbs import save as save
    from dni_fx.verbs import stages as stages
    from dni_fx.verbs import train as train
    from dni_fx.verbs import verify as verify
    from passes import GraphError as GraphError
    from passes import Plan as Plan

_VERBS = (
    "boundaries capture decouple decouple_ export load load_program parameter_groups plan recouple save "
    "stages train verify"
)
# Names are imported when they are first used, so that `import dni_fx` costs little more than torch.
_HOME = {name: "dni_fx.verbs" for name in _VERBS.split()} | {
    "Decoupled": "dni_fx.decoupled",
    "Callback": "dni_fx.training.callbacks",
    "DniError": "dni_fx.errors",
    "GraphError": "passes",
    "Interface": "dni_fx.interface",
    "export_training": "dni_fx.lessons",
    "Link": "dni_fx.link",
    "Plan": "passes",
    "Program": "dni_fx.program",
    "Trainer": "dni_fx.training.trainer",
    "accuracy": "dni_fx.training.batches",
    "diagnose": "dni_fx.history",
    "evaluate": "dni_fx.training.evaluation",
    "from_pretrained": "dni_fx.sharing",
    "save_interfaces": "dni_fx.sharing",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dni_fx' has no attribute {name!r}")
    state = random.getstate()  # a library that draws nothing for its user draws when it is imported
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    random.setstate(state)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
