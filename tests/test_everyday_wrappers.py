"""What is put around a cut model: other processes, devices, transforms and compilers."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import dni_fx
from dni_fx.errors import DniError
from tests.equality import assert_same, buffers_of, objective, seeded
from tests.everyday import (
    PLAN,
    assert_trains_alike,
    grads_of,
    in_step,
    learned,
    net,
    pair,
    refused,
    rows,
    works,
)
from tests.ranks import WORLD, train

DDP = "`DistributedDataParallel`"
FSDP = "FSDP: `fully_shard`, `FullyShardedDataParallel`"
REPLICAS = "`DataParallel` on several devices"
QUIET = "`no_grad`, `inference_mode`, `torch.func.functional_call`"
FUNC = "`torch.func.grad`, `vmap` in train mode"
SCRIPT = "`torch.jit.script`, `torch.jit.trace` in train mode"
META = "training on the meta device"
AGAIN = "`torch.utils.checkpoint` around it"


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train, (folder / "store", folder), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@works(DDP)
def test_processes_end_with_equal_parameters_and_averaged_gradients(both_ranks):
    one, other = both_ranks
    assert_same(one["gradients"], other["gradients"])
    weights = [{k: v for k, v in each["state"].items() if k in one["gradients"]} for each in both_ranks]
    assert len(weights[0]) == 10
    assert_same(*weights)


@works(DDP)
def test_each_process_keeps_synthesizers_of_its_own(both_ranks):
    one, other = (each["state"] for each in both_ranks)
    assert not torch.equal(one["dni.2.learner.layer.weight"], other["dni.2.learner.layer.weight"])
    assert one["dni.2.scale.seen"] == other["dni.2.scale.seen"] == 13


@pytest.mark.parametrize("lazy", [False, True])
@works(DDP)
def test_one_process_trains_as_without(one_process, lazy):
    cut = dni_fx.decouple(net(), None if lazy else (rows(),), plan=PLAN, synthesizer="linear")
    alone = copy.deepcopy(cut)
    in_step(DistributedDataParallel(cut), alone)
    assert_same(dict(cut.state_dict()), dict(alone.state_dict()))


SHARDED = (
    "cannot cut FSDPSequential: it is sharded (FSDP), and its parameters are whole only while its own "
    "forward runs, which a stage does not call. Leave the model whole; DistributedDataParallel around the "
    "cut model works."
)


def fully_shard(module):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(module, mesh=init_device_mesh("cpu", (1,)))


@refused(FSDP, DniError, SHARDED)
def test_a_cut_model_that_is_sharded_is_refused(one_process):
    fully_shard(learned())(rows())


@refused(FSDP, DniError, SHARDED)
def test_a_sharded_model_is_not_cut(one_process):
    dni_fx.decouple(fully_shard(net()), (rows(),))


@refused(FSDP, DniError, SHARDED.replace("FSDPSequential: it", "Sequential: 3"))
def test_a_cut_model_with_a_sharded_layer_is_refused(one_process):
    cut = learned()
    fully_shard(cut[3])
    cut(rows())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # one process, an old class
@refused(FSDP, DniError, SHARDED.replace("FSDPSequential", "Sequential"))
def test_a_cut_model_in_the_older_wrapper_is_refused(one_process):
    from torch.distributed.fsdp import FullyShardedDataParallel

    FullyShardedDataParallel(learned(), device_id=torch.device("cpu"))(rows())


@refused(
    REPLICAS,
    DniError,
    "DataParallel cannot train Sequential on several devices: it is cut, and the replicas, gone after a "
    "step, would share its synthesizers. Put DistributedDataParallel around the cut model.",
)
def test_a_replica_is_refused():
    replica = learned()._replicate_for_data_parallel()
    replica(rows())


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode])
@works(QUIET)
def test_without_gradients_the_original_runs_and_moves_its_statistics(region):
    model, cut = pair()
    with region():
        assert_same(cut(rows()), model(rows()))
    assert_same(buffers_of(cut), buffers_of(model))
    assert_trains_alike(model, cut)


@pytest.mark.parametrize("synthesizer", ["oracle", "linear"])
@works(QUIET)
def test_gradients_go_to_the_parameters_that_were_put_in(synthesizer):
    model, cut = pair(synthesizer=synthesizer)
    model = model if synthesizer == "oracle" else copy.deepcopy(cut)
    new = [
        {name: p.detach().clone().requires_grad_() for name, p in net().named_parameters()} for _ in range(2)
    ]
    for each, parameters in zip((cut, model), new, strict=True):
        objective(torch.func.functional_call(each, parameters, (rows(),))).backward()
    assert_same(*[{name: p.grad for name, p in each.items()} for each in new], tolerance=1e-10)
    assert all(p.grad is None for p in cut.parameters())


FUNCTIONAL = (
    "torch.func cannot transform Sequential in train mode: it is cut, and its synthesizers learn as a side "
    "effect. Transform dni_fx.recouple(model)."
)


@refused(FUNC, DniError, FUNCTIONAL)
def test_a_gradient_by_torch_func_is_refused():
    cut = learned()
    own = {name: p for name, p in cut.named_parameters() if not name.startswith("dni.")}
    torch.func.grad(lambda given: torch.func.functional_call(cut, given, (rows(),)).sum())(own)


@refused(FUNC, DniError, FUNCTIONAL)
def test_a_vectorized_call_is_refused():
    torch.func.vmap(learned())(rows().expand(2, 5, 6))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@refused(
    SCRIPT,
    DniError,
    "torch.jit.trace cannot trace Sequential in train mode: it is cut, and TorchScript knows no boundaries. "
    "Trace dni_fx.recouple(model).",
)
def test_a_cut_model_in_train_mode_is_not_traced():
    torch.jit.trace(learned(), (rows(),))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@refused(
    SCRIPT,
    DniError,
    "torch.jit.script cannot compile Sequential: it is cut, and TorchScript knows no boundaries. Script "
    "dni_fx.recouple(model).",
)
def test_a_cut_model_is_not_scripted():
    torch.jit.script(learned().eval())


METALESS = (
    "cannot cut Sequential on the meta device: synthesizers learn from numbers, and there are none. Move the "
    "model and the inputs to a device that holds data."
)


@refused(META, DniError, METALESS)
def test_a_cut_model_that_went_to_meta_is_not_trained():
    cut = learned().to("meta")
    cut(rows().to("meta"))


def steady():
    """Batch norm counts a forward pass that is run again twice, with a cut or without."""
    model = net()
    for at in (1, 4):
        model[at] = nn.Tanh()
    return model


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("synthesizer", ["oracle", "linear"])
@works(AGAIN)
def test_a_checkpoint_around_it_changes_nothing(use_reentrant, synthesizer):
    """The step was run again inside of its own backward pass, and the learners moved between the two."""
    cut = pair(steady(), synthesizer=synthesizer)[1]
    twin = copy.deepcopy(cut)
    for _ in range(3):
        x = rows().requires_grad_()
        for each in (cut, twin):
            each.zero_grad()
        objective(checkpoint(cut, x, use_reentrant=use_reentrant)).backward()
        objective(twin(rows().requires_grad_())).backward()
        assert_same(grads_of(cut), grads_of(twin))
    assert_same(seeded(cut, (rows(),)), seeded(twin, (rows(),)))
    assert_same(dict(cut.state_dict()), dict(twin.state_dict()))
