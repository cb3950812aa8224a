import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.errors import SynthesizerError
from dni_fx.pricing import Price, price, price_all
from dni_fx.synthesizers import SYNTHESIZERS
from passes import parse
from passes.dataflow import carrying, dataflow
from tests.learners import spec_of

LAYOUTS = [((4, 8), 1), ((4, 5, 8), 2), ((4, 3, 6, 6), 1)]


def taken(choice: str, shape: tuple[int, ...], feature: int) -> Price:
    """What a learner costs when it runs."""
    learner = parse(choice, SYNTHESIZERS).build(spec_of(shape, feature))
    value = torch.randn(shape, dtype=spec_of(shape, feature).value.dtype)
    free = {each.untyped_storage().data_ptr() for each in [*learner.parameters(), value]}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            (guess,) = learner((value,), None).gradients
        if guess.requires_grad:
            guess.sum().backward()
    parameters = list(learner.parameters())
    return Price(
        sum(each.numel() for each in parameters),
        sum(each.numel() * each.element_size() for each in parameters),
        counter.get_total_flops(),
        sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in free),
    )


@pytest.mark.parametrize("choice", ["zero", "oracle", "linear", "mlp", "mlp:hidden=16,depth=3", "auto"])
@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_a_price_is_what_the_learner_takes_when_it_runs(
    choice: str, shape: tuple[int, ...], feature: int
) -> None:
    state = torch.get_rng_state()
    found = price(parse(choice, SYNTHESIZERS), spec_of(shape, feature))
    assert torch.equal(torch.get_rng_state(), state)
    assert found == taken(choice, shape, feature)


def test_a_learner_too_large_for_memory_has_a_price() -> None:
    found = price(parse("mlp:hidden=1000000,depth=2", SYNTHESIZERS), spec_of((1000000, 8), 1))
    assert found.parameter_bytes > 1 << 40


def test_a_refusal_passes_through() -> None:
    with pytest.raises(SynthesizerError, match="A convolution takes"):
        price(parse("conv", SYNTHESIZERS), spec_of((4, 8), 1))


def test_every_value_that_may_cross_has_a_price_and_a_refused_one_may_not_cross() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 6), nn.Linear(6, 2))
    program = dni_fx.capture(model, torch.randn(2, 3, 5))
    gm = training_graph(program)
    flow = dataflow(gm)
    price_all(flow, gm, parse("conv", SYNTHESIZERS))
    found = {name: flow.nodes[name] for name in flow}
    assert [found[name]["crossable"] for name in carrying(flow)] == [True, True, False, False, False]
    assert [found[name]["synthesizer_bytes"] > 0 for name in carrying(flow)] == [True] * 2 + [False] * 3
    assert all(facts["synthesizer_flops"] >= 0 for facts in found.values())


def test_patterns_choose_the_synthesizer_that_is_priced() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    program = dni_fx.capture(model, torch.randn(2, 8))
    gm = training_graph(program)
    flow = dataflow(gm)
    linear, zero = (parse(name, SYNTHESIZERS) for name in ("linear", "zero"))
    price_all(flow, gm, {"0": linear, "*": zero})
    assert [flow.nodes[name]["synthesizer_flops"] > 0 for name in carrying(flow)] == [True, False, False]


@pytest.mark.parametrize("name", ["local-head", "critic"])
def test_a_sampled_head_is_priced_as_the_whole_one(name):
    # Which classes a batch holds depends on its labels, which no fake tensor has.
    spec = spec_of((4, 5, 16), 2, classes=9)
    whole, sampled = (price(parse(text, SYNTHESIZERS), spec) for text in (name, f"{name}:samples=3"))
    assert sampled == whole
    assert whole.flops > 0
