"""What each of many processes does, and when. To add a schedule: a file here, and its line in this table."""

from dni_fx.schedules.base import Schedule
from passes import Registry

SCHEDULES: Registry[type[Schedule]] = Registry(
    "schedule",
    {
        "1f1b": "dni_fx.schedules.one_forward_one_backward:OneForwardOneBackward",
        "dni": "dni_fx.schedules.dni:Dni",
        "gpipe": "dni_fx.schedules.gpipe:GPipe",
        "zero-bubble": "dni_fx.schedules.zero_bubble:ZeroBubble",
    },
    group="dni_fx.schedules",
)

__all__ = ["SCHEDULES", "Schedule"]
