"""Ways to train a cut model. To add one: a file here, and its line in this table."""

from dni_fx.runtimes.base import Outcome, Runtime, Worker
from dni_fx.runtimes.findings import Findings
from dni_fx.runtimes.recipe import Loss, OptimizerFactory, Recipe, SchedulerFactory
from passes import Registry

RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    {
        "backprop": "dni_fx.runtimes.backprop:Backprop",
        "distributed": "dni_fx.runtimes.distributed:Distributed",
        "local": "dni_fx.runtimes.local:Local",
    },
    group="dni_fx.runtimes",
)

__all__ = [
    "RUNTIMES",
    "Findings",
    "Loss",
    "OptimizerFactory",
    "Outcome",
    "Recipe",
    "Runtime",
    "SchedulerFactory",
    "Worker",
]
