"""What Python does while a file is read: runs of code, files that are written, processes."""

from __future__ import annotations

import collections
import dataclasses
import os
import sys
import typing
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sympy
import torch

import dni_fx.compiled
import passes

_FORBIDDEN = frozenset(
    {
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "os.startfile",
        "subprocess.Popen",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.kill",
        "os.fork",
        "os.putenv",
        "shutil.copyfile",
        "shutil.move",
        "shutil.rmtree",
        "socket.connect",
        "socket.bind",
        "ctypes.dlopen",
        "pickle.find_class",
        "webbrowser.open",
        "code.__new__",
    }
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Whose code makes code of graphs, of sizes and of data classes. What comes from a file was vetted before.
_MAKERS = (
    f"{Path(torch.__file__).parent}/",
    f"{Path(sympy.__file__).parent}/",
    f"{Path(passes.__file__).parent}/code.py",
    dni_fx.compiled.__file__,
    dataclasses.__file__,
    collections.__file__,
    typing.__file__,
    f"{Path(os.__file__).parent}/ast.py",
    "<frozen importlib",
)

_seen: list[str] | None = None


@contextmanager
def watched() -> Generator[list[str]]:
    """Inside, everything that reading a file should not do is noted in the list."""
    global _seen
    _install()
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in _FORBIDDEN:
        _seen.append(f"{event} {args!r:.200}")
    elif event == "open":
        path, mode, flags = args
        writes = (flags or 0) & _WRITES if mode is None else any(each in mode for each in "wax+")
        if writes and "__pycache__" not in str(path):
            _seen.append(f"open {path} {mode} {flags}")
    elif event in {"exec", "compile"}:
        caller = sys._getframe(1).f_code.co_filename
        if not caller.startswith(_MAKERS):
            _seen.append(f"{event} by {caller}: {args[0]!r:.200}")


_installed: list[bool] = []


def _install() -> None:
    if not _installed:  # a hook can never be taken away
        sys.addaudithook(_hook)
        _installed.append(True)
