"""Several values that one stage sends to the same later stages, as one boundary of a plan."""

import copy
import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.assembly import cut_graph
from dni_fx.describe import plan_of
from dni_fx.picture.scene import scene_of
from dni_fx.runtimes.backprop import Backprop
from dni_fx.runtimes.local import Local
from dni_fx.verbs import training_graph
from passes import Pipeline, Plan, PreconditionError, boundaries
from passes.erase_boundaries import EraseBoundaries
from passes.mark_boundaries import MarkBoundaries
from tests.equality import assert_same, copied, gradients, objective, seeded
from tests.stirred import stirred, stirred_zoo, through_the_nodes

BATCH, WIDTH, MEMORY = 5, 8, 0.99
CUT = "at:after=lower,joint=lower"
NAME = "getitem_and_getitem_1"
POLICIES = {
    "residual": "every:module=*",
    "in-place-add": "every:module=*",
    "recursion-over-a-tree": "every:module=*",
    "lstm": "every:module=*",
    "dense": "min-cut:stages=3,slack=0.5",
    "coupling": "balanced:stages=3,width=4",
    "own-attention": "balanced:stages=3,width=4",
}
"""Zoo models in which values cross together, and how."""


class Cells(nn.Module):
    """Two LSTM cells, one above the other; the state of the lower one starts the upper one."""

    def __init__(self, outputs=1):
        super().__init__()
        self.inner, self.lower, self.upper = nn.Linear(3, 6), nn.LSTMCell(6, WIDTH), nn.LSTMCell(WIDTH, WIDTH)
        self.outer = nn.ModuleList(nn.Linear(WIDTH, 4) for _ in range(outputs))

    def forward(self, x):
        h, c = self.lower(self.inner(x))
        return self.outer[0](self.upper(h, (h, c))[0])


class Apart(Cells):
    """The state goes two ways, each to an output of its own."""

    def __init__(self):
        super().__init__(2)

    def forward(self, x):
        h, c = self.lower(self.inner(x))
        return self.outer[0](torch.tanh(h)), self.outer[1](torch.tanh(c))


def cells(cls=Cells, **options):
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, dtype=torch.float64)
    return stirred(cls().double(), (x,), **{"plan": CUT, "synthesizer": "mlp"} | options), x


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
        worker = runtime.start(cut, lambda out, _: objective(out) / 8, lambda p: torch.optim.SGD(p, lr=0.05))
        for _ in range(5):
            worker.step(inputs, {}, None, None)
    state = dict(dni_fx.recouple(theirs).state_dict())
    torch.testing.assert_close(dict(dni_fx.recouple(ours).state_dict()), state, rtol=0, atol=1e-11)
    assert not all(torch.equal(state[key], value) for key, value in before.items())


def joined(name, **options):
    """A cut model in which all that crosses the same way crosses as one, whatever its shapes are."""
    if name == "cells":
        cut, x = cells(**options)
        return cut, (x,)
    plan = f"{POLICIES[name]},joint=*"
    return stirred_zoo(name, **{"plan": plan, "synthesizer": "delayed"} | options)


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


@pytest.mark.parametrize("name", ["cells", *POLICIES])
def test_marks_of_several_values_are_erased_like_those_of_one(name):
    cut, _ = joined(name)
    graph = cut_graph(cut)
    before = graph.capture.module(cut)
    marked = Pipeline((MarkBoundaries(plan_of(cut)),)).run(before)
    assert any(len(spec.values) > 1 for _, spec in boundaries(marked))
    assert Pipeline((EraseBoundaries(),)).run(marked).code == before.code


def captured(cls=Cells):
    return dni_fx.capture(cls(), torch.randn(BATCH, 3), frontend="symbolic")


def test_a_plan_keeps_what_is_joined_through_its_json():
    plan = dni_fx.plan(captured(), CUT)
    assert plan.joint == ((":getitem", ":getitem.1"),)
    assert Plan.from_json(plan.to_json()) == plan
    assert '"joint"' not in dataclasses.replace(plan, joint=()).to_json()
    assert re.findall("stage 1, jointly", str(plan)) == ["stage 1, jointly"] * 2
    gm = training_graph(captured())
    assert {joint.name for joint in scene_of(gm, plan, "flops").joints} == {NAME}


def test_a_plan_by_hand_may_join_what_a_policy_did_not():
    program = captured()
    plan = dataclasses.replace(dni_fx.plan(program, "at:after=lower"), joint=((":getitem.1", ":getitem"),))
    assert list(dni_fx.boundaries(dni_fx.decouple(program, plan=plan))) == [NAME]


OF_BOTH = (
    "Values cross as one if there are two or more, each named once, that go from one stage to the same later "
    "stages, where none is read before all are made"
)
H, C = ":getitem", ":getitem.1"


@pytest.mark.parametrize(
    ("joint", "says"),
    [
        ((H, "outer.0"), f"{H} goes from stage 0 to 1; outer.0 crosses no cut with a gradient"),
        ((H, "lost"), f"{H} goes from stage 0 to 1; lost is not in this graph"),
        ((H,), f"{H} goes from stage 0 to 1"),
        ((H, C, C), f"{H} goes from stage 0 to 1; {C} goes from stage 0 to 1, and is named 2 times"),
        ((), "name two or more"),
        ((H, ":getitem.2"), f"{H} goes from stage 0 to 1; :getitem.2 goes from stage 1 to 2"),
    ],
)
def test_a_group_that_does_not_cross_together_is_refused(joint, says):
    program = captured()
    plan = dataclasses.replace(dni_fx.plan(program, "at:after=lower+upper"), joint=(joint,))
    text = re.escape(f"{', '.join(joint) or 'no values'} cannot be one boundary: {says}. {OF_BOTH}")
    with pytest.raises(PreconditionError, match=text):
        dni_fx.decouple(program, plan=plan)
    with pytest.raises(PreconditionError, match=text):
        dni_fx.plan(program, plan)


class Staggered(Cells):
    """c is read before b is made, and of the later stages only one reads it."""

    def __init__(self):
        super().__init__(2)

    def forward(self, x):
        a = torch.tanh(self.inner(x))
        early = self.outer[0](F.pad(a, (0, 2)))
        b = torch.sigmoid(self.inner(x))
        return early, self.outer[1](F.pad(b, (0, 2)))


def test_a_value_that_is_read_before_the_other_is_made_crosses_by_itself():
    program = captured(Staggered)
    plan = dni_fx.plan(program, "at:after=:tanh+:sigmoid,joint=*")
    assert plan.joint == ()
    with pytest.raises(PreconditionError, match="none is read before all are made"):
        dni_fx.plan(program, dataclasses.replace(plan, joint=((":tanh", ":sigmoid"),)))


def test_an_unknown_name_to_join_is_told():
    with pytest.raises(LookupError, match=r"'lowest' matches no value and no module\. Did you mean 'lower'"):
        dni_fx.plan(captured(), "at:after=lower,joint=lowest")


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
