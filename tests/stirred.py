"""Cut models whose boundaries send something: a fresh one sends zeros, which would prove nothing."""

import torch

import dni_fx
from dni_fx.calls import call_of
from dni_fx.decoupled import cutting_of
from dni_fx.program import signature_of
from tests.equality import copied
from tests.learners import perturb
from tests.zoo import made


def stirred(model, inputs, **options):
    """A cut copy of a model, its learners off their start and their units away from zero."""
    cut = dni_fx.decouple(copied(model), inputs, **options)
    return stir(cut)


def stir(cut):
    for i, dni in enumerate(dni_fx.boundaries(cut).values()):
        torch.manual_seed(i)
        perturb(dni.learner)
        dni.scale.mean_square.fill_(0.04)
        dni.load_state_dict({**dni.state_dict(), "scale.seen": torch.tensor(10)})
    return cut


def stirred_zoo(name, **options):
    model, inputs = made(name)
    return stirred(model, inputs, **options), inputs


def early_parameters(cut):
    """Names of the parameters that no stage reads which makes an output."""
    late = {
        name for stage in dni_fx.stages(cut) if not stage.is_releasable for name in stage.named_parameters()
    }
    return [name for stage in dni_fx.stages(cut) for name in stage.named_parameters() if name not in late]


def through_the_nodes(cut, *args):
    """The outputs of the whole graph with its DNI nodes, where no stage runs backward early."""
    cutting, call = cutting_of(cut), call_of(signature_of(cut), args, {})
    graph = cutting.graph(cut, call)
    cutting.begin(call, None)
    return graph.marked.whole(cut, *call.leaves)
