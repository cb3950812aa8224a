"""What the inputs of an opened model are like, as far as that can be told."""

from __future__ import annotations

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from dni_fx.cli.models import Opened
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import FileError
from dni_fx.program import Program

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_RGB = 3


def dtype_of(model: nn.Module | Program) -> torch.dtype:
    """The type of the model's first floating-point parameter."""
    return next((p.dtype for p in _tree(model).parameters() if p.is_floating_point()), torch.float32)


def image_shape(opened: Opened, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model takes, scaled to a size if one is given.

    Without an example the first convolution tells the channels, and color is meant if there is none.

    Raises:
        FileError: the model takes no images, or nothing tells their size.
    """
    example = _example(opened)
    if example is not None:
        if example.dim() != 4:
            raise FileError(
                f"the model's input has the shape {tuple(example.shape)}, and images are (batch, channels, "
                "height, width)."
            )
        channels, height, width = example.shape[1:]
        return (int(channels), *(size or (int(height), int(width))))
    if size is None:
        raise FileError(
            "nothing tells the size of the images: pass --image-size 32, or an example of the model's input "
            "(--example 8x3x32x32)."
        )
    first = next((each for each in _tree(opened.model).modules() if isinstance(each, _CONVOLUTIONS)), None)
    return (_RGB if first is None else first.in_channels, *size)


def _tree(model: nn.Module | Program) -> nn.Module:
    return model.tree if isinstance(model, Program) else model


def _example(opened: Opened) -> Tensor | None:
    if opened.example is not None:
        found = [each for each in pytree.tree_leaves(opened.example) if isinstance(each, Tensor)]
        return next(iter(found), None)
    program = opened.model if isinstance(opened.model, Program) else None
    if isinstance(opened.model, Decoupled):
        program = cutting_of(opened.model).program
    call = None if program is None else program.example
    return None if call is None else call.leaves[0]
