"""Which stage is on which device, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx import randomness
from dni_fx.calls import call_of
from dni_fx.decoupled import cutting_of
from dni_fx.errors import StageError
from dni_fx.program import signature_of
from dni_fx.runtimes import RUNTIMES, places
from dni_fx.runtimes.local import Local
from dni_fx.runtimes.places import Places, devices_of
from passes import SpecError, parse
from tests.pretended import PAIR, machine, pretended
from tests.stirred import stirred_zoo

__all__ = ["machine"]

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", at) for at in range(4)]


def chain(stages):
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    layers = [nn.Linear(3, 3) for _ in range(stages)]
    plan = f"at:after={'+'.join(map(str, range(stages - 1)))}"
    cut = dni_fx.decouple(nn.Sequential(*layers), (x,), plan=plan, synthesizer="mlp")
    return cut, x


def graph_of(cut, *inputs):
    return cutting_of(cut).graph(cut, call_of(signature_of(cut), inputs, {}))


@pytest.mark.parametrize(
    ("stages", "devices", "expected"),
    [(2, 2, "01"), (3, 2, "001"), (5, 2, "00011"), (5, 3, "00112"), (4, 4, "0123"), (7, 4, "0011223")],
)
def test_stages_are_spread_in_order_and_evenly(stages, devices, expected):
    cut, x = chain(stages)
    found = Places(cut, GPUS[:devices]).of(graph_of(cut, x))
    assert "".join(str(found[at].index) for at in range(stages)) == expected


def test_more_devices_than_stages_are_refused():
    cut, x = chain(2)
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss, runtime=Local(devices=("cpu", "cpu", "cpu")))
    with pytest.raises(StageError, match=r"3 devices for 2 stages\. Cut the model into more"):
        trainer.step((x, x))


@pytest.mark.usefixtures("machine")
def test_tensors_stay_what_they_are_and_go_where_they_are_read_last():
    cut, (x,) = stirred_zoo("tied-layer", plan="at:after=layers.1+layers.3")
    cut = pretended(copy.deepcopy(cut))
    graph = graph_of(cut, x)
    tied = cut.layers[0].weight
    tied.grad = torch.ones_like(tied)
    before = dict(cut.named_parameters(remove_duplicate=False))
    spread = Places(cut, list(map(torch.device, PAIR)))
    spread.gather(torch.device(PAIR[0]))
    assert {str(each.device) for each in cut.parameters()} == {PAIR[0]}
    assert spread.spread(graph)
    assert not spread.spread(graph)
    after = dict(cut.named_parameters(remove_duplicate=False))
    assert all(after[name] is each for name, each in before.items() if not name.startswith("dni."))
    at = spread.of(graph)
    for stage in graph.road.stages:
        later = {id(each) for other in graph.road.stages[stage.index + 1 :] for each in other.parameters()}
        assert all(each.device == at[stage.index] for each in stage.parameters() if id(each) not in later)
    assert str(tied.device) == str(tied.grad.device) == PAIR[1]
    for spec in graph.marked.specs:
        dni = dni_fx.boundaries(cut)[spec.name]
        assert {each.device for each in [*dni.parameters(), *dni.buffers()]} == {at[spec.producer]}


def test_a_constant_of_the_code_is_no_buffer_of_its_stage():
    cut, _ = stirred_zoo("complex-between", plan="balanced:stages=3")
    owned = {name for stage in dni_fx.stages(cut) for name in stage.state_dict()}
    assert owned == {name for name in cut.state_dict() if not name.startswith("dni.")}


def test_the_text_form_needs_no_quotes():
    runtime = Local(devices=("cuda:0", "cuda:1"), overlap=True)
    assert str(runtime) == "local:overlap=true,devices=cuda:0+cuda:1"
    assert parse("local:devices=cuda:0+cuda:1,overlap=true", RUNTIMES) == runtime
    assert parse("local:devices=cpu", RUNTIMES) == Local(devices=("cpu",))


def test_what_is_no_device_is_refused_with_the_spec():
    with pytest.raises(SpecError, match=r"local\.devices: 'gpu:0' is no device"):
        Local(devices=("cpu", "gpu:0"))


@pytest.mark.parametrize("name", ["cuda:7", "meta", "cpu:3"])
def test_a_device_that_is_not_there_is_refused_and_those_that_are_named(name, monkeypatch):
    monkeypatch.setattr(places, "_present", lambda: [CPU, *GPUS[:2]])
    with pytest.raises(StageError, match=rf"cannot put stages on {name}: there is cpu, cuda:0, cuda:1 here"):
        dni_fx.Trainer(chain(2)[0], loss=F.mse_loss, runtime=Local(devices=("cpu", name)))


def test_the_cpu_is_there():
    assert devices_of(("cpu", "cpu")) == (CPU, CPU)


def test_autocast_on_devices_of_two_types_is_refused(monkeypatch):
    monkeypatch.setattr(places, "_present", lambda: [CPU, *GPUS])
    runtime = Local(devices=("cpu", "cuda:0"))
    with pytest.raises(StageError, match="autocast is for devices of one type, and these are cpu, cuda:0"):
        dni_fx.Trainer(chain(2)[0], loss=F.mse_loss, runtime=runtime, autocast=torch.bfloat16)


def test_random_state_of_gpus_that_are_not_there_is_passed_over(monkeypatch):
    seen = []
    state = randomness.random_state()[:4]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda each, device: seen.append(device))
    randomness.set_random_state((*state, (b"one", b"two", b"three")))
    assert seen == [0, 1]
