"""What can go wrong in dni_fx. `passes.GraphError` covers what can go wrong in a graph."""

from __future__ import annotations

from passes import PreconditionError


class DniError(Exception):
    """Base of every error that dni_fx raises on purpose."""


class CaptureError(DniError):
    """A model could not be turned into a graph. Says which front-ends were tried and why each failed."""


class SizesError(CaptureError):
    """A graph is for inputs of other sizes, and nothing is left to capture another one of."""


class PlanError(DniError, PreconditionError):
    """A graph cannot be cut the way it was asked to, by a policy or by a plan."""


class SynthesizerError(DniError):
    """A synthesizer cannot be built for its boundary, or returned something that is not a gradient for it."""


class ContextError(SynthesizerError):
    """A synthesizer guesses from labels, and sees none. Says how to show them, in terms of the place."""

    def __init__(
        self,
        place: str,
        remedy: str = "Pass dni_context= with every batch, name the input of the model that holds them with "
        "context=",
    ) -> None:
        super().__init__(place, remedy)

    def __str__(self) -> str:
        place, remedy = self.args
        return f"{place} guesses from the labels, and there are none. {remedy}, or choose mlp."

    def instead(self, remedy: str) -> ContextError:
        """The same for whoever shows labels in another way."""
        return ContextError(self.args[0], remedy)


class StageError(DniError):
    """A stage failed while training. Says which stage."""


class ScheduleError(DniError, PreconditionError):
    """What ranks are to do cannot be done in that order. Lists every problem, or who waits for whom."""


class InputsError(StageError):
    """The inputs of a batch do not fit the model. `missing` names those that it needs and was not given."""

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


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
