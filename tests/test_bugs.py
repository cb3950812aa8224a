"""One test for each bug that was there once, and why it was one."""

import copy
import functools
import inspect
from types import MethodType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of, detach
from dni_fx.errors import CaptureError
from tests.equality import assert_same, copied, seeded
from tests.stirred import stirred_zoo
from tests.zoo import made, resized
from tests.zoo.plain import Chain


def test_a_graph_module_that_was_decoupled_can_be_copied():
    """fx.GraphModule brings a `__deepcopy__` that makes an object of a class of its own."""
    model, (x,) = made("chain")
    cut = dni_fx.decouple(torch.fx.symbolic_trace(model), (x,), plan="balanced:stages=2")
    twin = copy.deepcopy(cut)
    assert isinstance(twin, dni_fx.Decoupled)
    assert_same(twin(x), cut(x))


def test_a_child_with_two_names_keeps_both():
    """`named_children` yields a child under its first name only."""
    model, (x,) = made("two-names")
    back = detach(dni_fx.decouple(model, (x,)))
    assert back.last is back.first
    assert list(back.state_dict()) == list(model.state_dict())


def test_verify_compares_eval_modes_from_the_same_state():
    """The marked graph and the cut model ran on one state; a buffer that counts calls told them apart."""
    model, inputs = made("counts-calls")
    cut = dni_fx.decouple(model, inputs, plan="balanced:stages=2")
    assert all(check.ok for check in dni_fx.verify(cut).checks)


def test_one_huge_gradient_does_not_stay_in_the_running_mean_square():
    """It was finite, but its square was not, in float32: every later guess was sent up as infinity."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    (cut(x).sum() * 1e25).backward()
    (dni,) = dni_fx.boundaries(cut).values()
    assert dni.scale.mean_square.isfinite().all()
    cut.zero_grad()
    cut(x).sum().backward()
    assert cut.layers[0].weight.grad.isfinite().all()


def test_a_batch_of_none_teaches_nothing():
    """The mean over no element is not a number."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    cut(x[:0]).sum().backward()
    (dni,) = dni_fx.boundaries(cut).values()
    assert dni.scale.mean_square.isfinite().all()


def test_cut_in_a_sequential_the_synthesizers_are_no_layer():
    """`nn.Sequential` runs all of its children, and `dni` is one of them."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    (x,) = made("chain")[1]
    cut = dni_fx.decouple(model, (x,))
    assert_same(seeded(cut.eval(), (x,)), seeded(model.eval(), (x,)))
    assert list(dict(cut.named_children())) == ["0", "1", "2", "dni"]


def test_a_child_with_a_name_that_fx_needs_is_refused_by_name():
    """`fx.GraphModule` has a `graph` of its own; assigning ours over it ended in a TypeError of fx."""
    model = nn.Module()
    model.graph = nn.Linear(6, 6)
    model.forward = lambda x: model.graph(x)
    with pytest.raises(CaptureError, match=r"it has a child called 'graph', and torch.fx needs that name"):
        dni_fx.capture(model, torch.zeros(2, 6))


def test_a_pickled_drop_in_goes_on_where_it_was(tmp_path):
    """Its class is made at run time, and its graphs are compiled functions: neither can be pickled."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    torch.save(cut, tmp_path / "cut.pt")
    again = torch.load(tmp_path / "cut.pt", weights_only=False)
    results = []
    for each in (cut, again):
        each.zero_grad()
        each(x).sum().backward()
        results.append({name: p.grad for name, p in each.named_parameters()})
    assert_same(*results)


def test_synthesizers_of_a_half_precision_model_learn_in_full_precision():
    """The squares of per-sample gradients underflowed, and Adam divided by nothing."""
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), plan="bottleneck", synthesizer="linear").to(torch.bfloat16)
    for _ in range(3):
        (cut(x.bfloat16()) * 1e-6).sum().backward()
    (dni,) = dni_fx.boundaries(cut).values()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not {t.dtype for t in dni.state_dict().values()} & {torch.bfloat16}
    assert dni.scale.mean_square > 0
    assert all(t.isfinite().all() for t in dni.state_dict().values())


def test_state_that_waits_for_the_first_batch_is_saved_again():
    """A checkpoint of a model that had loaded one, and had not run yet, lost the synthesizers."""
    model, (x,) = made("chain")
    state = dni_fx.decouple(model, (x,), plan="bottleneck").state_dict()
    lazy = dni_fx.decouple(model, plan="bottleneck")
    lazy.load_state_dict(state)
    assert_same(dict(lazy.state_dict()), dict(state))


def test_layers_unfrozen_after_the_cut_get_boundaries_of_their_own():
    """The graph of the unfrozen model crosses at values that carried no gradient before: it was refused."""
    model, (x,) = made("chain")
    plan = dni_fx.plan(dni_fx.capture(model, (x,)), "at:after=layers.0+layers.1")
    model.layers[0].requires_grad_(False)
    cut = dni_fx.decouple(model, (x,), plan=plan)
    before = set(dni_fx.boundaries(cut))
    model.layers[0].requires_grad_(True)
    assert_same(seeded(cut, (x,)), seeded(model, (x,)))
    assert before < set(dni_fx.boundaries(cut))


def test_a_batch_size_that_len_makes_a_number_of_holds_for_that_batch_alone():
    """torch.export leaves the type of such a size symbolic: every batch was divided by the first's."""

    class Mean(Chain):
        def forward(self, x):
            return super().forward(x).sum() / len(x)

    model, inputs = Mean().double(), made("chain")[1]
    cut = dni_fx.decouple(copy.deepcopy(model), inputs)
    for batch in (3, 5):
        assert_same(seeded(cut, resized(inputs, batch)), seeded(model, resized(inputs, batch)))


def wrapped_for_mixed_precision(model):
    """What `accelerate` does to a model: its forward runs under autocast, and the old one is kept."""
    model._original_forward = model.forward
    forward = functools.wraps(model.forward)(torch.autocast("cpu", torch.bfloat16)(model.forward.__func__))
    model.forward = MethodType(forward, model)
    return model


@pytest.mark.parametrize("at_once", [True, False])
def test_a_forward_that_was_wrapped_around_a_drop_in_is_not_the_models_own(at_once):
    """The copy that was to be captured had the wrapper, and called the drop-in, which captured itself."""
    model, (x,) = made("chain")
    model, x = model.float(), x.float()
    cut = dni_fx.decouple(copy.deepcopy(model), (x,) if at_once else None, synthesizer="oracle")
    wrapped_for_mixed_precision(cut)
    wrapped_for_mixed_precision(model)
    assert_same(cut(x), model(x))
    cut(x).float().sum().backward()
    model(x).float().sum().backward()
    assert_same(*[{n: p.grad for n, p in each.named_parameters()} for each in (cut, model)], tolerance=1e-6)
    back = dni_fx.recouple(cut)
    assert "forward" not in vars(back)
    assert_same(back(x), back._original_forward(x))
    assert len(dni_fx.boundaries(cut)) == 1


def test_a_wrapper_that_is_taken_off_a_drop_in_leaves_the_boundaries_on():
    """Ours named the model's forward as what it wraps, and went off with those of others."""
    model, (x,) = made("chain")
    cut = wrapped_for_mixed_precision(dni_fx.decouple(model, (x,)))
    assert inspect.signature(cut.forward) == inspect.signature(model.forward)
    forward = cut.forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    cut.forward = MethodType(getattr(forward, "__func__", forward), cut)
    steps = int(cut.state_dict()["dni.steps"])
    cut(x)
    assert int(cut.state_dict()["dni.steps"]) == steps + 1


class TakesAnything(nn.Module):
    """A loss that may be told how much to divide by, as those of transformers are."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6).double(), nn.Linear(6, 4).double()

    def loss(self, out, labels, items=None, **kwargs):
        total = F.cross_entropy(out, labels, reduction="sum")
        return total / (len(labels) if items is None else items)

    def forward(self, x, labels, scale=None, **kwargs):
        out = self.second(self.first(x).tanh())
        return self.loss(out if scale is None else out * scale, labels, **kwargs)


def test_what_goes_into_keyword_arguments_of_any_name_is_exported(tmp_path):
    """torch.export counted it twice and failed; another front-end took longer, for one batch size each."""
    model, made = TakesAnything(), []
    cut = dni_fx.decouple(copied(model), plan="at:after=first", synthesizer="oracle", frontend="export")
    for batch in (5, 3):
        x, labels = torch.randn(batch, 6, dtype=torch.float64), torch.randint(4, (batch,))
        call = {"items": torch.tensor(7), "labels": labels, "scale": torch.tensor(2.0).double(), "x": x}
        losses = [each(**call) for each in (cut, model)]
        assert_same(*losses)
        for loss in losses:
            loss.backward()
        made.append(len(cutting_of(cut).program.captures))
        assert_same(cut.first.weight.grad, model.first.weight.grad, tolerance=1e-10)
    assert made == [1, 1]
    dni_fx.save(cut, tmp_path / "cut.pt2")
    assert_same(dni_fx.load(tmp_path / "cut.pt2")(**call), model(**call))
