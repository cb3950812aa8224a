"""Hooks that leave nothing behind are traced through; any other keeps its module whole, or is refused."""

import contextvars
import functools
import io
import types

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import CaptureError
from tests.equality import assert_same, gradients, seeded
from tests.everyday import captures, pair, rows
from tests.test_everyday_hooks import nested

COLLECTOR = contextvars.ContextVar("collector", default=None)
BUSY = "0 has a hook, which a graph would run once and never again"


def targets(program):
    return {str(node.target) for node in program.captures[-1][1].graph.nodes if node.op == "call_module"}


def asked_to_collect(module, args, out):
    if (found := COLLECTOR.get()) is not None:
        found["outputs"].append(out)


def doubling(module, args, out):
    return out * 2


def wants_gradients(module, args, out):
    out.requires_grad_(True)


def first_only(module, args):
    return (args[0] + 1,)


IDLE = [asked_to_collect, doubling, wants_gradients]


@pytest.mark.parametrize("frontend", ["symbolic", "export", "dynamo", "auto:check=false"])
@pytest.mark.parametrize("hook", IDLE)
def test_a_module_with_an_idle_hook_is_traced_through(hook, frontend):
    model, x = nested(), rows()
    model[0].register_forward_hook(hook)
    model[0].register_forward_pre_hook(first_only)
    program = dni_fx.capture(model, (x,), frontend=frontend)
    assert "0" not in targets(program)
    cut = dni_fx.decouple(program, plan="balanced:stages=3", synthesizer="oracle")
    ours, theirs = gradients(cut, (x,)), gradients(model, (x,))
    assert_same({name: each for name, each in ours.items() if not name.startswith("dni.")}, theirs, 1e-10)
    assert_same(seeded(cut, (x,)), seeded(model, (x,)))


class Recorder:
    """Records in an attribute, in a list two objects away, in its class."""

    seen = 0

    def __init__(self):
        self.last = None
        self.inner = types.SimpleNamespace(outputs=[])

    def keep(self, module, args, out):
        self.last = out

    def append(self, module, args, out):
        self.inner.outputs.append(1)

    def __call__(self, module, args, out):
        Recorder.seen += 1


TOTAL = {"calls": 0}


def counts_in_a_global(module, args, out):
    TOTAL["calls"] += 1


def counts_on_the_module(module, args, out):
    module.calls = getattr(module, "calls", 0) + 1


def adds_to(total, module, args, out):
    total += out.detach().sum()


def prints(module, args, out):
    print(tuple(out.shape))


def writes_to(file, module, args, out):
    file.write("ran")


def appends_with_default(module, args, out, found=[]):  # noqa: B006
    found.append(1)


BUSY_HOOKS = {
    "keeps": lambda: Recorder().keep,
    "appends": lambda: Recorder().append,
    "counts-in-its-class": Recorder,
    "counts-in-a-global": lambda: counts_in_a_global,
    "counts-on-the-module": lambda: counts_on_the_module,
    "adds-to-a-tensor": lambda: functools.partial(adds_to, torch.zeros((), dtype=torch.float64)),
    "prints": lambda: prints,
    "writes": lambda: functools.partial(writes_to, io.StringIO()),
    "appends-to-a-default": lambda: appends_with_default,
}


@pytest.mark.parametrize("name", BUSY_HOOKS)
def test_a_module_with_a_busy_hook_stays_whole_or_is_refused(name):
    model, x = nested(), rows()
    model[0].register_forward_hook(BUSY_HOOKS[name]())
    program = dni_fx.capture(model, (x,), frontend="symbolic")
    assert "0" in targets(program)
    assert f"train: symbolic: kept 0 whole ({BUSY})" in program.history
    for frontend in ("export", "dynamo"):
        with pytest.raises(CaptureError) as caught:
            dni_fx.capture(model, (x,), frontend=frontend)
        assert str(caught.value) == BUSY


def test_what_a_hook_does_while_the_model_asks_for_it_is_in_the_graph():
    """The hook is busy, and leaves nothing behind: what it collects is an output."""

    class Collects(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nested()

        def forward(self, x):
            token = COLLECTOR.set({"outputs": []})
            out = self.net(x)
            found = COLLECTOR.get()["outputs"]
            COLLECTOR.reset(token)
            return out, *found

    model, x = Collects(), rows()
    model.net[0].register_forward_hook(asked_to_collect)
    program = dni_fx.capture(model, (x,))
    assert "net.0" not in targets(program)
    cut = dni_fx.decouple(program, plan="balanced:stages=2", synthesizer="oracle")
    assert_same(seeded(cut, (x,)), seeded(model, (x,)))
    assert len(cut(x)) == 2


class HooksItself(nn.Module):
    """Puts hooks on its layers in its first call."""

    def __init__(self, hook):
        super().__init__()
        self.net = nested()
        self.hook = hook
        self.is_ready = False

    def forward(self, x):
        if not self.is_ready:
            self.net[0].register_forward_hook(self.hook)
            self.is_ready = True
        return self.net(x)


@pytest.mark.parametrize("frontend", ["auto", "export", "dynamo"])
def test_what_only_the_first_call_sets_up_is_no_part_of_the_graph(frontend):
    model, x = HooksItself(asked_to_collect), rows()
    cut = dni_fx.decouple(model, (x,), frontend=frontend, plan="balanced:stages=3", synthesizer="oracle")
    assert not model.is_ready
    assert_same(seeded(cut, (x,)), seeded(model, (x,)))


@pytest.mark.parametrize("frontend", ["export", "dynamo"])
def test_busy_hooks_that_the_first_call_puts_there_are_refused(frontend):
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(HooksItself(Recorder().keep), (rows(),), frontend=frontend)
    assert str(caught.value) == f"net.{BUSY}"


def test_a_first_call_that_computes_something_else_is_refused_by_export():
    class StartsFromData(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 2).double()
            self.shift = 1.0

        def forward(self, x):
            x, self.shift = x + self.shift, 0.0
            return self.net(x)

    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(StartsFromData(), (rows(),), frontend="export")
    assert str(caught.value) == "the captured graph computes something else than the model on the example"


def test_an_idle_hook_on_a_layer_of_an_exported_graph_may_come_and_go():
    x, hook = rows(), functools.partial(doubling)
    model, cut = pair(x=x)
    model, cut = model, dni_fx.decouple(model, (x,), frontend="export", plan="at:after=2+5")
    without = seeded(cut, (x,))
    handle = cut[3].register_forward_hook(hook)
    model[3].register_forward_hook(hook)
    assert_same(seeded(cut, (x,)), seeded(model, (x,)))
    handle.remove()
    assert_same(seeded(cut, (x,)), without)
    assert captures(cut) == 2
