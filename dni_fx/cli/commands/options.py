"""Arguments that several commands take, in groups. The same option means the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.completion import completing

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Do everything but the last step, say what would be written, and leave every file as it is.",
    ),
]
PrintAfterAll = Annotated[
    bool,
    typer.Option("--print-after-all", help="Print the graph on stderr as captured and after every pass."),
]
AllowEvalGraph = Annotated[
    bool,
    typer.Option(
        "--allow-eval-graph",
        help="Train a graph that was exported in eval mode: no dropout, and batch norm as it was then.",
    ),
]
ModelText = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A saved .pt2 file, or package.module:factory, where factory() returns a torch.nn.Module or "
        "(module, example inputs). Code is looked up in the working directory first.",
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Unpickle a .pt module. That runs any code the file holds.")
]
PlanText = Annotated[
    str | None,
    typer.Option(
        metavar="PLAN",
        help="Where to cut: a policy such as balanced:stages=4, a plan.json, or - for a plan on stdin.",
        autocompletion=completing("policies"),
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Which model a user means."""

    model: ModelText
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Load this state dict (.pt or .safetensors) into the factory's model."
        ),
    ] = None
    example: Annotated[
        str,
        typer.Option(
            metavar="SHAPES",
            help="Shapes of the model's inputs: 32x64, or 32x64:float64,8x16:int64<100 for two, the second "
            "of integers below 100 (2 if not said).",
            show_default=False,
        ),
    ] = ""
    allow_pickle: AllowPickle = False


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """How a user wants a model captured; nothing for what they left open."""

    frontend: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="How to capture the model, such as export.",
            autocompletion=completing("frontends"),
        ),
    ] = None
    carry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARGUMENT=OUTPUT",
            help="State that the model returns and is given again in the next step: state=1 if forward(x, "
            "state) returns (y, state); a path such as 1.0 goes inside. May be repeated.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CutRequest:
    """How a user wants a model cut; nothing for what they left open."""

    plan: PlanText = None
    synthesizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PATTERN=]SPEC",
            help="What guesses gradients, such as mlp:hidden=256; for the boundaries that match a pattern if "
            "one is given. May be repeated.",
            autocompletion=completing("synthesizers"),
        ),
    ] = None
    interface: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PATTERN=]SPEC",
            help="How guesses are used, such as dni:warmup=100,fade=400 (true gradients for 100 steps, fewer "
            "and fewer for 400) or dni:window=2; by pattern as for --synthesizer. May be repeated.",
            autocompletion=completing("interfaces"),
        ),
    ] = None
    capture: CaptureRequest = CaptureRequest()

    def given(self) -> dict[str, object]:
        """The options that the user gave, by name."""
        names = {
            "--plan": self.plan,
            "--synthesizer": self.synthesizer,
            "--interface": self.interface,
            "--frontend": self.capture.frontend,
            "--carry": self.capture.carry,
        }
        return {name: value for name, value in names.items() if value}
