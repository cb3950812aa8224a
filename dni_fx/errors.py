"""What can go wrong in dni_fx. `passes.GraphError` covers what can go wrong in a graph."""

from passes import PreconditionError


class DniError(Exception):
    """Base of every error that dni_fx raises on purpose."""


class CaptureError(DniError):
    """A model could not be turned into a graph. Says which front-ends were tried and why each failed."""


class PlanError(DniError, PreconditionError):
    """A graph cannot be cut the way it was asked to, by a policy or by a plan."""


class SynthesizerError(DniError):
    """A synthesizer cannot be built for its boundary, or returned something that is not a gradient for it."""


class StageError(DniError):
    """A stage failed while training. Says which stage."""


class ExportError(DniError):
    """A model could not be written in the format asked for."""


class FileError(DniError):
    """A file cannot be read, is not what it claims to be, or cannot be written."""


def reason_of(error: BaseException) -> str:
    """What an error says in one line, with its type unless it was raised on purpose.

    >>> reason_of(CaptureError("no")), reason_of(ValueError("no"))
    ('no', 'ValueError: no')
    """
    return (
        first_line(error) if isinstance(error, DniError) else f"{type(error).__name__}: {first_line(error)}"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
