"""With stale=k a synthesizer learns from the truth of k batches ago."""

import copy
from collections import deque
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.late import Kept, Late
from passes import SpecError
from tests.stirred import stir, stirred_zoo

BATCH, MEMORY = 5, 0.99
SGD = partial(torch.optim.SGD, lr=0.1)


def task(interface="dni:stale=2,clip=0", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batches = [(torch.randn(BATCH, 4).double(), torch.randint(3, (BATCH,))) for _ in range(6)]
    options = {"synthesizer": "mlp:hidden=7"} | options
    cut = stir(dni_fx.decouple(model, batches[:1][0][:1], plan="at:after=1", interface=interface, **options))
    (dni,) = dni_fx.boundaries(cut).values()
    return cut, dni, batches


def trained(cut, batches, how="local", labels=True):
    if how == "local":
        trainer = dni_fx.Trainer(
            cut, loss=F.cross_entropy, optimizer=SGD, runtime="local", labels_as_context=labels
        )
        for batch in batches:
            trainer.step(batch)
        return
    run = torch.compile(cut, backend="aot_eager", fullgraph=True) if how == "compiled" else cut
    optimizer = SGD(dni_fx.recouple(cut).parameters())
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(run(x, dni_context=y) if labels else run(x), y).backward()
        optimizer.step()
    next(iter(dni_fx.boundaries(cut).values())).step()  # as the next forward pass would


def by_hand(cut, dni, batches, stale):
    """The state of the layers and of the learner after these batches."""
    layers, learner = copy.deepcopy((nn.ModuleList([cut[0], cut[2]]), dni.learner))
    optimizer = torch.optim.Adam(learner.parameters(), lr=dni.interface.lr)
    mean_square, seen, waiting = dni.scale.mean_square.clone(), int(dni.scale.seen), deque()
    for x, y in batches:
        unit = (mean_square / (1 - MEMORY**seen)).sqrt()
        value = torch.tanh(layers[0](x))
        with torch.no_grad():
            (raw,) = learner((value.detach(),), y).gradients
        arrived = value.detach().requires_grad_()
        torch.autograd.backward([value, F.cross_entropy(layers[1](arrived), y)], [unit * raw / BATCH, None])
        with torch.no_grad():
            for parameter in layers.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        waiting.append((value.detach(), y, arrived.grad * BATCH))
        if len(waiting) > stale:
            earlier, labels, true = waiting.popleft()
            mean_square = torch.lerp(mean_square, true.square().mean(), 1 - MEMORY)
            seen += 1
            unit = (mean_square / (1 - MEMORY**seen)).sqrt()
            optimizer.zero_grad()
            (learner((earlier,), labels).gradients[0] - true / unit).square().mean().backward()
            optimizer.step()
    return [*layers.parameters(), *learner.parameters(), mean_square, torch.tensor(seen)]


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("how", ["drop-in", "local", "compiled"])
@pytest.mark.parametrize("stale", [0, 1, 2, 9])
def test_it_is_the_algorithm_written_out(how, stale):
    cut, dni, batches = task(f"dni:clip=0,stale={stale}")
    dni.double()  # its running mean square too, so that nothing is rounded to float32
    wanted = by_hand(cut, dni, batches, stale)
    trained(cut, batches, how)
    ours = [*cut[0].parameters(), *cut[2].parameters(), *dni.learner.parameters()]
    ours += [dni.scale.mean_square, dni.scale.seen]
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)
    assert int(dni.scale.seen) == 10 + max(len(batches) - stale, 0)


@pytest.mark.parametrize("how", ["drop-in", "local"])
@pytest.mark.parametrize("synthesizer", ["mlp", "local-head", "critic", "delayed", "zero"])
def test_what_is_kept_is_saved_and_a_run_that_is_resumed_goes_on_alike(how, synthesizer):
    cut, _, batches = task(synthesizer=synthesizer)
    trained(cut, batches[:4], how)
    kept = [key for key in cut.state_dict() if ".late." in key]
    assert len(kept) == 2 * 4 * (synthesizer != "zero")
    again, _, _ = task(synthesizer=synthesizer)
    again.load_state_dict(cut.state_dict())
    twin = copy.deepcopy(cut)
    for each in (cut, again, twin):
        trained(each, batches[4:], how)
    for name, value in cut.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(value, twin.state_dict()[name]), name


def test_a_file_holds_it_too(tmp_path):
    cut, _, batches = task()
    trained(cut, batches[:4])
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    for each in (cut, again):
        trained(each, batches[4:])
    assert any(".late." in name for name in again.state_dict())
    for name, value in cut.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_state_that_is_loaded_before_the_first_batch_is_there_after_it():
    cut, _, batches = task()
    trained(cut, batches[:3])
    lazy = dni_fx.decouple(
        copy.deepcopy(dni_fx.recouple(cut)),
        plan="at:after=1",
        interface="dni:stale=2,clip=0",
        synthesizer="mlp:hidden=7",
    )
    lazy.load_state_dict(cut.state_dict())
    for each in (cut, lazy):
        trained(each, batches[3:])
    assert torch.equal(cut[0].weight, lazy[0].weight)


def test_models_that_keep_nothing_have_no_key_for_it():
    cut, _ = stirred_zoo("chain", plan="bottleneck")
    assert not [key for key in cut.state_dict() if "late" in key]


def test_a_shorter_wait_drops_what_is_older():
    late = Late()
    made = [Kept((torch.full((1,), float(at)),), (torch.zeros(1),), None, 1) for at in range(5)]
    assert [late.exchange(each, 3) for each in made[:4]] == [None, None, None, made[0]]
    assert late.exchange(made[4], 1) is made[3]
    late.half()
    assert [value.dtype for value in late.state_dict().values() if value.dim()] == [torch.float16] * 2


def test_a_synthesizer_that_needs_the_loss_of_the_batch_is_refused():
    cut, _, batches = task(synthesizer="sobolev")
    with pytest.raises(SynthesizerError, match="learns from the loss of the batch itself: choose stale=0"):
        trained(cut, batches)


def test_a_negative_wait_is_refused():
    with pytest.raises(SpecError, match="stale is 0 or more, not -1"):
        Interface(stale=-1)
