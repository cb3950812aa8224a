"""Every runtime trains every cut model to the same weights."""

import copy

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.errors import StageError
from dni_fx.runtimes import RUNTIMES, Recipe
from passes import parse
from tests.stirred import stir, stirred_zoo
from tests.zoo import made

MODELS = [
    "chain",
    "residual",
    "skips-two-stages",
    "two-names",
    "tied-layer",
    "tied-weight",
    "frozen-layer",
    "early-output",
    "returns-what-crosses",
    "two-inputs",
    "chunk-and-cat",
    "masked",
    "in-place-relu",
    "in-place-add",
    "batch-norm",
    "own-parameters",
    "u-net",
    "lstm",
]


def loss_of(outputs, target):
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(F.mse_loss(value, target) for value in values)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def trained(cut, runtime, inputs, steps=5):
    worker = parse(runtime, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    target = torch.full((), 0.3, dtype=torch.float64)
    for step in range(steps):
        args = tuple(value * (1 + step) / 4 if value.is_floating_point() else value for value in inputs)
        shape = cut_shape(cut, args)
        outcome = worker.step(args, {}, target.expand(shape), None)
    assert not outcome.loss.requires_grad
    return outcome


def cut_shape(cut, args):
    with torch.no_grad():
        outputs = dni_fx.recouple(copy.deepcopy(cut))(*args)
    return (outputs[0] if isinstance(outputs, tuple) else outputs).shape


@pytest.mark.parametrize("runtime", sorted(set(RUNTIMES) - {"backprop"}))
@pytest.mark.parametrize("interface", ["dni", "dni:window=2", "dni:warmup=12,fade=2"])
@pytest.mark.parametrize("name", MODELS)
def test_after_five_steps_the_weights_are_those_of_the_plain_loop(name, interface, runtime):
    ours, inputs = stirred_zoo(name, plan="balanced:stages=3", interface=interface)
    theirs = copy.deepcopy(ours)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    mine, other = trained(ours, runtime, inputs), trained(theirs, "backprop", inputs)
    torch.testing.assert_close(mine.loss, other.loss, rtol=1e-10, atol=1e-12)
    moved = 0
    for key, value in dni_fx.recouple(ours).state_dict().items():
        # The learners step before or after the next forward draws on them, and see sums in another order.
        torch.testing.assert_close(value, theirs.state_dict()[key], rtol=0, atol=1e-12)
        moved += not torch.equal(value, before[key])
    assert moved


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_every_learner_is_updated_once_a_step(runtime):
    cut, inputs = stirred_zoo("skips-two-stages", plan="balanced:stages=3")
    trained(cut, runtime, inputs, steps=3)
    cut(*inputs)
    assert len(dni_fx.boundaries(cut)) == 2
    for dni in dni_fx.boundaries(cut).values():
        assert int(dni.optimizer.steps) == 3
        assert int(dni.scale.seen) == 13


@pytest.mark.parametrize("how", [{"synthesizer": "oracle"}, {"interface": "dni:mix=0.5"}])
def test_a_runtime_that_unlocks_stages_refuses_true_gradients(how):
    model, inputs = made("chain")
    cut = dni_fx.decouple(model, inputs, plan="at:after=layers.1+layers.3", **how)
    with pytest.raises(StageError) as caught:
        dni_fx.train(cut, [(inputs, inputs[0])], loss=loss_of, runtime="local", progress=False)
    assert str(caught.value) == (
        "the local runtime updates a stage before the true gradient is there, and these boundaries send it "
        "up: layers_1, layers_3. Use the backprop runtime, or mix=0 and a synthesizer that learns; warmup=N "
        "sends true gradients for a while."
    )


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_while_warming_up_the_stages_are_locked_and_learn_by_backprop(runtime):
    model, inputs = made("residual")
    cut = dni_fx.decouple(copy.deepcopy(model), inputs, plan="balanced:stages=3", interface="dni:warmup=4")
    stir_learners_only(cut)
    trained(cut, runtime, inputs, steps=4)
    exact = dni_fx.decouple(copy.deepcopy(model), inputs, plan="balanced:stages=3", synthesizer="oracle")
    trained(exact, "backprop", inputs, steps=4)
    ours, theirs = dni_fx.recouple(cut).state_dict(), dni_fx.recouple(exact).state_dict()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    trained(cut, runtime, inputs, steps=1), trained(exact, "backprop", inputs, steps=1)
    assert not torch.allclose(cut.layers[0].weight, exact.layers[0].weight, rtol=1e-6)


def stir_learners_only(cut):
    state = {name: dni.scale.seen.clone() for name, dni in dni_fx.boundaries(cut).items()}
    stir(cut)
    for name, dni in dni_fx.boundaries(cut).items():
        dni.load_state_dict({**dni.state_dict(), "scale.seen": state[name]})


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_labels_reach_the_synthesizers(runtime):
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), plan="bottleneck", synthesizer="mlp")
    (dni,) = dni_fx.boundaries(cut).values()
    table = dni.learner.context.table.clone()
    batches = [(x, torch.tensor([0, 1, 5]))] * 3
    dni_fx.train(cut, batches, loss=F.cross_entropy, runtime=runtime, labels_as_context=True, progress=False)
    cut(x)
    moved = (dni.learner.context.table != table).any(1)
    assert moved.tolist() == [True, True, False, False, False, True]


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "epoch 1 has no batch: the batches are empty."),
        (
            [torch.zeros(3, 6)],
            (
                "a batch is a pair (inputs, targets), and this one is a Tensor. The inputs are a tensor, "
                "a tuple of positional arguments, or a dictionary of keyword arguments."
            ),
        ),
    ],
)
def test_batches_that_are_none_are_refused(runtime, batches, says):
    model, inputs = made("chain")
    cut = dni_fx.decouple(model, inputs)
    with pytest.raises(StageError) as caught:
        dni_fx.train(cut, batches, loss=F.mse_loss, runtime=runtime, progress=False)
    assert str(caught.value) == says


def test_batches_that_can_be_read_once_are_refused_in_the_second_epoch():
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,))
    with pytest.raises(StageError) as caught:
        dni_fx.train(cut, iter([(x, x)]), loss=F.mse_loss, epochs=2, progress=False)
    assert str(caught.value) == (
        "epoch 2 has no batch: the batches cannot be read a second time; pass a list or a DataLoader."
    )


def test_evaluate_leaves_the_modes_as_they_were_and_weighs_by_batch_size():
    model, (x,) = made("batch-norm")
    cut = dni_fx.decouple(model, (x,))
    cut.norms[0].eval()
    flags = [module.training for module in cut.modules()]
    batches = [(x, torch.zeros(3)), (x[:1], torch.zeros(1))]
    found = dni_fx.evaluate(cut, batches, {"ones": lambda outputs, target: float(len(outputs))})
    assert found == {"ones": (3 * 3 + 1 * 1) / 4}
    assert [module.training for module in cut.modules()] == flags
