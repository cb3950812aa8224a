"""A process keeps its part of what replicas share, whatever stages do with it."""

import os
import signal
import time
from functools import partial

import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

import dni_fx
from dni_fx.runtimes import RUNTIMES, Recipe
from passes import SpecError, parse
from tests.conformance.test_runtimes import sgd
from tests.dni_fx.test_distributed import Two, doubled, loss_of
from tests.processes import run_ranks
from tests.stirred import stirred_zoo
from tests.test_checkpoints import blocks

PLAIN, SHARDED = "distributed:lag=0,replicas=2", "distributed:lag=0,replicas=2,shards=true"


def stepped(cut, inputs, runtime, optimizer=sgd, steps=4):
    """The losses and weights after steps in which each replica has its share of the samples."""
    worker = parse(runtime, RUNTIMES).start(cut, Recipe(loss_of, optimizer))
    target, losses = torch.full((), 0.3, dtype=torch.float64), []
    for step in range(steps):
        args, kwargs, _ = worker.share((doubled(inputs, step), {}, target))
        outcome = worker.step(args, kwargs, target, None)
        losses.append(outcome.loss)
    shared = len(worker.shards.originals)
    worker.gather()
    weights = {key: value.clone() for key, value in cut.state_dict().items()}
    made = pytree.tree_leaves(outcome.outputs)
    assert all(each is None or bool(each.isfinite().all()) for each in made)
    return torch.stack(losses), weights, shared


def on_zoo(rank, runtime, names, how):
    found = {}
    for name in names:
        torch.manual_seed(0)
        found[name] = stepped(*stirred_zoo(name, **how), runtime)
    return found


def assert_the_same(shared, whole):
    assert not isinstance(shared, str), shared
    torch.testing.assert_close(shared[:2], whole[:2], rtol=0, atol=0, equal_nan=True)
    assert whole[2] == 0


MODELS = [
    "skips-two-stages",
    "two-names",
    "tied-layer",
    "tied-weight",
    "frozen-layer",
    "early-output",
    "in-place-add",
    "batch-norm",
    "own-parameters",
    "lstm",
]


@pytest.mark.parametrize("interface", ["dni", "dni:warmup=2"])
def test_stages_with_shared_weights_compute_what_whole_ones_do(interface):
    how = {"plan": "balanced:stages=3", "interface": interface}
    whole, shared = (run_ranks(on_zoo, 4, runtime, MODELS, how) for runtime in (PLAIN, SHARDED))
    for mine, others in zip(shared, whole, strict=True):
        assert not isinstance(mine, str), mine
        for name in MODELS:
            assert_the_same(mine[name], others[name])
    assert all(shared[0][name][2] for name in MODELS)


class Own(nn.Module):
    """Returns a weight beside what it computes; one has too few rows to be shared, some have fewer bits."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 5).double(), nn.Linear(5, 6).double()
        self.low = nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.full((1, 6), 1.5, dtype=torch.float64))

    def forward(self, x):
        x = self.one(x)
        x = x + self.low(x.float()).double()
        return self.two(x) * self.scale, self.one.weight.t()


def own(rank, runtime, replicas, optimizer):
    torch.manual_seed(0)
    x = torch.randn(6, 6, dtype=torch.float64)
    cut = dni_fx.decouple(Own(), (x,), plan="at:after=one", synthesizer="linear")
    return stepped(cut, (x,), f"{runtime},replicas={replicas}", OPTIMIZERS[optimizer])


OPTIMIZERS = {
    "one by one": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "many at once": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=True),
    "kept from the start": lambda parameters: torch.optim.Adagrad(parameters, initial_accumulator_value=0.1),
    "by columns": lambda parameters: torch.optim.Adafactor(parameters),
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS)[:3])
def test_rows_that_cannot_be_shared_evenly_and_weights_among_the_outputs_are_trained(optimizer):
    whole, shared = (
        run_ranks(own, 3, f"distributed:lag=0{shards}", 3, optimizer) for shards in ("", ",shards=true")
    )
    for mine, other in zip(shared, whole, strict=True):
        assert_the_same(mine, other)
    assert shared[0][2] == 6


def test_an_optimizer_that_needs_whole_weights_is_refused():
    found = run_ranks(own, 2, "distributed:lag=0,shards=true", 2, "by columns")
    told = "StageError: Adafactor cannot move weights that replicas share"
    assert all(each.startswith(told) or "gone" in each for each in found), found
    assert any(each.endswith("such as Adam.") for each in found), found


class ByNorm(torch.optim.Optimizer):
    """Moves a weight by its gradient over the norm of that, for which torch asks the other replicas."""

    def __init__(self, parameters, before=lambda: None):
        super().__init__(parameters, {})
        self.before = before

    @torch.no_grad()
    def step(self):
        self.before()
        for group in self.param_groups:
            for each in group["params"]:
                each.sub_(0.01 * each.grad / (each.grad.norm() + 0.01))


def by_norm(rank, runtime, who):
    torch.manual_seed(0)
    x = torch.randn(6, 6, dtype=torch.float64)
    cut = dni_fx.decouple(Again().double(), (x,), plan="at:after=one", synthesizer="linear")
    before = partial(os.kill, os.getpid(), signal.SIGSTOP) if rank == who else lambda: None
    return stepped(cut, (x,), f"{runtime},patience=4", partial(ByNorm, before=before))


def test_an_optimizer_that_needs_norms_of_weights_has_those_of_whole_ones():
    whole, shared = (run_ranks(by_norm, 2, runtime, None) for runtime in (PLAIN, SHARDED))
    for mine, other in zip(shared, whole, strict=True):
        assert not isinstance(mine, str), mine
        # The squares of the replicas' rows are added up, and not those of all numbers at once.
        torch.testing.assert_close(mine[:2], other[:2], rtol=1e-12, atol=1e-12)


def test_a_replica_that_falls_silent_where_an_optimizer_waits_for_it_ends_the_others():
    begun = time.monotonic()
    found = run_ranks(by_norm, 2, SHARDED, 1, silent=1)
    assert time.monotonic() - begun < 60
    assert found[0].startswith("StageError: ByNorm cannot move weights that replicas share"), found


def recomputed(rank, runtime, is_reentrant):
    torch.manual_seed(0)
    x = torch.randn(4, 6, dtype=torch.float64)
    cut = dni_fx.decouple(blocks(is_reentrant).double(), (x,), plan="bottleneck:stages=3")
    return stepped(cut, (x,), runtime)


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_a_stage_that_computes_again_in_backward_has_whole_weights_there(is_reentrant):
    whole, shared = (run_ranks(recomputed, 2, runtime, is_reentrant) for runtime in (PLAIN, SHARDED))
    for mine, other in zip(shared, whole, strict=True):
        assert_the_same(mine, other)
    assert shared[0][2] == 8


def held(rank, runtime):
    """How many numbers of each weight and its moments a process has memory for: first, in steps, at the end.

    Each scale is a graph of its own.
    """
    torch.manual_seed(rank)
    first = torch.full((8, 6), 0.5)
    cut = dni_fx.decouple(Two(), (first,), plan="at:after=one", synthesizer="linear")
    before = dict(cut.named_parameters())
    worker = parse(runtime, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    found, kept = [], set()
    for scale in (1.0, 1.0, 2.0, 1.0):
        worker.step((first, scale), {}, torch.ones(()), None)
        found.append({name: memory(cut, worker, name) for name in own_names(cut)})
        kept |= {id(sharded) for sharded in worker.shards.all}
    worker.gather()
    after = dict(cut.named_parameters())
    assert all(each is after[name] and type(each) is nn.Parameter for name, each in before.items())
    ends = {name: after[name].untyped_storage().nbytes() // 4 for name in own_names(cut)}
    return found, len(kept), ends, {key: value.clone() for key, value in cut.state_dict().items()}


def own_names(cut):
    return [name for name, _ in cut.named_parameters() if not name.startswith("dni.")]


def memory(cut, worker, name):
    """Of the weight itself, of the part, and of the moment of the part."""
    parameter = dict(cut.named_parameters())[name]
    numbers = [parameter.untyped_storage().nbytes() // 4]
    if (part := worker.shards.moved.of(parameter)) is not parameter:
        (owned,) = [each for each in worker.updates.owned.values() if name in each.parameters]
        assert owned.parameters[name] is part
        moment = owned.optimizer.state[part]["momentum_buffer"]
        numbers += [each.to_local().untyped_storage().nbytes() // 4 for each in (part, moment)]
    return numbers


def test_a_process_has_memory_for_its_half_of_its_own_stages_between_steps():
    found = run_ranks(held, 4, "distributed:replicas=2,shards=true")
    sizes = {"0.weight": 36, "0.bias": 6, "1.weight": 6, "1.bias": 6}
    for rank, (steps, kept, ends, weights) in enumerate(found):
        mine, others = ("one", "two") if rank % 2 == 0 else ("two", "one")
        halves = {f"{mine}.{name}": [1, size // 2, size // 2] for name, size in sizes.items()}
        nothing = {f"{others}.{name}": [1] for name in sizes}
        assert steps == [halves | nothing] * 4, rank
        assert kept == 1  # the second graph has the same
        assert ends == {f"{stage}.{name}": size for stage in ("one", "two") for name, size in sizes.items()}
        assert all(torch.equal(value, found[0][3][key]) for key, value in weights.items())
        assert all(bool(value.isfinite().all()) for value in weights.values())


class Again(nn.Module):
    """Reads the first layer twice if it is asked to."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x, times=1):
        x = self.two(self.one(x))
        return self.one(x) if times == 2 else x


def again(rank):
    x = torch.randn(8, 6)
    cut = dni_fx.decouple(Again(), (x,), plan="at:after=one", synthesizer="linear")
    worker = parse(SHARDED, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    for times in (1, 2):
        worker.step((x, times), {}, torch.ones(()), None)


def test_a_graph_in_which_other_stages_read_shared_weights_is_refused():
    found = run_ranks(again, 2)
    assert all(each.startswith("StageError: stages [0, 1] read in this call") for each in found), found


def converted(rank):
    x = torch.randn(8, 6)
    cut = dni_fx.decouple(Again(), (x,), plan="at:after=one", synthesizer="linear")
    worker = parse(SHARDED, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    worker.step((x,), {}, torch.ones(()), None)
    worker.gather()
    cut.double()
    worker.step((x.double(),), {}, torch.ones(()), None)


def test_a_model_that_is_converted_after_its_weights_were_shared_is_refused():
    found = run_ranks(converted, 2)
    assert all("are torch.float64 on cpu now, and their shards torch.float32" in each for each in found), (
        found
    )


class Box:
    """Hides a tensor."""

    def __init__(self, value):
        self.value = value


def unheard(rank):
    x = torch.randn(8, 6)
    cut = dni_fx.decouple(Again(), (x,), plan="at:after=one", synthesizer="linear")
    worker = parse(SHARDED, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    worker.step((x,), {}, torch.ones(()), None)
    sharded = worker.shards.all[0]
    sharded(lambda: {"box": Box(sharded.originals[0].sum())})["box"].value.backward()
    sharded.rest()


def test_gradients_that_do_not_come_to_the_other_replicas_are_not_lost_in_silence():
    found = run_ranks(unheard, 2)
    assert all("gradients of stage 0 were computed of which FSDP has seen nothing" in each for each in found)


def test_shards_without_replicas_are_refused():
    with pytest.raises(SpecError, match="shards is for replicas"):
        parse("distributed:shards=true", RUNTIMES)
    assert str(parse(SHARDED, RUNTIMES)) == "distributed:lag=0,replicas=2,shards=true"
