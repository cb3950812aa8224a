"""`torch.compile` of a cut model: the same numbers, learners included, and no graph that has become wrong."""

import copy
import pickle
import shutil
import weakref

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import dni_fx
from dni_fx.errors import StageError
from tests.equality import assert_same, objective, seeded
from tests.stirred import stirred_zoo
from tests.zoo import made, resized
from tests.zoo.plain import Chain

# The tracer of torch.compile makes an instance of torch's own class when it meets an autograd function.
pytestmark = pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")

EXACT = [
    "chain",
    "tied-weight",
    "frozen-layer",
    "early-output",
    "returns-what-crosses",
    "dict-of-outputs",
    "embedded",
    "attention",
    "branches-draw",
    "in-place-relu",
    "writes-rows",
    "batch-norm",
]


def compiled(model, backend="aot_eager"):
    return torch.compile(model, backend=backend, fullgraph=True)


def counted(model):
    """The compiled model, and what counts how often code was made for it."""
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, backend=counter, fullgraph=True), counter


def steps(ours, theirs, batches, tolerance=0.0, **options):
    """Train both by SGD; every output and then all state must be the same."""
    pair = [(each, torch.optim.SGD(each.parameters(), lr=0.01)) for each in (ours, theirs)]
    for seed, args in enumerate(batches):
        outputs = []
        for each, optimizer in pair:
            optimizer.zero_grad()
            outputs.append(seeded(each, args, options, seed=seed))
            objective(outputs[-1]).backward()
            optimizer.step()
        assert_same(*(pytree.tree_map_only(torch.Tensor, torch.detach, each) for each in outputs), tolerance)
    own = getattr(ours, "_orig_mod", ours)
    assert_same(dict(own.state_dict()), dict(theirs.state_dict()), tolerance)


@pytest.mark.parametrize("name", EXACT)
def test_training_steps_and_eval_are_those_of_the_model_that_is_not_compiled(name):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=2")
    ours, theirs = compiled(cut), copy.deepcopy(cut)
    steps(ours, theirs, [inputs, resized(inputs, 5)])
    assert_same(ours.eval()(*inputs), dni_fx.recouple(theirs).eval()(*inputs))


@pytest.mark.parametrize(
    ("synthesizer", "interface"),
    [
        ("zero", "dni"),
        ("linear", "dni:mix=0.3,scale=0.5,clip=2"),
        ("mlp:hidden=8,depth=1", "dni:warmup=2"),
        ("linear", "dni:lr=0"),
        ("oracle", "dni"),
    ],
)
def test_every_kind_of_guess_is_the_same_in_compiled_code(synthesizer, interface):
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3", synthesizer=synthesizer, interface=interface)
    theirs = copy.deepcopy(cut)
    for each in (cut, theirs):
        each.load_state_dict(
            {k: torch.zeros_like(v) for k, v in each.state_dict().items() if "seen" in k}, False
        )
    steps(compiled(cut), theirs, [inputs] * 4)


def test_labels_and_the_scale_of_the_loss_reach_the_synthesizers():
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), interface="dni:classes=6")
    ours, theirs = compiled(cut), copy.deepcopy(cut)
    for scale, labels in [(1.0, [0, 1, 2]), (0.25, [3, 4, 5]), (8.0, [0, 0, 1])]:
        cut.gradient_scale = theirs.gradient_scale = scale
        steps(ours, theirs, [(x,)] * 2, dni_context=torch.tensor(labels))


def test_an_input_that_holds_the_labels_reaches_the_synthesizers():
    class Classifier(Chain):
        def forward(self, x, labels):
            return F.cross_entropy(super().forward(x), labels)

    x, labels = torch.randn(3, 6, dtype=torch.float64), torch.tensor([1, 0, 3])
    cut = dni_fx.decouple(
        Classifier().double(),
        (x, labels),
        context="labels",
        interface="dni:classes=6",
        plan="at:after=layers.2",
    )
    steps(compiled(cut), copy.deepcopy(cut), [(x, labels), (x, labels.flip(0)), (x, labels)])


def test_a_cut_model_inside_of_another_compiles_with_it():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    ours = nn.Sequential(nn.Linear(6, 6), cut, nn.Tanh()).double()
    ours(*inputs)  # the example required no gradient; what the first layer makes does
    steps(compiled(ours), copy.deepcopy(ours), [inputs] * 3)


def test_two_forward_passes_before_one_backward_are_two_guesses():
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=2")
    ours, theirs = compiled(lambda x: cut(x) + 2 * cut(x)), copy.deepcopy(cut)
    objective(ours(x)).backward()
    objective(theirs(x) + 2 * theirs(x)).backward()
    for (name, mine), other in zip(cut.named_parameters(), theirs.parameters(), strict=True):
        assert_same([name, mine.grad], [name, other.grad], tolerance=1e-14)
    own = {key: value for key, value in cut.state_dict().items() if key.startswith("dni.")}
    assert_same(own, {key: theirs.state_dict()[key] for key in own}, tolerance=1e-14)


def test_autocast_reaches_the_synthesizers():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    cut, inputs = cut.float(), tuple(value.float() for value in inputs)
    theirs = copy.deepcopy(cut)
    with torch.autocast("cpu", torch.bfloat16):
        theirs(*inputs)  # captured before
        cut(*inputs)
        ours = compiled(cut)
        for each in (ours, theirs):
            objective(each(*inputs)).backward()
    assert_same(dict(cut.state_dict()), dict(theirs.state_dict()))
    assert_same([p.grad for p in cut.parameters()], [p.grad for p in theirs.parameters()])


def test_copies_and_unpickled_models_learn_by_themselves():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    ours = compiled(cut)
    objective(ours(*inputs)).backward()
    for twin in (copy.deepcopy(cut), pickle.loads(pickle.dumps(cut))):
        theirs = copy.deepcopy(twin)
        before = {key: value.clone() for key, value in cut.state_dict().items()}
        objective(twin(*inputs)).backward()  # an unpickled model makes its graph here
        objective(theirs(*inputs)).backward()
        steps(compiled(twin), theirs, [inputs] * 2)
        assert_same(dict(cut.state_dict()), before)


# A file that inductor imports defines a class for TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_trains_like_the_model_that_is_not_compiled():
    cut, inputs = stirred_zoo("residual", plan="balanced:stages=2")
    theirs = copy.deepcopy(cut)
    steps(compiled(cut, "inductor"), theirs, [inputs] * 3, tolerance=1e-6)  # learners are in float32


def test_other_batch_sizes_need_code_once_more_and_no_oftener():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    ours, counter = counted(cut)
    steps(ours, copy.deepcopy(cut), [resized(inputs, batch) for batch in (3, 4, 5, 6, 7)])
    assert counter.frame_count == 2


def test_without_a_graph_one_batch_runs_as_it_is_and_the_next_is_compiled():
    model, inputs = made("chain")
    cut = dni_fx.decouple(model, plan="balanced:stages=2")
    counter = CompileCounterWithBackend("aot_eager")
    ours = torch.compile(cut, backend=counter)
    ours(*inputs)
    assert (len(dni_fx.boundaries(cut)), counter.frame_count) == (1, 0)
    steps(ours, copy.deepcopy(cut), [inputs] * 2)
    assert counter.frame_count == 1


def test_without_a_graph_fullgraph_says_what_to_do():
    model, inputs = made("chain")
    with pytest.raises(torch._dynamo.exc.Unsupported) as caught:
        compiled(dni_fx.decouple(model, plan="balanced:stages=2"))(*inputs)
    assert (
        "(reason: the cut model has no graph for a call like this one in its present state, or none "
        "without branches on data and carried state. Run one such batch before torch.compile, or leave "
        "fullgraph=True out: what cannot be compiled is then run as it is)"
    ) in str(caught.value)


def freeze(cut):
    cut.layers[0].requires_grad_(False)


def unfreeze(cut):
    cut.layers[1].requires_grad_(True)


def replace_a_layer(cut):
    torch.manual_seed(1)
    cut.layers[1] = nn.Linear(6, 6, bias=False).double()


def hook(cut):
    cut.layers[1].register_forward_hook(lambda module, args, value: value * 2)


def half_eval(cut):
    cut.norms[0].eval()


@pytest.mark.parametrize("change", [freeze, unfreeze, replace_a_layer, hook, half_eval])
def test_a_change_after_compilation_is_seen(change):
    model, inputs = made("batch-norm")
    model.layers[1].requires_grad_(change is not unfreeze)
    cut = dni_fx.decouple(model, inputs, plan="at:after=norms.1")
    ours, theirs = torch.compile(cut, backend="aot_eager"), copy.deepcopy(cut)
    steps(ours, theirs, [inputs] * 2)
    change(cut)
    change(theirs)
    steps(ours, theirs, [inputs] * 3)
    assert_same([p.grad for p in cut.parameters()], [p.grad for p in theirs.parameters()])


def test_a_change_of_dtype_after_compilation_is_seen():
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=2")
    ours, theirs = torch.compile(cut, backend="aot_eager"), copy.deepcopy(cut)
    steps(ours, theirs, [(x,)] * 2)
    cut.float(), theirs.float()
    steps(ours, theirs, [(x.float(),)] * 3)


def test_a_second_backward_raises():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    loss = objective(compiled(cut)(*inputs))
    loss.backward(retain_graph=True)
    with pytest.raises(
        StageError, match=r"^a second backward pass reached tanh_2\. Its synthetic gradient was"
    ):
        loss.backward()


def test_copies_of_saved_tensors_are_refused():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        loss = objective(compiled(cut)(*inputs))
    with pytest.raises(StageError) as caught:
        loss.backward()
    assert str(caught.value) == (
        "cannot learn in the backward pass of a compiled model: what autograd saved in the forward pass was "
        "replaced by a copy. Run it without hooks on saved tensors, or do not compile the model."
    )


def test_a_guess_that_is_never_learned_from_is_not_kept():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    ours, kept = compiled(cut), []
    dni = next(iter(dni_fx.boundaries(cut).values()))
    guess = dni.guess
    vars(dni)["guess"] = lambda value: kept.append(weakref.ref((made := guess(value))[0])) or made
    for _ in range(3):
        ours(*inputs)
    assert [each() for each in kept] == [None] * 3


def test_a_copy_of_a_model_compiled_in_place_runs_itself():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=2")
    cut.compile(backend="aot_eager")
    cut(*inputs)
    for twin in (copy.deepcopy(cut), pickle.loads(pickle.dumps(cut))):
        objective(twin(*inputs)).backward()
        assert all(p.grad is not None for p in dni_fx.recouple(twin).parameters())
        assert all(p.grad is None for p in cut.parameters())
