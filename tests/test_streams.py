"""A trainer carries state from batch to batch, as the plain loop does."""

import pytest
import torch

import dni_fx
from dni_fx.errors import StageError
from tests.equality import assert_same
from tests.streams import BATCH, KINDS, SGD, chunks, loss_of, made, parts, train


def first(loss):
    """A loss of the outputs alone."""
    return lambda returned, y: loss(parts(returned)[0], y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", ["backprop", "local"])
@pytest.mark.parametrize("stages", [1, 2])
def test_a_trainer_carries_the_state_as_the_plain_loop_does(kind, runtime, stages):
    options = {"plan": f"balanced:stages={stages}", "interface": "dni:guard=0,trust=0"}
    (_, mine, state), (_, theirs, _) = made(kind, **options), made(kind, **options)
    train(theirs, state(), chunks(10))
    trainer = dni_fx.Trainer(mine, loss=first(loss_of), optimizer=SGD, runtime=runtime)
    for x, y in chunks(10):
        trainer.step((x, y))
    for a, b in zip(dni_fx.recouple(mine).parameters(), dni_fx.recouple(theirs).parameters(), strict=True):
        assert_same(a, b, 1e-12)


class Stopping(dni_fx.Callback):
    """Stops the run in the middle of a step, as Ctrl-C does."""

    def __init__(self, at):
        self.at = at

    def step(self, trainer, record):
        if record.step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [2, 5, 6, 8])
@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_a_run_goes_on_with_the_state_it_had(runtime, at, tmp_path):
    def run(stop, **options):
        _, cut, _ = made("lstm")
        trainer = dni_fx.Trainer(
            cut, loss=first(loss_of), optimizer=SGD, runtime=runtime, callbacks=[Stopping(stop)]
        )
        trainer.fit(chunks(5), epochs=2, progress=False, **options)
        return dict(cut.state_dict())

    kept = {"checkpoint": tmp_path / "run.ckpt", "every": 1}
    with pytest.raises(KeyboardInterrupt):
        run(at, **kept)
    assert_same(run(0, **kept, resume=True), run(0))


def test_every_epoch_and_every_evaluation_begins_with_zeros():
    _, cut, state = made("lstm")
    trainer = dni_fx.Trainer(cut, loss=first(loss_of), optimizer=SGD, runtime="local")
    trainer.fit(chunks(3), epochs=2, progress=False)
    told = trainer.evaluate(chunks(4))["loss"]
    now, losses = state(), []
    with torch.no_grad():
        for x, y in chunks(4):
            outputs, now = cut.eval()(x, now)
            losses.append(loss_of(outputs, y))
    assert told == pytest.approx(float(torch.stack(losses).mean()), rel=1e-12)
    _, other, _ = made("lstm")
    theirs = dni_fx.Trainer(other, loss=first(loss_of), optimizer=SGD, runtime="local")
    for _ in range(2):
        theirs.stream.begin()
        for batch in chunks(3):
            theirs.step(batch)
    assert_same(dict(cut.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_a_batch_says_whose_episode_ends(runtime):
    ends = [torch.rand(BATCH, generator=torch.Generator().manual_seed(at)) < 0.5 for at in range(8)]
    (_, mine, state), (_, theirs, _) = (made("gru", interface="dni:guard=0,trust=0") for _ in range(2))
    trainer = dni_fx.Trainer(mine, loss=first(loss_of), optimizer=SGD, runtime=runtime)
    optimizer, now = SGD(dni_fx.recouple(theirs).parameters()), state()
    for (x, y), mask in zip(chunks(8), ends, strict=True):
        trainer.step(({"x": x, "dni_reset": mask}, y))
        outputs, now = theirs(x, now, dni_reset=mask)
        optimizer.zero_grad()
        loss_of(outputs, y).backward()
        optimizer.step()
    for a, b in zip(dni_fx.recouple(mine).parameters(), dni_fx.recouple(theirs).parameters(), strict=True):
        assert_same(a, b, 1e-12)


def test_batches_that_do_not_follow_on_are_told():
    _, cut, _ = made("lstm")
    trainer = dni_fx.Trainer(cut, loss=first(loss_of), runtime="local")
    (x, y), *_ = chunks(1)
    trainer.step((x, y))
    with pytest.raises(StageError, match="has 2 samples, and the state that goes on into it belongs to 3"):
        trainer.step((x[:2], y[:2]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("unlock=forward", "unlock=forward: leave"),
        ("devices=cpu", "devices=: leave"),
        ("unlock=forward,devices=cpu", "unlock=forward and devices=: leave"),
    ],
)
def test_what_does_not_go_with_carried_state_is_refused(options, told):
    _, cut, _ = made("lstm")
    trainer = dni_fx.Trainer(cut, loss=first(loss_of), runtime=f"local:{options}")
    with pytest.raises(StageError, match=rf"carried state \(state\) does not go with {told}"):
        trainer.step(chunks(1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_the_edge_back_and_its_synthesizer(kind, tmp_path):
    _, cut, state = made(kind, plan="balanced:stages=2")
    now = train(cut, state(), chunks(4))
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    assert dni_fx.boundaries(again).keys() == dni_fx.boundaries(cut).keys()
    for each in (cut, again):
        train(each, now, chunks(4))
    assert_same(dict(again.state_dict()), dict(cut.state_dict()))
