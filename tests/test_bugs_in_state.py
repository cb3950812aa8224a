"""Bugs of the forms in which state is carried that were found once."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import dni_fx
from dni_fx.errors import CaptureError, PlanError, StageError
from tests.carrying import BATCH, RUNTIMES, WIDTH, Steps, inputs, made, train, zeros
from tests.equality import assert_same


@dataclass
class Kept:
    """State in a class of one's own."""

    h: Tensor
    seen: Tensor


@dataclass
class Returned:
    """Outputs in another one."""

    y: Tensor
    kept: Kept


class Classy(Steps):
    def forward(self, x, state):
        h = self.next(x, state.h)
        return Returned(self.out(h), Kept(h, state.seen + 1))


class Plainly(Steps):
    def forward(self, x, state):
        h = self.next(x, state["h"])
        return {"y": self.out(h), "kept": {"h": h, "seen": state["seen"] + 1}}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("lazy", [False, True])
def test_state_may_be_a_data_class(lazy, runtime):
    """Calls take them, and state in one was said to hold no tensor."""
    parts = {"h": zeros(WIDTH), "seen": zeros(dtype=torch.long)}
    cut, state = made(Classy, Kept(**parts), "kept", lazy=lazy)
    mine = train(cut, state, runtime, lambda returned, _: returned.y.square().mean(), lambda r: r.kept)
    cut, state = made(Plainly, parts, "kept", lazy=lazy)
    theirs = train(
        cut, state, runtime, lambda returned, _: returned["y"].square().mean(), lambda r: r["kept"]
    )
    assert_same(mine, theirs)


def test_episodes_end_in_a_data_class():
    """Without gradients the outputs were searched for tensors, and not the classes that hold them."""
    cut, _ = made(Classy, Kept(zeros(WIDTH), zeros(dtype=torch.long)), "kept")
    ends = torch.tensor([True, False, False])
    with torch.no_grad():
        returned = cut.eval()(inputs(1)[0], Kept(zeros(WIDTH), zeros(dtype=torch.long) + 4), dni_reset=ends)
    assert returned.kept.seen.tolist() == [0, 5, 5]
    assert not returned.kept.h[0].any()


class Alone(Steps):
    def forward(self, x, state):
        return self.next(x, state)


class Beside(Steps):
    def forward(self, x, state):
        h = self.next(x, state)
        return h, h


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_state_may_be_all_that_a_model_returns(runtime):
    """A cell of torch's returns nothing else, and no path led to it."""
    cut, state = made(Alone, path=0, plan="balanced:stages=1")
    mine = train(cut, state, runtime, lambda h, _: h.square().mean(), lambda h: h)
    cut, state = made(Beside, plan="balanced:stages=1")
    theirs = train(cut, state, runtime, lambda returned, _: returned[0].square().mean(), lambda r: r[1])
    assert_same(mine, theirs)


@pytest.mark.parametrize("trains", [True, False])
def test_flags_in_the_state_stay_flags_where_an_episode_ends(trains):
    """They became numbers, and the next step was one of another form."""

    class Flagged(Steps):
        def forward(self, x, state):
            h = self.next(x, state[0])
            return self.out(h), (h, state[1] | (h[:, 0] > 9))

    state = (zeros(WIDTH), zeros(dtype=torch.bool))
    cut, _ = made(Flagged, state)
    ends = torch.tensor([True, False, False])
    _, (_, flags) = cut.train(trains)(inputs(1)[0], (state[0], ~state[1]), dni_reset=ends)
    assert flags.tolist() == [False, True, True]


class Writes(Steps):
    def forward(self, x, state):
        state.mul_(0.5)
        return self.out(state + self.inner(x)), self.next(x, state)


class WritesToPart(Steps):
    def forward(self, x, state):
        state[:, 0] += 1
        return self.out(state + self.inner(x)), self.next(x, state)


@pytest.mark.parametrize("cls", [Writes, WritesToPart])
def test_a_model_that_writes_to_its_state_is_told_to_copy_it(cls):
    """It was said that a node cannot run on shapes, of a leaf."""
    with pytest.raises(CaptureError, match=r"let the model copy it first \(state\.clone\(\)\)"):
        made(cls)


def test_time_in_front_of_the_batch_is_refused_by_name():
    """It was asked for another example, and none would have done."""
    net, state = nn.LSTM(4, 5, 2), torch.zeros(2, 3, 5)
    with pytest.raises(PlanError, match="to a model that has time second"):
        dni_fx.decouple(net, (torch.zeros(7, 3, 4), (state, state)), carry={"hx": 1})


def test_inputs_that_do_not_fit_are_told_where_state_is_added():
    """An error of Python's came through."""
    cut, _ = made()
    trainer = dni_fx.Trainer(cut, loss=lambda returned, _: returned[0].sum(), runtime="local")
    with pytest.raises(StageError, match="the inputs of the batch do not fit Steps"):
        trainer.step(({"input": inputs(1)[0]}, None))


def test_an_error_of_the_loss_is_its_own_where_episodes_end():
    """The mask was taken for an input that the model has not."""
    cut, _ = made()
    trainer = dni_fx.Trainer(cut, loss=lambda: None, runtime="local")
    ends = torch.zeros(BATCH, dtype=torch.bool)
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        trainer.step(({"x": inputs(1)[0], "dni_reset": ends}, None))
