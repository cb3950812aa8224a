"""Options that both commands have."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from dni_fx.plot import check_plot
from tests.benchmarks.unlocked.settings import KNOWN, Setting, setting
from tests.benchmarks.unlocked.ways import NAMES, Choice, Way, ways


def options_of(
    doc: str | None, nets: Sequence[str], stages: Sequence[int], seconds: float
) -> argparse.ArgumentParser:
    """A parser with the options that say what is trained and how, and these defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--nets", nargs="+", default=list(nets), choices=list(KNOWN))
    add("--rows", nargs="+", default=list(NAMES), choices=NAMES)
    add("--stages", type=int, nargs="+", default=list(stages))
    add(
        "--synthesizer",
        default=Choice.synthesizer,
        metavar="TEXT",
        help="of drop-in and local; sees the labels",
    )
    add("--interface", default=Choice.interface, metavar="TEXT", help="theirs")
    add("--parts", type=int, default=Choice.parts, help="micro-batches of gradient accumulation")
    add(
        "--budget",
        type=float,
        default=Choice.budget,
        help="part of the activations that compiled code may keep",
    )
    add("--compiler", default=Choice.compiler, help="aot_eager, or inductor where there is a C++ compiler")
    add("--lr", type=float, default=Choice.lr)
    for name, what in (("depth", "layers or blocks"), ("width", "of a layer"), ("batch", "samples")):
        add(f"--{name}", type=int, default=0, help=f"{what}; each net has its own if not given")
    add("--time", type=int, default=0, help="tokens in a sample of text")
    add("--vocabulary", type=int, default=0, help="classes of text: characters up to 65, words beyond")
    add("--data", type=Path, metavar="FILE.txt", help="text; the modules of Python's library if not given")
    add("--images", type=Path, metavar="FILE.npz", help="images; scikit-learn's digits if not given")
    add("--seconds", type=float, default=seconds, help="of training, after which losses are compared")
    add("--clock", choices=["wall", "processor"], default="wall", help="whose seconds")
    add("--json", type=Path, metavar="FILE", help="keeps the figures; those in it are not measured again")
    add("--plot", type=Path, metavar="FILE", help="a .png or .svg file")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options that are given; a plot that could not be written is refused before anything is measured."""
    options = parser.parse_args()
    if options.plot:
        check_plot(options.plot)
    return options


def settings_of(options: argparse.Namespace) -> Iterator[Setting]:
    """The nets that are asked for."""
    data = {"text": options.data, "images": options.images}
    for name in options.nets:
        yield setting(
            name,
            data,
            depth=options.depth,
            width=options.width,
            batch=options.batch,
            time=options.time,
            vocabulary=options.vocabulary,
        )


def choice_of(options: argparse.Namespace) -> Choice:
    """How cuts are filled, and the rest that is not a row."""
    return Choice(
        options.synthesizer, options.interface, options.parts, options.budget, options.compiler, options.lr
    )


def ways_of(options: argparse.Namespace, stages: Sequence[int] = ()) -> list[Way]:
    """The rows that are asked for, at these stages."""
    return ways(options.rows, stages or options.stages, choice_of(options))
