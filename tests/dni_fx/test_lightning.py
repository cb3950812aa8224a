"""Under the Trainer of Lightning cut models train as in a loop written out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import dni_fx
from dni_fx.errors import DniError
from tests.equality import assert_same
from tests.trainers import BATCH, Net, Rows, assert_equal, by_hand, cut_of, differ, in_groups, pair, sgd

lightning = pytest.importorskip("pytorch_lightning")
integration = pytest.importorskip("dni_fx.integrations.lightning")

# It advises on the number of workers, on how seldom to log, and on folders that are not empty; and it asks
# torch what it should not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning.*"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning"),
]


class Module(lightning.LightningModule):
    """Trains the models that it holds on the same batches, side by side."""

    def __init__(self, *nets, automatic=True, make=sgd):
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.make = make
        self.automatic_optimization = automatic
        self.scales = []

    def configure_optimizers(self):
        return self.make(self)

    def training_step(self, batch, at):
        loss = sum(net(**batch)["loss"] for net in self.nets)
        self.scales.append([net.gradient_scale for net in self.nets if isinstance(net, dni_fx.Decoupled)])
        if not self.automatic_optimization:
            self.manual_backward(loss)
            self.optimizers().step()
            self.optimizers().zero_grad()
        return loss

    def predict_step(self, batch, at):
        return self.nets[0](**batch)["logits"]

    def validation_step(self, batch, at):
        self.log("found", self.nets[0](**batch)["loss"])


def trainer_of(folder, callback=True, **options):
    callbacks = [*options.pop("callbacks", []), *([integration.DecoupledCallback()] if callback else [])]
    plain = {"enable_checkpointing": False, "logger": False, "max_epochs": 1}
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, callbacks=callbacks, **plain | silent | options)


def loader():
    return DataLoader(Rows(), batch_size=BATCH)


def quarter(batch, group):
    return 1 / 4


def test_gradients_of_k_batches_add_up_as_by_hand_where_lightning_divides_a_shorter_group_by_k(tmp_path):
    cut, other = pair()
    trainer_of(tmp_path, accumulate_grad_batches=4, max_epochs=2).fit(Module(cut), loader())
    by_hand(other, in_groups(Rows().batches(), 4), quarter, epochs=2)
    assert_equal(cut, other)
    assert cut.gradient_scale == 1


def test_without_the_callback_they_would_not(tmp_path):
    cut, other = pair()
    trainer_of(tmp_path, False, accumulate_grad_batches=4, max_epochs=2).fit(Module(cut), loader())
    by_hand(other, in_groups(Rows().batches(), 4), quarter, epochs=2)
    assert differ(cut, other)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_loss_scaler_changes_nothing(at_once, tmp_path):
    cut, other = pair(at_once=at_once)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    plugin = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler)  # leaves float64 as it is
    module = Module(cut)
    trainer_of(tmp_path, plugins=[plugin], accumulate_grad_batches=4, max_epochs=2).fit(module, loader())
    by_hand(other, in_groups(Rows().batches(), 4), quarter, epochs=2)
    assert_equal(cut, other)
    assert {scale for (scale,) in module.scales} == {2.0**10 / 4, 2.0**11 / 4, 2.0**12 / 4}


def test_all_cut_models_of_a_module_are_told_and_others_are_left_alone(tmp_path):
    (first, mine), (second, yours) = pair(), pair(plan="at:after=second", synthesizer="mlp")
    nets = (first, Net(), nn.ModuleDict({"inner": second})["inner"])
    trainer_of(tmp_path, accumulate_grad_batches=4).fit(Module(*nets), loader())
    for cut, other in ((first, mine), (second, yours)):
        by_hand(other, in_groups(Rows().batches(), 4), quarter)
        assert_equal(cut, other)


def test_a_manually_optimized_loss_is_not_divided(tmp_path):
    cut, other = pair()
    trainer_of(tmp_path).fit(Module(cut, automatic=False), loader())
    by_hand(other, in_groups(Rows().batches(), 1), lambda batch, group: 1)
    assert_equal(cut, other)


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_run_that_was_saved_and_resumed_ends_as_one_that_was_not(at_once, tied, tmp_path):
    first, again = (cut_of(Net(tied), at_once, stirred=False) for _ in range(2))
    assert differ(first, again)
    saving = lightning.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    options = {"max_epochs": 3, "accumulate_grad_batches": 2}
    made = trainer_of(tmp_path, enable_checkpointing=True, callbacks=[saving], **options)
    made.fit(Module(first, make=momentum), loader())
    trainer_of(tmp_path, **options).fit(
        Module(again, make=momentum), loader(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=False
    )
    assert_equal(again, first, tolerance=0)
    assert float(again.state_dict()["dni.steps"]) == 30
    assert tied == (again.third.weight is again.second[0].weight)


def test_evaluation_runs_the_original(tmp_path):
    cut, _ = pair()
    model = dni_fx.recouple(copy.deepcopy(cut))
    module, made = Module(cut), trainer_of(tmp_path)
    predicted = torch.cat(made.predict(module, loader()))
    assert_same(predicted, model(Rows().x, Rows().labels)["logits"].detach(), tolerance=1e-12)
    start = cut.state_dict()["dni.steps"].clone()
    made.fit(module, loader(), loader())
    assert torch.equal(cut.state_dict()["dni.steps"], start + 10)
    (found,) = made.validate(module, loader(), verbose=False)
    with torch.no_grad():
        twin = dni_fx.recouple(cut).eval()
        sizes = [len(batch["x"]) for batch in Rows().batches()]
        losses = [float(twin(**batch)["loss"]) for batch in Rows().batches()]
    mean = sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)
    assert found["found"] == pytest.approx(mean, rel=1e-6)


def test_diagnoses_are_logged_by_the_path_of_the_cut_model(tmp_path):
    class Kept(lightning.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.seen = []

        def log_metrics(self, metrics, step=None):
            self.seen.append(metrics)

    cut, _ = pair()
    kept = Kept()
    made = trainer_of(tmp_path, logger=kept, log_every_n_steps=5)
    made.fit(Module(cut), loader())
    kinds = ("cosine", "sign", "error", "scale", "mix")
    names = {f"{kind}/nets.0.{name}" for kind in kinds for name in dni_fx.boundaries(cut)}
    assert sum(names <= metrics.keys() for metrics in kept.seen) == 2
    assert names <= made.callback_metrics.keys()
    found = dni_fx.boundaries(cut)["first_1"].diagnosis
    assert made.callback_metrics["cosine/nets.0.first_1"] == pytest.approx(found.cosine)
    cut(**Rows().batches()[0])["loss"].backward()
    assert dni_fx.boundaries(cut)["first_1"].diagnosis is found  # nobody asks any more


def test_after_an_error_the_scale_is_one_again(tmp_path):
    class Failing(Module):
        def training_step(self, batch, at):
            super().training_step(batch, at)
            raise ZeroDivisionError

    cut, _ = pair()
    with pytest.raises(ZeroDivisionError):
        trainer_of(tmp_path, accumulate_grad_batches=4).fit(Failing(cut), loader())
    assert cut.gradient_scale == 1


def test_a_module_without_a_cut_model_is_refused(tmp_path):
    with pytest.raises(DniError, match="nothing in Module is cut, so there is nothing to call back for"):
        trainer_of(tmp_path).fit(Module(Net()), loader())
