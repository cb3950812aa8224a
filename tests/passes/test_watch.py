import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor

from passes.annotate_shapes import annotate
from passes.values import value_of
from tests.passes.graphs import Call, calls, exported, last, trace, whole


def attend(x: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)


RANDOM: dict[str, Callable[[Tensor], Any]] = {
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "feature dropout": lambda x: F.dropout1d(x, 0.5, training=True),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "native dropout": lambda x: torch.native_dropout(x, 0.5, True),
    "rand_like": torch.rand_like,
    "bernoulli": torch.bernoulli,
    "normal_": lambda x: x.clone().normal_(),
    "attention with dropout": lambda x: attend(x, 0.5),
    "gumbel softmax": F.gumbel_softmax,
    "rrelu": lambda x: F.rrelu(-x, training=True),
}
CALM: dict[str, Callable[[Tensor], Any]] = {
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
    "native dropout in eval": lambda x: torch.native_dropout(x, 0.5, False),
    "attention": lambda x: attend(x, 0.0),
    "rrelu in eval": lambda x: F.rrelu(-x, training=False),
    "arithmetic": lambda x: (x + 1).softmax(-1),
}


@pytest.mark.parametrize("name", [*RANDOM, *CALM])
def test_a_node_is_random_exactly_if_it_draws_random_numbers(name: str) -> None:
    function, x = (RANDOM | CALM)[name], torch.rand(2, 3, 4)
    before = torch.get_rng_state()
    found = last(whole(function, x)).random
    assert torch.equal(torch.get_rng_state(), before)
    function(x)
    drew = not torch.equal(torch.get_rng_state(), before)
    assert found == drew == (name in RANDOM)


@pytest.mark.parametrize(("training", "dropout"), [(True, 0.5), (True, 0.0), (False, 0.5)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_is_random_only_while_it_drops(
    kind: type[nn.RNNBase], training: bool, dropout: float
) -> None:
    layer = kind(4, 4, num_layers=2, dropout=dropout).train(training)
    assert last(whole(layer, torch.zeros(3, 2, 4))).random == (training and dropout > 0)


def test_a_private_generator_is_not_advanced() -> None:
    generator = torch.Generator()
    before = generator.get_state()
    gm = whole(Call(lambda x: x + torch.rand(2, generator=generator)), torch.zeros(2))
    assert last(gm).random
    assert torch.equal(generator.get_state(), before)


def test_modules_run_in_their_own_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    model[1].eval()
    first, second = calls(trace(model, torch.zeros(2, 2)))
    assert first.random
    assert not second.random
    assert second.aliases == {"_0"}


def test_statistics_of_an_opaque_batch_norm_are_not_a_value_that_it_writes() -> None:
    norm = nn.BatchNorm1d(3)
    assert last(whole(norm, torch.rand(4, 3))).mutates == frozenset()
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert int(norm.num_batches_tracked) == 0


def test_an_out_argument_is_written() -> None:
    gm = trace(lambda x, y: torch.add(x, 1, out=y), torch.zeros(2), torch.zeros(2))
    assert last(gm).mutates == last(gm).aliases == {"y"}


def test_a_write_through_a_view_reaches_all_that_share_its_memory() -> None:
    gm = trace(lambda x: x.view(-1)[:2].zero_(), torch.zeros(2, 2))
    assert last(gm).mutates == {"x", "view", "getitem"}


def test_tensors_inside_objects_are_seen() -> None:
    class Cache:
        def __init__(self, kept: Tensor) -> None:
            self.kept = {"layers": [kept]}

    value = last(whole(Cache, torch.zeros(2, 3)))
    assert not value.is_tensor
    assert value.aliases == {"x0"}
    assert value.bytes == 24


@pytest.mark.parametrize("training", [True, False])
def test_statistics_in_the_graph_are_written_in_training_alone(training: bool) -> None:
    model = nn.BatchNorm1d(3).train(training)
    gm = exported(model, torch.rand(4, 3))
    annotate(gm, [torch.rand(4, 3)])
    written = set().union(*(value_of(node).mutates for node in gm.graph.nodes))
    assert written == ({"running_mean", "running_var", "num_batches_tracked"} if training else set())


def test_gradients_follow_no_grad_and_integers() -> None:
    layer = nn.Linear(3, 3)
    assert last(whole(layer, torch.zeros(2, 3))).requires_grad
    assert not last(whole(lambda x: layer(x).argmax(1), torch.zeros(2, 3))).requires_grad
    assert not last(whole(torch.no_grad()(lambda x: layer(x)), torch.zeros(2, 3))).requires_grad


def test_regions_without_gradients_in_an_exported_graph_are_seen_through() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.layer(x)
            return self.layer(x) + y

    gm = exported(Partly(), torch.zeros(4, 3))
    annotate(gm, [torch.zeros(4, 3)])
    assert last(gm).dims == ("b", 3)
    assert sum(value_of(node).flops for node in gm.graph.nodes) == 2 * 2 * 4 * 3 * 3


def fake_tensors():
    gc.collect()
    return sum(type(each) is FakeTensor for each in gc.get_objects())


def test_no_fake_tensor_outlives_the_annotation():
    """Autograd's graph held what looked at it, which held tensors of that graph."""
    before = fake_tensors()
    gm = fx.symbolic_trace(nn.Sequential(*(each for _ in range(20) for each in (nn.Linear(4, 4), nn.Tanh()))))
    annotate(gm, [torch.zeros(2, 4)])
    assert fake_tensors() <= before  # what other tests have left may have gone
