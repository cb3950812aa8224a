"""What is particular to the local runtime."""

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.runtimes import Recipe
from dni_fx.runtimes.local import Local
from tests.stirred import stirred_zoo


def started(cut):
    return Local().start(cut, Recipe(F.mse_loss, lambda p: torch.optim.SGD(p, lr=0.1)))


def test_a_stage_is_updated_before_the_next_one_runs():
    cut, (x,) = stirred_zoo("chain", plan="at:after=layers.1+layers.3")
    before = cut.layers[0].weight.detach().clone()
    seen = []
    cut.layers[2].register_forward_pre_hook(
        lambda m, args: seen.append(not torch.equal(cut.layers[0].weight, before))
    )
    started(cut).step((x,), {}, x, None)
    assert seen == [True]


def test_a_tied_parameter_steps_after_its_last_reader():
    cut, (x,) = stirred_zoo("tied-layer", plan="at:after=layers.1+layers.3")
    before = cut.layers[0].weight.detach().clone()
    seen = []
    cut.layers[2].register_forward_pre_hook(
        lambda m, args: seen.append(torch.equal(cut.layers[0].weight, before))
    )
    worker = started(cut)
    worker.step((x,), {}, x, None)
    assert seen == [True]
    assert not torch.equal(cut.layers[0].weight, before)
    owned = [
        [id(p) for group in o.param_groups for p in group["params"]]
        for o in worker.updates.optimizers.values()
    ]
    assert sum(id(cut.layers[0].weight) in each for each in owned) == 1
    assert id(cut.layers[0].weight) in owned[-1]


def test_gradients_of_no_more_than_one_stage_are_there_at_a_time():
    cut, (x,) = stirred_zoo("chain", plan="at:after=layers.1+layers.3")
    of_stages = [list(stage.parameters()) for stage in dni_fx.stages(cut)]
    seen = []

    def note(*_):
        seen.append([any(p.grad is not None for p in stage) for stage in of_stages])

    def factory(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.register_step_pre_hook(note)
        return optimizer

    Local().start(cut, Recipe(F.mse_loss, factory)).step((x,), {}, x, None)
    assert seen == [[True, False, False], [False, True, False], [False, False, True]]
    assert all(p.grad is None for stage in of_stages for p in stage)


def test_a_frozen_parameter_is_in_no_optimizer():
    cut, (x,) = stirred_zoo("frozen-layer", plan="at:after=layers.1+layers.3")
    worker = started(cut)
    worker.step((x,), {}, x, None)
    owned = {
        id(p) for o in worker.updates.optimizers.values() for group in o.param_groups for p in group["params"]
    }
    assert owned == {id(p) for p in dni_fx.recouple(cut).parameters() if p.requires_grad}


@pytest.mark.parametrize("runtime", ["local", "backprop"])
def test_one_optimizer_is_made_for_each_update(runtime):
    cut, (x,) = stirred_zoo("chain", plan="at:after=layers.1+layers.3")
    made = []
    dni_fx.train(
        cut,
        [(x, x)] * 2,
        loss=F.mse_loss,
        runtime=runtime,
        optimizer=lambda p: made.append(list(p)) or torch.optim.SGD(made[-1], lr=0.1),
        progress=False,
    )
    assert [len(each) for each in made] == ([4, 4, 2] if runtime == "local" else [10])
