"""Several values that one stage sends to the same later stages are trained across one boundary."""

import copy

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.runtimes import Recipe
from dni_fx.runtimes.backprop import Backprop
from dni_fx.runtimes.local import Local
from tests.cells import BATCH, NAME, POLICIES, Cells, cells, joined
from tests.equality import assert_same, copied, gradients, objective, seeded
from tests.stirred import through_the_nodes

MEMORY = 0.99


class Apart(Cells):
    """The state goes two ways, each to an output of its own."""

    def __init__(self):
        super().__init__(2)

    def forward(self, x):
        h, c = self.lower(self.inner(x))
        return self.outer[0](torch.tanh(h)), self.outer[1](torch.tanh(c))


def in_double(cut):
    """The synthesizers' own figures in float64, too, for what is compared with them written out."""
    for dni in dni_fx.boundaries(cut).values():
        dni.double()
    return copied(cut)


def state_of(model, x):
    return model.lower(model.inner(x))


@pytest.mark.parametrize("way", ["drop-in", "nodes"])
@pytest.mark.parametrize("synthesizer", ["linear", "mlp"])
@pytest.mark.parametrize("mix", [0.0, 0.3])
def test_one_backward_is_the_two_sided_step_written_out(mix, synthesizer, way):
    cut, x = cells(interface=f"dni:lr=0,mix={mix}", synthesizer=synthesizer)
    wanted = by_hand(in_double(cut), x, mix)
    target = torch.ones(BATCH, 4, dtype=torch.float64)
    output = cut(x) if way == "drop-in" else through_the_nodes(cut, x)[0]
    F.mse_loss(output, target).backward()
    assert list(dni_fx.boundaries(cut)) == [NAME]
    ours = {name: parameter.grad for name, parameter in cut.named_parameters()}
    assert ours.keys() == wanted.keys()
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-15)


def by_hand(cut, x, mix):
    """Gradients of both stages, and of the one synthesizer that sees and guesses for h and c."""
    (dni,) = dni_fx.boundaries(cut).values()
    state = state_of(cut, x)
    guesses = dni.learner(tuple(each.detach() for each in state), None).gradients
    arrived = [each.detach().requires_grad_() for each in state]
    target = torch.ones(BATCH, 4, dtype=torch.float64)
    F.mse_loss(cut.outer[0](cut.upper(arrived[0], arrived)[0]), target).backward()
    true = [each.grad for each in arrived]
    units = (dni.scale.mean_square / (1 - MEMORY ** int(dni.scale.seen))).sqrt()
    ups = [
        mix * t + (1 - mix) * unit * guess.detach() / BATCH
        for t, unit, guess in zip(true, units, guesses, strict=True)
    ]
    torch.autograd.backward(state, ups)
    regress(dni, guesses, true)
    return {name: parameter.grad for name, parameter in cut.named_parameters()}


def regress(dni, guesses, true):
    squares = torch.stack([(BATCH * each).square().mean() for each in true])
    mean = torch.lerp(dni.scale.mean_square, squares, 1 - MEMORY)
    units = (mean / (1 - MEMORY ** (int(dni.scale.seen) + 1))).sqrt()
    sum(
        (guess - BATCH * t / unit).square().mean()
        for guess, t, unit in zip(guesses, true, units, strict=True)
    ).backward()


@pytest.mark.parametrize("way", ["drop-in", "nodes"])
def test_a_gradient_that_does_not_come_counts_as_zeros(way):
    cut, x = cells(Apart, interface="dni:lr=0")
    twin = in_double(cut)
    first, _ = cut(x) if way == "drop-in" else through_the_nodes(cut, x)
    first.square().mean().backward()
    (dni,) = dni_fx.boundaries(twin).values()
    h, c = (each.detach().requires_grad_() for each in state_of(twin, x))
    guesses = dni.learner((h.detach(), c.detach()), None).gradients
    twin.outer[0](torch.tanh(h)).square().mean().backward()
    assert c.grad is None
    regress(dni, guesses, [h.grad, torch.zeros_like(c)])
    (ours,) = dni_fx.boundaries(cut).values()
    assert any(p.grad is not None and p.grad.any() for p in ours.learner.parameters())
    assert_same(
        [p.grad for p in ours.learner.parameters()], [p.grad for p in dni.learner.parameters()], 1e-12
    )


@pytest.mark.parametrize("interface", ["dni", "dni:warmup=3,fade=2", "dni:window=2"])
@pytest.mark.parametrize("name", ["cells", *POLICIES])
def test_after_some_steps_of_sgd_local_has_the_weights_of_the_plain_loop(name, interface):
    ours, inputs = joined(name, interface=interface)
    theirs = copy.deepcopy(ours)
    assert any(len(dni.spec.values) > 1 for dni in dni_fx.boundaries(ours).values())
    before = copied(dni_fx.recouple(ours)).state_dict()
    for cut, runtime in ((ours, Local()), (theirs, Backprop())):
        worker = runtime.start(
            cut, Recipe(lambda out, _: objective(out) / 8, lambda p: torch.optim.SGD(p, lr=0.05))
        )
        for _ in range(5):
            worker.step(inputs, {}, None, None)
    state = dict(dni_fx.recouple(theirs).state_dict())
    torch.testing.assert_close(dict(dni_fx.recouple(ours).state_dict()), state, rtol=0, atol=1e-11)
    assert not all(torch.equal(state[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["cells", *POLICIES])
def test_forward_is_bit_identical_and_the_oracle_is_backprop(name):
    cut, inputs = joined(name, synthesizer="oracle")
    plain = copied(dni_fx.recouple(cut))
    assert_same(seeded(cut, inputs), seeded(plain, inputs))
    assert_same(gradients(cut, inputs), gradients(plain, inputs), 0.0 if name == "cells" else 1e-10)
    assert dni_fx.verify(joined(name)[0])


def test_a_joint_boundary_is_named_after_all_of_its_values():
    """What was learned for h alone is never loaded where h and c are guessed together."""
    (joint, x), (apart, _) = cells(), cells(plan="at:after=lower")
    assert list(dni_fx.boundaries(apart)) == ["getitem", "getitem_1"]
    assert dni_fx.boundaries(joint)[NAME].spec.names == (NAME, f"{NAME}.1")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        joint.load_state_dict(apart.state_dict())
    twin = cells()[0]
    for _ in range(2):
        joint(x).sum().backward()
    assert not torch.equal(
        *(next(dni_fx.boundaries(cut)[NAME].learner.parameters()) for cut in (joint, twin))
    )
    twin.load_state_dict(joint.state_dict())
    assert_same(dict(twin.state_dict()), dict(joint.state_dict()))


def test_a_file_brings_back_a_boundary_of_several_values(tmp_path):
    cut, x = cells(interface="dni:lr=0.01")
    for _ in range(2):
        cut(x).square().mean().backward()
    dni_fx.save(cut, tmp_path / "cut.pt2")
    back = dni_fx.load(tmp_path / "cut.pt2")
    assert dni_fx.verify(back)
    assert [dni.spec.values for dni in dni_fx.boundaries(back).values()] == [
        dni.spec.values for dni in dni_fx.boundaries(cut).values()
    ]
    for each in (cut, back):
        each.zero_grad()
        for _ in range(2):
            each(x).square().mean().backward()
    assert_same(dict(back.state_dict()), dict(cut.state_dict()))
    for name, parameter in cut.named_parameters():
        assert_same(back.get_parameter(name).grad, parameter.grad)
    assert dni_fx.recouple(back).eval()(x).shape == (BATCH, 4)


def test_an_onnx_file_shows_each_value_of_a_boundary(tmp_path):
    pytest.importorskip("onnxruntime")
    cut, _ = cells()
    written = dni_fx.export(cut, tmp_path / "cells.onnx")
    assert written.interfaces == (NAME, f"{NAME}.1")
    assert written.difference < 1e-12


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("mix", [0, 0.3])
def test_compiled_code_trains_as_the_model_does(mix):
    cut, x = cells(interface=f"dni:mix={mix},lr=0.01")
    twin = copy.deepcopy(cut)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        cut.zero_grad()
        twin.zero_grad()
        cut(x).square().mean().backward()
        compiled(x).square().mean().backward()
    assert_same(dict(twin.state_dict()), dict(cut.state_dict()))
    for name, parameter in cut.named_parameters():
        assert_same(twin.get_parameter(name).grad, parameter.grad, 1e-14)


def test_auto_guesses_jointly_with_labels_and_without():
    cut, x = cells(synthesizer="auto")
    for context in (None, torch.arange(BATCH) % 4):
        cut(x, dni_context=context).square().mean().backward()
    (dni,) = dni_fx.boundaries(cut).values()
    assert int(dni.scale.seen) == 12
    assert dni_fx.verify(cut)


class Either(Cells):
    """Of the state only h goes on, if so asked."""

    def forward(self, x, whole=True):
        h, c = self.lower(self.inner(x))
        return self.outer[0](self.upper(h, (h, c if whole else torch.zeros_like(c)))[0])


def test_where_only_one_of_them_crosses_it_has_a_synthesizer_of_its_own():
    cut, x = cells(Either)
    cut(x, whole=False).sum().backward()
    assert list(dni_fx.boundaries(cut)) == [NAME, "getitem"]
    assert_same(seeded(cut, (x, False)), seeded(copied(dni_fx.recouple(cut)), (x, False)))


class Written(Cells):
    """The upper stage writes into both that the lower one sent."""

    def forward(self, x):
        h, c = self.lower(self.inner(x))
        h, c = h + 1, c + 1
        h = F.relu(h, inplace=True)
        return self.outer[0](self.upper(h, (h, c.mul_(2)))[0])


@pytest.mark.parametrize("mix", [0, 0.3, 1])
def test_a_stage_that_writes_to_them_has_copies_of_its_own(mix):
    cut, x = cells(Written, plan="at:after=:add+:add.1,joint=*", interface=f"dni:mix={mix},lr=0")
    assert list(dni_fx.boundaries(cut)) == ["add_and_add_1"]
    assert_same(seeded(cut, (x,)), seeded(copied(dni_fx.recouple(cut)), (x,)))
    assert dni_fx.verify(cut)
