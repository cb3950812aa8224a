"""Arguments that several commands take, and what each set of them stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ModelText = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A saved .pt2 file, or package.module:factory, where factory() returns a torch.nn.Module or "
        "(module, example inputs). Code is looked up in the working directory first.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Load this state dict (.pt or .safetensors) into the factory's model."),
]
Example = Annotated[
    str,
    typer.Option(
        metavar="SHAPES",
        help="Shapes of the model's inputs: 32x64, or 32x64:float64,8x16:int64<100 for two, the second of "
        "integers below 100 (2 if not said).",
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Unpickle a .pt module. That runs any code the file holds.")
]
PlanText = Annotated[
    str | None,
    typer.Option(
        "--plan", metavar="PLAN", help="Where to cut: a policy such as balanced:stages=4, or a plan.json."
    ),
]
SynthesizerText = Annotated[
    list[str] | None,
    typer.Option(
        "--synthesizer",
        metavar="[PATTERN=]SPEC",
        help="What guesses gradients, such as mlp:hidden=256; for the boundaries that match a pattern if "
        "one is given. May be repeated.",
    ),
]
InterfaceText = Annotated[
    list[str] | None,
    typer.Option(
        "--interface",
        metavar="[PATTERN=]SPEC",
        help="How guesses are used, such as dni:warmup=100,fade=400 (true gradients for 100 steps, fewer and "
        "fewer for 400) or dni:window=2; by pattern as for --synthesizer. May be repeated.",
    ),
]
FrontEndText = Annotated[
    str | None, typer.Option("--frontend", metavar="SPEC", help="How to capture the model, such as export.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class ModelRequest:
    """Which model a user means."""

    text: str
    weights: Path | None = None
    example: str = ""
    allow_pickle: bool = False


@dataclass(frozen=True)
class CutRequest:
    """How a user wants a model cut; None for what they left open."""

    plan: str | None = None
    synthesizers: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    frontend: str | None = None

    @staticmethod
    def of(
        plan: str | None,
        synthesizers: list[str] | None,
        interfaces: list[str] | None,
        frontend: str | None,
    ) -> CutRequest:
        """The request that the options of a command make."""
        return CutRequest(plan, tuple(synthesizers or ()), tuple(interfaces or ()), frontend)

    def given(self) -> list[str]:
        """The options that the user gave."""
        names = {
            "--plan": self.plan,
            "--synthesizer": self.synthesizers,
            "--interface": self.interfaces,
            "--frontend": self.frontend,
        }
        return [name for name, value in names.items() if value]
