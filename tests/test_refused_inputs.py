"""What cannot be captured or cut is refused at once, in one message that says what to do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

import dni_fx
from dni_fx.errors import CaptureError, DniError, PlanError
from tests.equality import assert_same
from tests.stirred import stirred
from tests.test_inputs import net
from tests.zoo import made


class Named(nn.Module):
    """A layer under a name that torch.fx, or a cut model, uses itself."""

    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Linear(6, 6))
        self.name, self.last = name, nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.get_submodule(self.name)(x)))


@pytest.mark.parametrize("name", ["graph", "code", "meta", "dni", "recompile"])
def test_below_the_top_a_layer_may_have_any_name(name):
    model, (x,) = nn.Sequential(Named(name)).double(), made("chain")[1]
    cut = stirred(model, (x,), plan="balanced:stages=2", synthesizer="linear")
    assert_same(cut(x), model(x))
    with pytest.raises(
        DniError, match=f"has an? (child called|attribute) '{name}'.*module that holds the model"
    ):
        dni_fx.decouple(model[0], (x,))


def uninitialized():
    return nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))


def faked():
    with FakeTensorMode():
        return nn.Linear(2, 2)


def inferred():
    with torch.inference_mode():
        return nn.Linear(2, 2)


def under_fake_tensors():
    model = net()
    with FakeTensorMode():
        return dni_fx.capture(model, torch.zeros(1))


WRAP = (
    "a model is a torch.nn.Module, and this is a {}. Wrap it in a module: a class with __init__, which holds "
    "what is trained, and forward, which calls it."
)
INSIDE = (
    "cannot capture a model inside of {}: hand in what it wraps, model.{}, and wrap the cut model afterwards "
    "where that can be."
)
EXAMPLE = (
    "an example is a tensor, a tuple of positional arguments, or a dictionary of keyword arguments, and this "
    "is a {}. If it is the model's one argument, put it in a tuple."
)
NO_PARAMETERS = (
    "cannot decouple {}: it has no parameters, so nothing can learn. A quantized model keeps its weights "
    "where no gradient reaches them: decouple it before that."
)
REFUSED = {
    "function": (lambda: F.relu, WRAP.format("function")),
    "lambda": (lambda: lambda x: x, WRAP.format("function")),
    "method": (lambda: net().forward, WRAP.format("method")),
    "class": (
        lambda: nn.Linear,
        "a model is a torch.nn.Module, and this is the class Linear. Hand in an instance of it.",
    ),
    "another class": (lambda: dict, "a model is a torch.nn.Module, and this is the class dict."),
    "state dict": (
        lambda: net().state_dict(),
        "a model is a torch.nn.Module, and this is a OrderedDict.",
    ),
    "data parallel": (lambda: nn.DataParallel(net()), INSIDE.format("DataParallel", "module")),
    "compiled": (
        lambda: torch.compile(net(), backend="eager"),
        INSIDE.format("OptimizedModule", "_orig_mod"),
    ),
    "uninitialized": (
        uninitialized,
        "cannot capture Sequential: 0.weight has no shape yet. Run one batch through the model first.",
    ),
    "fake": (
        faked,
        (
            "cannot capture Linear: weight is a fake tensor, which holds no numbers. Make the model outside "
            "of FakeTensorMode; on the meta device it can be cut at its first batch."
        ),
    ),
    "inference": (
        inferred,
        (
            "cannot capture Linear: weight was made in inference mode and can never be trained. Make the "
            "model outside of torch.inference_mode."
        ),
    ),
    "cut inside": (
        lambda: nn.Sequential(nn.Linear(6, 6), dni_fx.decouple(net())),
        (
            "cannot capture Sequential: 1 in it is decoupled already. Put dni_fx.recouple of it in its "
            "place; the whole can then be cut."
        ),
    ),
    "no parameters": (lambda: nn.Sequential(nn.Tanh(), nn.Tanh()), NO_PARAMETERS.format("Sequential")),
    "nothing": (nn.Sequential, NO_PARAMETERS.format("Sequential")),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("verb", [dni_fx.decouple, dni_fx.decouple_])
def test_what_cannot_be_cut_is_refused_at_once_with_what_to_do(name, verb):
    make, says = REFUSED[name]
    with pytest.raises(DniError) as caught:
        verb(make())
    assert str(caught.value) == says


@pytest.mark.parametrize(
    "made_by", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 6))]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_module_is_refused(made_by):
    model = made_by(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
    with pytest.raises(CaptureError, match="is a TorchScript module, whose Python code is gone"):
        dni_fx.decouple(model)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (
            under_fake_tensors,
            "nothing can be captured in FakeTensorMode, where tensors hold no numbers. Leave it first.",
        ),
        (lambda: dni_fx.capture(net(), object()), EXAMPLE.format("object")),
        (
            lambda: dni_fx.capture(net()),
            (
                "capturing Sequential needs an example of its inputs: a tensor, a tuple of positional "
                "arguments, or a dictionary of keyword arguments."
            ),
        ),
        (
            lambda: dni_fx.decouple_(dni_fx.capture(net(), torch.zeros(2, 6).double())),
            "a Program cannot become a drop-in itself: dni_fx.decouple makes one.",
        ),
    ],
)
def test_an_example_is_asked_for_in_the_form_that_works(use, says):
    with pytest.raises(DniError) as caught:
        use()
    assert str(caught.value) == says


def test_a_single_layer_has_no_place_to_cut():
    with pytest.raises(PlanError, match="this graph can be cut nowhere"):
        dni_fx.decouple(nn.Linear(6, 3), torch.zeros(2, 6))


def test_a_quantized_model_is_refused():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    for linear in [each for each in model if isinstance(each, nn.Linear)]:
        packed = linear.weight.detach().to(torch.int8)
        del linear.weight, linear.bias
        linear.register_buffer("weight", packed)
    with pytest.raises(DniError) as caught:
        dni_fx.decouple(model)
    assert str(caught.value) == NO_PARAMETERS.format("Sequential")
