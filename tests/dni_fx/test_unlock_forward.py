"""With unlock=forward no stage waits for another one of its step, forward or backward."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import StageError
from dni_fx.foresight import network_for
from dni_fx.interface import Interface
from dni_fx.predictor import Predictor
from dni_fx.runtimes.local import Local
from dni_fx.scale import MEMORY
from passes import SpecError
from tests.learners import spec_of
from tests.stirred import stir, stirred_zoo
from tests.test_resume import StoppedError, Stopping, assert_same_run
from tests.test_resume import run as run_on
from tests.test_resume import trainer_of as resumable

SGD = partial(torch.optim.SGD, lr=0.1)
RUNTIME = "local:unlock=forward"


def task(interface="dni:clip=0"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = [(torch.randn(5, 4).double(), torch.randint(3, (5,))) for _ in range(6)]
    x = batches[0][0]
    cut = dni_fx.decouple(model, (x,), plan="at:after=1+3", synthesizer="mlp:hidden=7", interface=interface)
    return stir(cut), batches


def trainer_of(cut, runtime=RUNTIME, optimizer=SGD):
    return dni_fx.Trainer(cut, loss=F.cross_entropy, optimizer=optimizer, runtime=runtime)


def parts_of(cut, dnis):
    """Three stages, two learners and two predictors."""
    stages = [nn.Sequential(cut[0], cut[1]), nn.Sequential(cut[2], cut[3]), cut[4]]
    return [*stages, *(dni.learner for dni in dnis), *(dni.predictor.networks[0] for dni in dnis)]


def unit_of(scale):
    return (scale.mean_square / (1 - MEMORY ** int(scale.seen))).sqrt()


def backwards(parts, dnis, x, y):
    """One step of the stages, the last one first: what was guessed, what was true, told and sent."""
    stages, learners, networks = parts[:3], parts[3:5], parts[5:]
    told = [network([x], torch.empty(5, width)) for network, width in zip(networks, (6, 5), strict=True)]
    true, sent, raws = [None] * 2, [None] * 2, [None] * 2
    for at in reversed(range(3)):
        arrived = (
            (told[at - 1].detach() * unit_of(dnis[at - 1].predictor.scale)).requires_grad_() if at else x
        )
        out = stages[at](arrived)
        if at == 2:
            F.cross_entropy(out, y).backward()
        else:
            sent[at] = out.detach()
            (raws[at],) = learners[at]((sent[at],), None).gradients
            out.backward(unit_of(dnis[at].scale) * raws[at].detach() / 5)
        if at:
            true[at - 1] = arrived.grad * 5
        with torch.no_grad():
            for parameter in stages[at].parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    return raws, true, told, sent


def by_hand(cut, batches):
    """The parameters of stages, learners and predictors after these batches."""
    dnis = copy.deepcopy(list(dni_fx.boundaries(cut).values()))
    parts = [*copy.deepcopy(parts_of(cut, dnis))[:3], *parts_of(cut, dnis)[3:]]
    optimizers = [torch.optim.Adam(part.parameters(), lr=3e-3) for part in parts[3:]]
    for x, y in batches:
        raws, true, told, sent = backwards(parts, dnis, x, y)
        scales = [dni.scale for dni in dnis] + [dni.predictor.scale for dni in dnis]
        for optimizer, scale, guess, target in zip(optimizers, scales, raws + told, true + sent, strict=True):
            scale.observe([float(target.square().mean())])
            optimizer.zero_grad()
            (guess - target / unit_of(scale)).square().mean().backward()
            optimizer.step()
    return [parameter for part in parts for parameter in part.parameters()]


def test_it_is_the_algorithm_written_out_and_the_order_of_the_stages_is_of_no_account():
    cut, batches = task()
    trainer_of(cut, optimizer=partial(torch.optim.SGD, lr=0.0)).step(batches[0])  # builds the predictors
    dnis = list(dni_fx.boundaries(cut).values())
    for dni in dnis:
        dni.double()
        for own in (dni.optimizer, dni.predictor.optimizer):
            own.load_state_dict({name: torch.zeros_like(value) for name, value in own.state_dict().items()})
    wanted = by_hand(cut, batches[1:])
    trainer = trainer_of(cut)
    for batch in batches[1:]:
        trainer.step(batch)
    ours = [parameter for part in parts_of(cut, dnis) for parameter in part.parameters()]
    # Sums in another order, which Adam divides by small roots.
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "chain",
        "residual",
        "skips-two-stages",
        "two-inputs",
        "masked",
        "early-output",
        "batch-norm",
        "lstm",
        "u-net",
        "tied-layer",
        "in-place-relu",
        "embedded",
        "attention",
    ],
)
@pytest.mark.parametrize("interface", ["dni", "dni:warmup=12,fade=2", "dni:window=2"])
def test_everything_learns_whatever_crosses(name, interface):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=3", interface=interface)

    def loss_of(outputs, target):
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum(F.mse_loss(value, target.expand_as(value)) for value in values)

    trainer = dni_fx.Trainer(cut, loss=loss_of, optimizer=SGD, runtime=RUNTIME)
    for _ in range(2):
        trainer.step((inputs, torch.full((), 0.3).double()))
    before = {key: value.clone() for key, value in cut.state_dict().items()}
    for _ in range(5):
        trainer.step((inputs, torch.full((), 0.3).double()))
    still = {
        key
        for key, value in cut.named_parameters()
        if value.requires_grad and torch.equal(value, before[key])
    }
    spared = ("networks", "labeled", "context", "bias")  # batch norm takes a bias away again
    assert not {key for key in still if not any(part in key for part in spared)}
    assert all(int(dni.predictor.scale.seen) == 7 for dni in dni_fx.boundaries(cut).values())
    assert all(value.isfinite().all() for value in cut.state_dict().values())


def test_predictions_come_to_be_what_is_sent():
    cut, batches = task("dni:guard=0")
    trainer = trainer_of(cut, optimizer=partial(torch.optim.SGD, lr=0.0))
    for _ in range(300):
        for batch in batches:
            trainer.step(batch)
    x, _ = batches[0]
    value = cut[1](cut[0](x)).detach()
    (first, _) = dni_fx.boundaries(cut).values()
    (told,) = first.predictor.predict([x], [value], False)
    assert (told - value).square().mean() < 0.05 * value.square().mean()


def test_in_eval_mode_and_in_a_loop_of_ones_own_real_values_go_on():
    cut, batches = task()
    x, _ = batches[0]
    trainer = trainer_of(cut)
    trainer.step(batches[0])
    plain = copy.deepcopy(dni_fx.recouple(cut))
    assert torch.equal(cut(x), plain(x))
    assert torch.equal(cut.eval()(x), plain.eval()(x))


def test_models_that_do_not_use_it_have_no_keys_of_it():
    cut, batches = task()
    trainer_of(cut, "local").step(batches[0])
    assert not [key for key in cut.state_dict() if "predictor" in key]
    trainer_of(cut).step(batches[0])
    assert [key for key in cut.state_dict() if ".predictor.networks.0." in key]


def test_a_state_with_predictors_waits_for_them_and_is_saved_again():
    cut, batches = task()
    trainer = trainer_of(cut)
    trainer.step(batches[0])
    again, _ = task()
    again.load_state_dict(cut.state_dict())
    assert again.state_dict().keys() == cut.state_dict().keys()
    other = trainer_of(again)
    for batch in batches[1:]:
        trainer.step(batch), other.step(batch)
    for name, value in cut.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("options", ["", ",update_probability=0.5,seed=3"])
def test_a_run_that_was_stopped_ends_bit_equal(options, tmp_path):
    batches = [(torch.full((4, 6), at / 6) + torch.eye(4, 6), torch.arange(4) % 3) for at in range(6)]
    made = partial(resumable, RUNTIME + options)
    whole = made(callbacks=[Stopping(0)])
    run_on(whole, batches, tmp_path / "whole.ckpt")
    first = made(callbacks=[Stopping(8)])
    with pytest.raises(StoppedError):
        run_on(first, batches, tmp_path / "part.ckpt", every=1)
    second = made(callbacks=[Stopping(0)])
    run_on(second, batches, tmp_path / "part.ckpt", every=1)
    assert_same_run(second, whole)


def test_it_draws_nothing_from_the_model_s_random_numbers():
    cut, batches = task()
    state = torch.get_rng_state()
    trainer_of(cut).step(batches[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("shape", "feature", "inputs", "kind"),
    [
        ((3, 8), 1, [torch.randn(3, 1, 6, 6)], "_Flat"),
        ((3, 8), 1, [torch.randint(99, (3, 7))], "_Flat"),
        ((3, 8), 1, [torch.randn(3, 5), torch.randn(3, 2)], "_Flat"),
        ((3, 4, 3, 3), 1, [torch.randn(3, 2, 6, 6)], "_Pixels"),
        ((3, 4, 8, 8), 1, [torch.randn(3, 2, 6, 6)], "_Pixels"),
        ((3, 4, 8), 1, [torch.randn(3, 2, 8)], "_Pixels"),
        ((3, 4, 8, 8), 1, [torch.randn(3, 5)], "_Flat"),
        ((3, 7, 8), 2, [torch.randint(9, (3, 7))], "_Tokens"),
        ((3, 7, 8), 2, [torch.randn(3, 7, 5), torch.randint(9, (3, 7)), torch.randn(3, 9)], "_Tokens"),
        ((3, 7, 8), 2, [torch.randn(3, 5)], "_Flat"),
    ],
)
def test_a_network_suits_the_value_and_the_inputs(shape, feature, inputs, kind):
    spec = spec_of(shape, feature)
    network = network_for(spec, spec.value, inputs)
    assert type(network).__name__ == kind
    assert network(inputs, torch.empty(shape)).shape == shape
    double = [torch.cat([each, each]) for each in inputs]
    assert network(double, torch.empty(6, *shape[1:])).shape == (6, *shape[1:])


def test_no_token_sees_another_one():
    spec = spec_of((1, 7, 8), 2)
    ids = torch.randint(9, (1, 7))
    network = network_for(spec, spec.value, [ids])
    other = ids.clone()
    other[0, 3] += 1
    differs = (network([ids], torch.empty(1, 7, 8)) != network([other], torch.empty(1, 7, 8))).any(-1)
    assert differs[0].tolist() == [at == 3 for at in range(7)]


def test_a_value_without_a_batch_in_front_is_refused():
    spec = spec_of((7, 3, 8), 2, batch_dim=1)
    with pytest.raises(StageError, match="cannot predict encoder_layers_0 "):
        Predictor().fill(spec, Interface(), [torch.randn(3, 5)], torch.device("cpu"))


def test_what_is_not_finite_is_not_learned_from():
    spec = spec_of((3, 8), 1)
    predictor = Predictor()
    predictor.fill(spec, Interface(), [torch.randn(3, 5)], torch.device("cpu"))
    before = {key: value.clone() for key, value in predictor.state_dict().items()}
    predictor.predict([torch.randn(3, 5)], [torch.full((3, 8), float("nan"))], True)
    assert all(torch.equal(value, before[key]) for key, value in predictor.state_dict().items())


def test_an_unknown_direction_is_refused():
    with pytest.raises(SpecError, match="unlock is backward or forward, not 'sideways'"):
        Local(unlock="sideways")
