"""Warnings that point at the line of the user's own code that led to them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import threading
import warnings
from pathlib import Path

import torch

import passes

_FOLDERS = tuple(
    f"{Path(file).parent}/".replace("\\", "/")
    for file in (__file__, passes.__file__, torch.__file__, concurrent.futures.__file__)
)
_FILES = {contextlib.__file__, threading.__file__}
_MADE = ("<dni_fx", "<eval_with_key>")
"""How the names of code begin that is made from graphs."""


def warn(message: str) -> None:
    """Warn at the innermost line that is neither ours nor torch's; at the caller's where there is none.

    There is none in a thread of autograd or of our own, which nobody's code has called.
    """
    own = inspect.currentframe()
    assert own is not None
    frame = caller = own.f_back
    while frame is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    at = frame or caller or own
    # A stack level would be counted in frames, some of which Python leaves out.
    warnings.warn_explicit(
        message,
        UserWarning,
        at.f_code.co_filename,
        at.f_lineno,
        at.f_globals.get("__name__"),
        at.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_ours(file: str) -> bool:
    return file in _FILES or file.replace("\\", "/").startswith((*_FOLDERS, *_MADE))
