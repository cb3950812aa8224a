"""Tables of runs: what each row reaches in as many steps, and in as much time, as backprop takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from tests.benchmarks.learning.records import Run
from tests.benchmarks.learning.rows import BACKPROP

COLUMNS = (
    "runs",
    "loss, same steps",
    "error %, same steps",
    "loss, same time",
    "error %, same time",
    "ms a step",
    "times backprop",
    "steps in all",
    "cosine (least)",
    "locked",
)


def tables(runs: Sequence[Run]) -> Iterator[Table]:
    """A table for each setting: a row for each way to train, means and standard deviations over the seeds.

    Same steps are those of the shortest run of the setting; same time is that of backprop from the same seed.
    Losses and errors are on data that the nets do not learn. The cosine is of synthetic and true
    gradient after all steps, a mean over boundaries and seeds, and the least of a boundary of any seed.
    """
    for setting in dict.fromkeys(run.setting for run in runs):
        of_setting = [run for run in runs if run.setting == setting]
        good = [run for run in of_setting if not run.failed]
        steps = min((run.steps for run in good if run.finite), default=0)
        base = {run.seed: run for run in good if run.row == BACKPROP.name}
        made = Table("", *COLUMNS, title=f"{setting}, {steps:,} steps")
        for row in dict.fromkeys(run.row for run in of_setting):
            made.add_row(row, *_cells([run for run in good if run.row == row], steps, base))
        yield made


def _cells(runs: Sequence[Run], steps: int, base: dict[int, Run]) -> Iterator[str]:
    """The figures of one row as text."""
    yield str(len(runs))
    if not runs:
        return
    timed = [(run, base[run.seed]) for run in runs if run.seed in base]
    for of, factor, digits in (("validation", 1, 4), ("error", 100, 2)):
        yield spread((factor * run.at_step(steps, of) for run in runs), digits)
    for of, factor, digits in (("validation", 1, 4), ("error", 100, 2)):
        yield spread((factor * run.at_seconds(other.seconds, of) for run, other in timed), digits)
    yield spread((1e3 * pace(run) for run in runs), 2)
    yield spread((pace(run) / pace(other) for run, other in timed), 2)
    yield f"{statistics.fmean(run.steps for run in runs):,.0f}"
    cosines = [guesses.cosine for run in runs for guesses in run.boundaries.values()]
    yield f"{statistics.fmean(cosines):.2f} ({min(cosines):.2f})" if cosines else "-"
    locked = sum(guesses.locked for run in runs for guesses in run.boundaries.values())
    yield f"{locked} of {len(cosines)}" if locked else "-"


def pace(run: Run) -> float:
    """Seconds of training a step; not a number before the first one."""
    return run.seconds / run.steps if run.steps else float("nan")


def spread(figures: Iterable[float], digits: int) -> str:
    """Mean and standard deviation as text; of a single figure, only that.

    >>> spread([1.0, 2.0, 3.0], 1), spread([1.0], 2), spread([], 2)
    ('2.0 ± 1.0', '1.00', '-')
    """
    known = list(figures)
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


def remarks(runs: Iterable[Run]) -> Iterator[str]:
    """What a reader of the tables should not miss: runs that failed, broke down or gave warnings."""
    for run in runs:
        name = f"{run.setting}, {run.row}, seed {run.seed}"
        if run.failed:
            yield f"{name} failed: {run.failed}"
        elif not run.finite:
            yield f"{name}: not all weights and losses are finite after {run.steps:,} steps"
        yield from (f"{name}: {warning}" for warning in run.warnings)
