"""Early release frees a stage before the next one runs, and changes no number."""

import copy
import gc

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.errors import StageError
from tests.equality import assert_same, copied, gradients, objective, seeded
from tests.stirred import stirred_zoo, through_the_nodes
from tests.zoo import ZOO, made

TWICE = (
    "a second backward pass reached {}. Its synthetic gradient was used up by the first one: run the forward "
    "pass again, or add the losses and call backward once."
)


def own(found):
    return {name: value for name, value in found.items() if not name.startswith("dni.")}


@pytest.mark.parametrize(("interface", "freed"), [("dni", True), ("dni:mix=0.5", False)])
def test_activations_of_a_stage_are_gone_when_the_next_one_runs(interface, freed):
    model, inputs = made("chain")
    cut = dni_fx.decouple(model, inputs, plan="at:after=layers.1+layers.3", interface=interface)
    alive, seen = [], []
    cut.layers[0].register_forward_hook(
        lambda m, args, out: alive.append(StorageWeakRef(out.untyped_storage()))
    )
    cut.layers[1].register_forward_pre_hook(
        lambda m, args: alive.append(StorageWeakRef(args[0].untyped_storage()))
    )
    cut.layers[2].register_forward_pre_hook(lambda m, args: seen.append([ref.expired() for ref in alive]))
    loss = cut(*inputs).sum()
    # What the first layer returns, tanh does not keep; what the second takes, its weight's gradient needs.
    assert seen == [[True, freed]]
    loss.backward()
    assert cut.layers[0].weight.grad is not None


@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_those_of_the_path_through_the_nodes(name):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=3")
    twin = copied(cut)
    torch.manual_seed(0)
    objective(through_the_nodes(twin, *(value.clone() for value in inputs))).backward()
    theirs = {name: p.grad for name, p in twin.named_parameters()}
    assert_same(own(gradients(cut, inputs)), own(theirs), tolerance=1e-12)
    cut.train(), twin.train()
    seeded(cut, inputs), seeded(twin, inputs)
    for name, dni in dni_fx.boundaries(cut).items():
        other = dni_fx.boundaries(twin)[name]
        torch.testing.assert_close(dni.learner.state_dict(), other.learner.state_dict(), rtol=0, atol=1e-6)
        torch.testing.assert_close(dni.scale.mean_square, other.scale.mean_square, rtol=1e-6, atol=0)


def test_hooks_of_parameters_run_once_a_backward_and_not_before():
    cut, inputs = stirred_zoo("residual", plan="balanced:stages=3")
    counts, after, seen = {}, {}, {}
    for name, parameter in dni_fx.recouple(cut).named_parameters():
        counts[name] = after[name] = 0

        def hook(grad, name=name):
            counts[name] += 1
            seen[name] = grad.clone()
            return grad * 2

        def accumulated(parameter, name=name):
            after[name] += 1

        parameter.register_hook(hook)
        parameter.register_post_accumulate_grad_hook(accumulated)
    loss = cut(*inputs).sum()
    assert not any(counts.values())
    loss.backward()
    assert set(counts.values()) == set(after.values()) == {1}
    for name in counts:
        torch.testing.assert_close(cut.get_parameter(name).grad, 2 * seen[name], rtol=0, atol=0)


@pytest.mark.parametrize("place", ["before", "between", "between, to zero"])
def test_zero_grad_may_stand_anywhere_before_backward(place):
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3")
    wanted = own(gradients(copy.deepcopy(cut), inputs))
    for parameter in cut.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    if place == "before":
        cut.zero_grad()
    loss = objective(seeded(cut, inputs))
    if place != "before":
        cut.zero_grad(set_to_none=place == "between")
    loss.backward()
    assert_same(own({name: p.grad for name, p in cut.named_parameters()}), wanted)


@pytest.mark.parametrize("order", ["together", "one after the other", "the later first"])
def test_gradients_of_two_forwards_add_up(order):
    cut, (x,) = stirred_zoo("skips-two-stages", plan="balanced:stages=3")
    batches = [(x,), (x.flip(0) * 2,)]
    wanted = [own(gradients(copy.deepcopy(cut), batch)) for batch in batches]
    first, second = (objective(cut(*batch)) for batch in batches)
    if order == "together":
        (first + second).backward()
    else:
        for loss in (first, second) if order == "one after the other" else (second, first):
            loss.backward()
    found = {name: cut.get_parameter(name).grad for name in wanted[0]}
    assert_same(found, {name: wanted[0][name] + wanted[1][name] for name in found}, tolerance=1e-12)


@pytest.mark.parametrize("interface", ["dni", "dni:mix=0.5"])
def test_a_second_backward_is_refused(interface):
    cut, inputs = stirred_zoo("chain", plan="at:after=layers.1+layers.3", interface=interface)
    loss = cut(*inputs).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(StageError) as caught:
        loss.backward()
    assert str(caught.value) == TWICE.format("layers_3")


def test_a_forward_without_a_backward_leaves_nothing_behind():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3")
    before = {key: value.clone() for key, value in cut.state_dict().items()}
    alive = []
    for layer in cut.layers:
        layer.register_forward_hook(lambda m, args, out: alive.append(StorageWeakRef(out.untyped_storage())))
    cut(*inputs)
    cut(*inputs)
    gc.collect()
    assert len(alive) == 10
    assert all(ref.expired() for ref in alive)
    assert all(p.grad is None for p in cut.parameters())
    after = dict(cut.state_dict())
    assert after.pop("dni.steps") == before.pop("dni.steps") + 2
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_no_grad_in_train_mode_is_the_original():
    model, inputs = made("dropout")
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck")
    with torch.no_grad():
        out = seeded(cut, inputs)
        assert_same(out, seeded(model, inputs))
    assert not out.requires_grad
    assert not dni_fx.boundaries(cut)


def test_under_autocast_the_numbers_are_the_original_s():
    model, inputs = made("convolutions")
    model, inputs = model.float(), tuple(value.float() for value in inputs)
    cuts = {
        synthesizer: dni_fx.decouple(copy.deepcopy(model), plan="balanced:stages=2", synthesizer=synthesizer)
        for synthesizer in ("oracle", "auto")
    }
    found = {}
    for name, each in {"original": model, **cuts}.items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found[name] = seeded(each, inputs)
            assert found[name].dtype == torch.bfloat16
        found[name].float().square().mean().backward()
    assert_same(found["oracle"], found["original"])
    assert_same(found["auto"], found["original"])
    for name, parameter in model.named_parameters():
        assert_same(cuts["oracle"].get_parameter(name).grad, parameter.grad, tolerance=1e-2)
        assert cuts["auto"].get_parameter(name).grad.dtype == torch.float32
        assert cuts["auto"].get_parameter(name).grad.isfinite().all()
    filled = dni_fx.boundaries(cuts["auto"]).values()
    assert {int(dni.scale.seen) for dni in filled} == {1}
    assert {dni.spec.value.dtype for dni in filled} == {torch.bfloat16}


def test_an_input_gets_the_synthetic_gradient_of_the_first_stage():
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=3")
    found = []
    for twin in (copy.deepcopy(cut), copy.deepcopy(cut)):
        leaf = x.clone().requires_grad_()
        out = twin(leaf) if not found else through_the_nodes(twin, leaf)[0]
        out.sum().backward()
        found.append(leaf.grad)
    assert found[0].any()
    assert_same(*found, tolerance=1e-12)


def test_torch_autograd_grad_and_checkpointed_losses_work_too():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3")
    twin = copied(cut)
    names = [name for name, _ in dni_fx.recouple(cut).named_parameters()]
    found = torch.autograd.grad(objective(cut(*inputs)), [cut.get_parameter(name) for name in names])
    wanted = gradients(twin, inputs)
    assert_same(list(found), [wanted[name] for name in names])
    assert cutting_of(cut).step.batch == 3
