"""What a training run is handed and cannot use is refused in its own terms, before anything has changed."""

import copy
from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import ContextError, StageError
from dni_fx.training.batches import Batch

RUNTIMES = ["backprop", "local"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, mask=None):
        return self.b(torch.tanh(self.a(x)) * (1 if mask is None else mask))


def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(8, 6, generator=draw), torch.randint(3, (8,), generator=draw)


def trainer_of(runtime="backprop", synthesizer="mlp", **options):
    torch.manual_seed(0)
    cut = dni_fx.decouple(Net(), plan="at:after=a", synthesizer=synthesizer)
    return dni_fx.Trainer(cut, **{"loss": F.cross_entropy, "runtime": runtime} | options)


def refused(trainer, batch, error=StageError):
    """What both training and evaluation say, and no weight of the model has moved."""
    before = copy.deepcopy(dni_fx.recouple(trainer.cut).state_dict())
    with pytest.raises(error) as first:
        trainer.step(batch)
    after = dni_fx.recouple(trainer.cut).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert trainer.steps == 0
    return str(first.value)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda outputs, target: float(outputs.detach().sum()), "a float"),
        (lambda outputs, target: None, "a NoneType"),
        (
            lambda outputs, target: F.cross_entropy(outputs, target, reduction="none"),
            r"a tensor of shape \(8,\)",
        ),
    ],
)
def test_a_loss_that_is_no_tensor_of_one_number(loss, what):
    says = f"the loss function returned {what}. It has to return a tensor with one number"
    for runtime in RUNTIMES:
        with pytest.raises(StageError, match=says):
            trainer_of(runtime, loss=loss).step(data())
    with pytest.raises(StageError, match=says):
        trainer_of(loss=loss).evaluate([data()])


def test_a_loss_of_one_element_is_one_whatever_its_shape():
    for runtime in RUNTIMES:
        ours, theirs = trainer_of(runtime, loss=lambda o, y: F.cross_entropy(o, y)[None]), trainer_of(runtime)
        for trainer in (ours, theirs):
            trainer.fit([data()] * 2, validation=[data()], progress=False)
        assert torch.equal(ours.cut.b.weight, theirs.cut.b.weight)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"y": 1}, "fit Net: missing a required argument: 'x'. The batch has y; the model takes x, mask."),
        (
            {"x": 1, "maks": 2},
            "unexpected keyword argument 'maks'. The batch has x, maks; the model takes x, ma",
        ),
        ((1, 2, 3), "too many positional arguments. The batch has 3 by position; the model takes x, mask."),
        ((), "missing a required argument: 'x'. The batch has none; the model takes x, mask."),
    ],
)
def test_inputs_that_the_model_does_not_have(inputs, says, runtime):
    trainer, (_, y) = trainer_of(runtime), data()
    assert says in refused(trainer, (inputs, y))
    with pytest.raises(StageError, match="the inputs of the batch do not fit Net"):
        trainer.evaluate([(inputs, y)])
    trainer.step(({"x": data()[0]}, y))
    with pytest.raises(StageError, match="the inputs of the batch do not fit Net"):
        trainer.step((inputs, y))  # now that there is a graph


def test_an_error_of_the_model_itself_is_its_own():
    trainer, (x, y) = trainer_of(), data()
    trainer.step((x, y))
    trainer.cut.a.register_forward_pre_hook(lambda *of: len(1))
    with pytest.raises(TypeError, match="has no len"):
        trainer.evaluate([(x, y)])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_labels_that_nobody_shows_are_asked_for_in_terms_of_the_trainer(runtime):
    said = refused(trainer_of(runtime, "local-head"), data(), ContextError)
    assert "guesses from the labels, and there are none. Pass labels_as_context=True, " in said
    assert "dni_context" not in said
    trainer_of(runtime, "local-head", labels_as_context=True).step(data())
    quiet = trainer_of(runtime, "local-head", labels_as_context=True, loss=lambda o, y: o.square().mean())
    assert "Give the batch labels for its targets, or choose mlp" in refused(
        quiet, (data()[0], None), ContextError
    )


def test_tensors_in_any_mapping_are_on_the_device():
    x, y = data()
    batch = Batch.of((UserDict(x=x, deep=[x]), {"y": y}), torch.device("meta"))
    assert batch.kwargs["x"].is_meta
    assert batch.kwargs["deep"][0].is_meta
    assert batch.target["y"].is_meta


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("how", [lambda o, y: F.cross_entropy(o.detach(), y), lambda o, y: torch.ones(())])
def test_a_loss_without_gradients(runtime, how):
    with pytest.raises(StageError, match="no gradient runs from the loss to the model"):
        trainer_of(runtime, loss=how).step(data())


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        (lambda outputs, target: outputs, r"a tensor of shape \(8, 3\), not a number"),
        (lambda outputs, target: None, "a NoneType, not a number"),
        (lambda outputs, target: "0.5", "a str, not a number"),
    ],
)
def test_a_metric_that_is_no_number(metric, what):
    with pytest.raises(StageError, match=f"the metric good returned {what}"):
        trainer_of(metrics={"good": metric}).fit([data()], progress=False)
    with pytest.raises(StageError, match=f"the metric good returned {what}"):
        dni_fx.evaluate(Net(), [data()], {"good": metric})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_batches_without_samples_have_no_part_in_the_means(runtime):
    """Their loss is nan, which was that of the epoch; without others it was divided by zero."""
    x, y = data()
    metrics = {"one": lambda outputs, target: 1.0}
    ours, theirs = trainer_of(runtime, metrics=metrics), trainer_of(runtime, metrics=metrics)
    mine = ours.fit([(x, y), (x[:0], y[:0])], validation=[(x[:0], y[:0]), (x, y)], progress=False)
    other = theirs.fit([(x, y)], progress=False)
    assert mine.epochs[0].loss == other.epochs[0].loss
    assert mine.epochs[0].metrics == mine.epochs[0].metrics | {"one": 1.0}
    assert mine.epochs[0].validation["one"] == 1.0
    with pytest.warns(UserWarning, match="the loss of epoch 1 is nan"):
        trainer_of(runtime).fit([(x[:0], y[:0])], progress=False)


def test_targets_that_are_no_tensor_cannot_be_shown():
    x, y = data()
    trainer = trainer_of(labels_as_context=True, loss=lambda outputs, two: F.cross_entropy(outputs, two[0]))
    says = "labels_as_context shows targets that are a tensor, not a tuple"
    assert says in refused(trainer, (x, (y, y)))


def test_factories_that_return_nothing():
    with pytest.raises(StageError, match="is to return an optimizer, and returned a NoneType"):
        trainer_of(optimizer=lambda parameters: None)
    with pytest.raises(StageError, match="scheduler= is to return what it has made"):
        trainer_of(scheduler=lambda optimizer: None)
