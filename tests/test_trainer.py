"""The training loop: what it does to the weights, whatever the runtime."""

import copy
import inspect
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.errors import FileError, StageError
from tests.stirred import stirred_zoo

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
RUNTIMES = ["backprop", "local"]


def cut_chain(**options):
    return stirred_zoo("chain", plan="balanced:stages=3", **options)


def batches_of(x, count=6):
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(x.shape, generator=draw).to(x), torch.randn(x.shape, generator=draw).to(x))
        for _ in range(count)
    ]


def same(ours, theirs, atol=1e-12):
    for (name, mine), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        if "guard" not in name:
            torch.testing.assert_close(
                mine, other, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_it_is_the_plain_loop_with_clipping_a_schedule_and_accumulated_gradients(runtime, accumulate):
    ours, (x,) = cut_chain()
    theirs, batches = copy.deepcopy(ours), batches_of(x)
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.7)
    clip = 0.0 if runtime == "local" else 0.01  # which is of a stage there, and of all of them here
    trainer = dni_fx.Trainer(
        ours,
        loss=F.mse_loss,
        optimizer=SGD,
        runtime=runtime,
        scheduler=schedule,
        clip=clip,
        accumulate=accumulate,
    )
    trainer.fit(batches, epochs=2, progress=False)
    optimizer = SGD(dni_fx.recouple(theirs).parameters())
    scheduler = schedule(optimizer)
    for _ in range(2):
        for at, (inputs, target) in enumerate(batches, start=1):
            theirs.gradient_scale = 1 / accumulate
            (F.mse_loss(theirs(inputs), target) / accumulate).backward()
            if at % accumulate == 0 or at == len(batches):
                for parameter in theirs.parameters() if at % accumulate else ():  # an average all the same
                    if parameter.grad is not None:
                        parameter.grad *= accumulate / (at % accumulate)
                if clip:
                    torch.nn.utils.clip_grad_norm_(dni_fx.recouple(theirs).parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
    same(dni_fx.recouple(ours), dni_fx.recouple(theirs))
    assert ours.gradient_scale == 1


def test_clipping_bounds_the_gradients_of_one_stage():
    cut, (x,) = cut_chain()
    before = [[p.detach().clone() for p in stage.parameters()] for stage in dni_fx.stages(cut)]
    plain = partial(torch.optim.SGD, lr=1.0)
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss, optimizer=plain, runtime="local", clip=1e-3)
    trainer.step((x, x + 100))
    for stage, old in zip(dni_fx.stages(cut), before, strict=True):
        moved = torch.cat([(p - q).flatten() for p, q in zip(stage.parameters(), old, strict=True)])
        assert float(moved.detach().norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_schedulers_move_after_epochs_if_asked_and_when_the_loss_falls_no_more(runtime):
    cut, (x,) = cut_chain()
    by_epoch = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    trainer = dni_fx.Trainer(
        cut, loss=F.mse_loss, optimizer=SGD, runtime=runtime, scheduler=by_epoch, per_epoch=True
    )
    trainer.fit(batches_of(x), epochs=3, progress=False)
    for optimizer in trainer.worker.updates.optimizers.values():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 8)
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0)
    trainer = dni_fx.Trainer(
        cut,
        loss=lambda outputs, target: outputs.mean() * 0 + 1,
        optimizer=SGD,
        runtime=runtime,
        scheduler=plateau,
    )
    trainer.fit(batches_of(x), epochs=2, progress=False)
    for optimizer in trainer.worker.updates.optimizers.values():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_loss_that_is_scaled_for_half_precision_changes_no_weight_but_by_rounding(runtime):
    model, (x,) = cut_chain()
    ours = model.float()
    theirs = copy.deepcopy(ours)
    batches = batches_of(x.float())
    half = dni_fx.Trainer(ours, loss=F.mse_loss, optimizer=SGD, runtime=runtime, autocast=torch.float16)
    scaler = half.worker.updates.scaler
    scaler.load_state_dict(
        scaler.state_dict() | {"scale": 8.0}
    )  # with the usual one the first steps overflow
    half.fit(batches, progress=False)
    dni_fx.Trainer(theirs, loss=F.mse_loss, optimizer=SGD, runtime=runtime).fit(batches, progress=False)
    same(dni_fx.recouple(ours), dni_fx.recouple(theirs), atol=2e-2)
    assert not torch.equal(ours.layers[0].weight, theirs.layers[0].weight)


def test_a_step_with_infinities_is_left_out_and_the_scale_falls():
    cut, (x,) = cut_chain()
    cut.float()
    before = copy.deepcopy(dni_fx.recouple(cut).state_dict())
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss, optimizer=SGD, autocast=torch.float16)
    scale = trainer.worker.updates.scaler.get_scale()
    trainer.step((x.float(), torch.full_like(x, 1e35).float()))
    torch.testing.assert_close(dni_fx.recouple(cut).state_dict(), before, rtol=0, atol=0)
    assert trainer.worker.updates.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_validation_is_by_the_original_model_in_eval_mode(runtime):
    cut, (x,) = cut_chain()
    batches = batches_of(x)
    trainer = dni_fx.Trainer(
        cut, loss=F.mse_loss, runtime=runtime, metrics={"ones": lambda outputs, target: 1.0}
    )
    training = trainer.fit(batches, validation=batches[:2], progress=False)
    plain = dni_fx.recouple(cut).eval()
    with torch.no_grad():
        wanted = sum(float(F.mse_loss(plain(a), b)) for a, b in batches[:2]) / 2
    assert training.epochs[0].validation == {"loss": pytest.approx(wanted, rel=1e-12), "ones": 1.0}
    assert trainer.evaluate(batches[:2]) == training.epochs[0].validation


class Noting(dni_fx.Callback):
    def __init__(self, most):
        self.told, self.most = [], most

    def begin(self, trainer, epochs, batches):
        self.told.append(("begin", epochs, batches))

    def step(self, trainer, record):
        self.told.append(record.step)

    def epoch(self, trainer, number, epoch):
        self.told.append(("epoch", number, epoch.steps))
        if number == self.most:
            trainer.stop()

    def end(self, trainer):
        self.told.append("end")


def test_callbacks_are_told_and_may_stop_the_run():
    cut, (x,) = cut_chain()
    noting = Noting(most=2)
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss, callbacks=[noting])
    training = trainer.fit(batches_of(x, 2), epochs=5, progress=False)
    assert len(training.epochs) == 2
    assert noting.told == [("begin", 5, 2), 1, 2, ("epoch", 1, 2), 3, 4, ("epoch", 2, 2), "end"]


def test_epochs_are_counted_over_all_calls():
    cut, (x,) = cut_chain()
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss)
    assert len(trainer.fit(batches_of(x), epochs=2, progress=False).epochs) == 2
    assert len(trainer.fit(batches_of(x), epochs=2, progress=False).epochs) == 2
    assert len(trainer.fit(batches_of(x), epochs=3, progress=False).epochs) == 3
    assert trainer.steps == 18


def test_a_checkpoint_that_is_there_is_never_lost_by_mistake(tmp_path):
    cut, (x,) = cut_chain()
    dni_fx.Trainer(cut, loss=F.mse_loss).fit(batches_of(x), checkpoint=tmp_path / "a.ckpt", progress=False)
    with pytest.raises(FileError, match=r"a\.ckpt is there already\. Pass resume=True to go on from it"):
        dni_fx.Trainer(cut, loss=F.mse_loss).fit(
            batches_of(x), checkpoint=tmp_path / "a.ckpt", progress=False
        )


@pytest.mark.parametrize("bad", [b"", b"PK\x03\x04 no", b"text"])
def test_what_is_no_checkpoint_is_refused_by_name(bad, tmp_path):
    cut, _ = cut_chain()
    (tmp_path / "a.ckpt").write_bytes(bad)
    with pytest.raises(FileError, match=r"a\.ckpt is damaged, or no checkpoint of a training run"):
        dni_fx.Trainer(cut, loss=F.mse_loss).load(tmp_path / "a.ckpt")
    torch.save({"some": torch.ones(2)}, tmp_path / "b.ckpt")
    with pytest.raises(FileError, match=r"b\.ckpt is no checkpoint of a training run"):
        dni_fx.Trainer(cut, loss=F.mse_loss).load(tmp_path / "b.ckpt")


def test_the_state_of_another_plan_or_another_way_to_train_is_refused(tmp_path):
    cut, (x,) = cut_chain()
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss)
    trainer.fit(batches_of(x), progress=False)
    state = trainer.state_dict()
    other, _ = stirred_zoo("chain", plan="balanced:stages=2")
    with pytest.raises(StageError, match="another model, or another plan"):
        dni_fx.Trainer(other, loss=F.mse_loss).load_state_dict(state)
    with pytest.raises(StageError, match="a run with 0 callbacks, and this one has 1"):
        dni_fx.Trainer(cut, loss=F.mse_loss, callbacks=[Noting(0)]).load_state_dict(state)
    with pytest.raises(StageError, match="a run by backprop, and this one is by local"):
        dni_fx.Trainer(cut, loss=F.mse_loss, runtime="local").load_state_dict(state)
    before = copy.deepcopy(cut.state_dict())
    for says, options in {
        "of Adam, and it is now moved by SGD": {"optimizer": SGD},
        "another autocast type": {"autocast": torch.float16},
        "of Adam, and it is now moved by Adam with StepLR": {
            "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1)
        },
    }.items():
        fresh = {key: value + 1 for key, value in state["model"].items()}
        with pytest.raises(StageError, match=says):
            dni_fx.Trainer(cut, loss=F.mse_loss, **options).load_state_dict(state | {"model": fresh})
    torch.testing.assert_close(cut.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulate": 0}, "accumulate is a whole number above 0, not 0"),
        ({"clip": -1.0}, "clip is 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(options, says):
    cut, _ = cut_chain()
    with pytest.raises(StageError, match=says):
        dni_fx.Trainer(cut, loss=F.mse_loss, **options)


def test_train_takes_what_a_trainer_and_its_fit_take():
    ours = inspect.signature(dni_fx.train).parameters
    fit = inspect.signature(dni_fx.Trainer.fit).parameters
    made = inspect.signature(dni_fx.Trainer).parameters
    assert {name: ours[name].default for name in fit if name != "self"} == {
        name: each.default for name, each in fit.items() if name != "self"
    }
    assert ours.keys() - fit.keys() == {"cut", "loss", "observe", "options"}
    assert not (made.keys() - {"cut", "loss"}) & ours.keys()
