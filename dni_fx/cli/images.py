"""Folders of images, one folder for each class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dni_fx.errors import FileError

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = 65535
_TESTS = ("test", "val")
_SHOWN = 8


@dataclass(frozen=True)
class Folder:
    """Images with the numbers of their classes, `(samples,)`."""

    images: Images
    labels: Tensor


class Images:
    """Images of one size, `(batch, channels, height, width)` in [0, 1], read when they are asked for.

    Each is scaled until it covers the size, and what hangs over is cut off evenly on both sides.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.files = files
        self.shape = shape
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, numbers: Any, /) -> Tensor:
        chosen = torch.arange(len(self.files))[numbers]
        return torch.stack([self._read(self.files[int(number)]) for number in chosen])

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, ImageOps

        channels, height, width = self.shape
        try:
            with Image.open(path) as image:
                depth = _DEEP if image.mode.startswith("I") else 255
                upright = ImageOps.exif_transpose(image)
                # Sixteen bits would be cut off at eight.
                flat = upright.convert("F" if depth == _DEEP else _MODES[channels])
                fitted: Image = ImageOps.fit(flat, (width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(fitted, dtype=np.float64) / depth
        except (OSError, SyntaxError, ValueError) as error:
            raise FileError(f"cannot read the image {path}: {error}.") from None
        tensor = torch.from_numpy(pixels).to(self.dtype)
        return tensor.movedim(-1, 0) if tensor.dim() > 2 else tensor.expand(channels, -1, -1).contiguous()


def read_folder(
    root: Path, shape: tuple[int, int, int], dtype: torch.dtype
) -> tuple[dict[str, Folder], tuple[str, ...]]:
    """The images in a folder by part, and the names of the classes in the order of their numbers.

    The parts are `train`, `test` and `val` where there are such folders, each with a folder for each class;
    without a folder `train`, the folder itself is all there is to train on.

    Raises:
        FileError: pillow is not installed, there are no images, or some cannot be read; lists those.
    """
    try:
        import PIL.Image as _  # noqa: F401
    except ModuleNotFoundError:
        raise FileError(
            f'cannot read the images in {root}: pillow is not installed. pip install "dni-fx[images]".'
        ) from None
    if shape[0] not in _MODES:
        raise FileError(f"cannot read images of {shape[0]} channels: there are images of 1, 3 and 4.")
    parts = {"train": root / "train"} if (root / "train").is_dir() else {"train": root}
    if parts["train"] != root:
        parts |= {name: root / name for name in _TESTS if (root / name).is_dir()}
    classes = tuple(sorted(each.name for each in _folders(parts["train"])))
    found = {name: dict(_files(folder, classes)) for name, folder in parts.items()}
    _refuse_broken([path for files in found.values() for path in files])
    folders: dict[str, Folder] = {}
    for name, files in found.items():
        if not files:
            raise FileError(
                f"there are no images in {parts[name]}: it needs a folder of them for each class."
            )
        labels = torch.tensor([classes.index(label) for label in files.values()])
        folders[name] = Folder(Images(list(files), shape, dtype), labels)
    return folders, classes


def size_of(text: str) -> tuple[int, int]:
    """Height and width in text.

    >>> size_of("32"), size_of("24x32")
    ((32, 32), (24, 32))

    Raises:
        FileError: it is no size.
    """
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if found is None:
        raise FileError(f"--image-size {text} is no size: write 32, or 24x32 for height and width.")
    return int(found[1]), int(found[2] or found[1])


def _folders(root: Path) -> list[Path]:
    return [each for each in sorted(root.iterdir()) if each.is_dir() and not each.name.startswith(".")]


def _files(root: Path, classes: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Every file of an image's suffix with its class, in the order of their names."""
    from PIL import Image

    suffixes = Image.registered_extensions()
    for folder in _folders(root):
        if folder.name not in classes:
            raise FileError(f"{folder} is no class to train on; there are {', '.join(classes)}.")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
                yield path, folder.name


def _refuse_broken(paths: Sequence[Path]) -> None:
    """Do nothing if every file begins like an image, so that no run stops at one of them hours later.

    Raises:
        FileError: some do not.
    """
    from PIL import Image

    broken: list[Path] = []
    for path in paths:
        try:
            with Image.open(path):
                pass
        except (OSError, SyntaxError, ValueError):
            broken.append(path)
    if broken:
        more = f", and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise FileError(
            f"{len(broken)} of {len(paths)} image files cannot be read: "
            f"{', '.join(map(str, broken[:_SHOWN]))}{more}. Mend or remove them."
        )
