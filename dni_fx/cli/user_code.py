"""Errors of the code that the command line was told to run, which are its author's to mend."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

from dni_fx.cli.workers import WorkerError, from_worker

_INSTALLED = {"site-packages", "dist-packages"}
_HERE = Path(__file__).parents[2]
_OURS = (_HERE / "dni_fx", _HERE / "passes")


def blamed(error: BaseException) -> str | None:
    """What an error in the user's own code says, with the place in it; None if the fault may be another's.

    Theirs is what is raised below the last frame of this project, in a file that is not installed, or in what
    such a file calls. Their part of the traceback follows if it has several frames.
    """
    if isinstance(error, MemoryError):
        return None  # it has run out wherever it was asked for last
    if (there := from_worker(error)) is not None:
        return _blamed_in_worker(there)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    summaries = traceback.extract_tb(error.__traceback__)
    ours = [at for at, each in enumerate(summaries) if _is_in(each.filename, _OURS)]
    below = range(ours[-1] + 1 if ours else 0, len(frames))
    own = [at for at in below if _is_own(summaries[at].filename)]
    if isinstance(error, SyntaxError) and error.filename and _is_own(error.filename):
        text, place = error.msg, (error.filename, error.lineno)
        name = _name(frames[own[0]]) if own else Path(error.filename).stem
    elif own:
        text, place = next(iter(str(error).strip().splitlines()), ""), _place(summaries[own[-1]])
        name = _name(frames[own[0]])
    elif line := next((summaries[at].line for at in below if _is_graph(summaries[at].filename)), None):
        text = next(iter(str(error).strip().splitlines()), "")
        return f"the model raised {type(error).__name__}: {text} (in its graph: {line.partition(';')[0]})"
    else:
        return None
    kind = f"{type(error).__name__}: {text}" if text else type(error).__name__
    said = f"{name} raised {kind} ({_short(place[0])}, line {place[1]})"
    if len(own) > 1:
        said += "\n" + "".join(traceback.format_list([summaries[at] for at in own])).rstrip()
    return said


def _blamed_in_worker(there: WorkerError) -> str:
    """In one line: what data loaders run in their workers is the user's data, and nothing of this project."""
    frames = [each for each in there.frames if _is_own(each.file)] or list(there.frames)
    place = f" ({_short(frames[-1].file)}, line {frames[-1].line})" if frames else ""
    by = frames[-1].function if frames else "the data"
    return f"{by} raised {there.said} in a worker of the data loader{place}"


def _place(summary: traceback.FrameSummary) -> tuple[str, int | None]:
    return summary.filename, summary.lineno


def _name(frame: FrameType) -> str:
    """As the command line names it: `package.module:function`, or the module that was being imported."""
    module, function = str(frame.f_globals.get("__name__", "")), frame.f_code.co_qualname
    return module if function == "<module>" else f"{module}:{function}"


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _is_graph(file: str) -> bool:
    """Whether this is the code of a graph, which calls what the model calls."""
    return file.startswith("<dni_fx graph")


def _is_own(file: str) -> bool:
    if file.startswith("<") or _INSTALLED & set(Path(file).parts):
        return False
    python = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    return not _is_in(file, (*_OURS, *python))


def _is_in(file: str, folders: tuple[Path, ...]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)
