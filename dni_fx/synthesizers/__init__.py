"""Ways to guess a gradient. To add one: a file here, and its line in this table."""

from dni_fx.synthesizers.base import Guess, Learner, Remembering, Synthesizer
from passes import Registry

SYNTHESIZERS: Registry[type[Synthesizer]] = Registry(
    "synthesizer",
    {
        "auto": "dni_fx.synthesizers.auto:Auto",
        "conv": "dni_fx.synthesizers.conv:Conv",
        "delayed": "dni_fx.synthesizers.delayed:Delayed",
        "linear": "dni_fx.synthesizers.linear:Linear",
        "mlp": "dni_fx.synthesizers.mlp:MLP",
        "oracle": "dni_fx.synthesizers.oracle:Oracle",
        "critic": "dni_fx.synthesizers.critic:Critic",
        "local-head": "dni_fx.synthesizers.local_head:LocalHead",
        "sobolev": "dni_fx.synthesizers.sobolev:Sobolev",
        "surrogate": "dni_fx.synthesizers.surrogate:Surrogate",
        "sequence": "dni_fx.synthesizers.sequence:Sequence",
        "zero": "dni_fx.synthesizers.zero:Zero",
    },
    group="dni_fx.synthesizers",
)

__all__ = ["SYNTHESIZERS", "Guess", "Learner", "Remembering", "Synthesizer"]
