"""Ways to choose where to cut. To add one: a file here, and its line in this table."""

from dni_fx.policies.base import Policy
from passes import Registry

POLICIES: Registry[type[Policy]] = Registry(
    "policy",
    {
        "at": "dni_fx.policies.at:At",
        "balanced": "dni_fx.policies.balanced:Balanced",
        "bottleneck": "dni_fx.policies.bottleneck:Bottleneck",
        "every": "dni_fx.policies.every:Every",
        "memory": "dni_fx.policies.memory:Memory",
        "min-cut": "dni_fx.policies.min_cut:MinCut",
        "time": "dni_fx.policies.time:Time",
    },
    group="dni_fx.policies",
)

__all__ = ["POLICIES", "Policy"]
