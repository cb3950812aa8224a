"""Ways to turn a model into a graph. To add one: a file here, and its line in this table."""

from dni_fx.program import FrontEnd
from passes import Registry

FRONTENDS: Registry[type[FrontEnd]] = Registry(
    "front-end",
    {
        "auto": "dni_fx.frontends.auto:Auto",
        "dynamo": "dni_fx.frontends.dynamo:Dynamo",
        "export": "dni_fx.frontends.export:Export",
        "symbolic": "dni_fx.frontends.symbolic:Symbolic",
    },
    group="dni_fx.frontends",
)

__all__ = ["FRONTENDS", "FrontEnd"]
