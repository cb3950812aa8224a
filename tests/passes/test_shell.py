import copy
import threading

import pytest
import torch
from torch import Tensor, fx, nn

from passes.shell import ShellError, shell


class Everything(nn.Module):
    """State in every place where people keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.tied = self.linear
        self.head = nn.Linear(3, 3)
        self.head.weight = self.linear.weight
        self.norm = nn.BatchNorm1d(3)
        self.recurrent = nn.LSTM(3, 3)
        self.plain = torch.ones(3)
        self.listed = [torch.zeros(2), torch.ones(2)]
        self.mapped = {"table": torch.arange(3.0)}
        self.nested = {"deep": ([torch.ones(1)],)}
        self.derived = self.linear.weight * 2  # not a leaf, so a plain deep copy refuses
        self.hidden = [nn.Linear(3, 3)]
        self.generator = torch.Generator()
        self.lock = threading.Lock()
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.linear.register_forward_hook(lambda module, args, out: out + 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.head(self.tied(x))) + self.plain + self.hidden[0](x)
        return self.recurrent(x)[0]


def everything(model: nn.Module) -> list[tuple[str, dict[str, object]]]:
    """All attributes of all modules: objects that compare by what they hold."""
    return [(name, copy.copy(vars(module))) for name, module in model.named_modules()]


def test_both_sides_hold_the_very_same_tensors() -> None:
    model = Everything()
    twin = shell(model)
    ours, theirs = model.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)
    assert twin.scratch is model.scratch
    assert twin.plain is model.plain
    assert twin.listed[1] is model.listed[1]
    assert twin.mapped["table"] is model.mapped["table"]
    assert twin.nested["deep"][0][0] is model.nested["deep"][0][0]
    assert twin.derived is model.derived
    assert twin.hidden[0].weight is model.hidden[0].weight
    assert twin.generator is model.generator
    assert twin.lock is model.lock


def test_no_module_is_shared() -> None:
    model = Everything()
    twin = shell(model)
    assert not {*map(id, model.modules())} & {*map(id, twin.modules())}
    assert twin.hidden[0] is not model.hidden[0]


def test_the_model_is_left_exactly_as_it_was() -> None:
    model = Everything().eval()
    model.norm.train()
    before, random = everything(model), torch.get_rng_state()
    shell(model)
    shell(model, torch.clone)
    for (_, ours), (_, theirs) in zip(before, everything(model), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[key] is theirs[key] for key in ours)
    assert torch.equal(random, torch.get_rng_state())


def test_modes_and_hooks_are_its_own() -> None:
    model = Everything()
    twin = shell(model)
    twin.eval()
    twin.linear._forward_hooks.clear()
    assert model.training
    assert model.norm.training
    assert len(model.linear._forward_hooks) == 1


def test_both_sides_compute_the_same() -> None:
    model = Everything()
    x = torch.randn(4, 3)
    assert torch.equal(model(x), shell(model)(x))


def test_modules_tied_in_the_model_are_tied_in_the_shell() -> None:
    twin = shell(Everything())
    assert twin.tied is twin.linear
    assert twin.head.weight is twin.linear.weight


@pytest.mark.parametrize("swapped", [False, True])
def test_a_change_of_dtype_on_either_side_is_seen_by_both(swapped: bool) -> None:
    one = Everything()
    other = shell(one)
    if swapped:
        one, other = other, one
    one.double()
    assert {tensor.dtype for tensor in other.state_dict().values() if tensor.is_floating_point()} == {
        torch.float64
    }
    assert other.norm.running_mean is one.norm.running_mean


def test_assigned_state_is_seen_by_both() -> None:
    model = Everything()
    twin = shell(model)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    twin.norm.running_mean = torch.ones(3)
    assert model.linear.weight is twin.linear.weight
    assert model.norm.running_mean is twin.norm.running_mean
    # The LSTM reads its weights from a list.
    assert {*map(id, twin.recurrent._flat_weights)} == {*map(id, model.recurrent.parameters())}


def test_state_of_a_graph_module_is_shared_too() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    gm.add_module("unused", nn.Linear(3, 3))
    twin = shell(gm)
    assert list(twin.state_dict()) == list(gm.state_dict())
    gm.double()
    assert twin.get_submodule("1").running_mean.dtype == torch.float64
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(twin(x), gm(x))


def test_an_exported_module_can_be_copied() -> None:
    gm = torch.export.export(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (torch.randn(2, 3),)).module()
    x = torch.randn(2, 3)
    assert torch.equal(shell(gm)(x), gm(x))


def test_replace_maps_each_tensor_once_and_keeps_ties() -> None:
    model = Everything()
    seen: list[Tensor] = []

    def double(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor.detach().double()

    twin = shell(model, double)
    assert len(seen) == len({*map(id, seen)})
    assert twin.head.weight is twin.linear.weight
    assert twin.recurrent._flat_weights[0] is twin.recurrent.weight_ih_l0
    assert twin.derived.dtype == torch.float64
    assert twin.nested["deep"][0][0].dtype == torch.float64
    assert {*map(id, model.state_dict(keep_vars=True).values())}.isdisjoint(
        map(id, twin.state_dict(keep_vars=True).values())
    )


def test_replaced_parameters_stay_parameters_with_their_requires_grad() -> None:
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    twin = shell(model, lambda tensor: tensor.detach().clone())
    assert isinstance(twin.weight, nn.Parameter)
    assert twin.weight.requires_grad
    assert isinstance(twin.bias, nn.Parameter)
    assert not twin.bias.requires_grad


def test_with_replace_the_dictionaries_are_its_own() -> None:
    model = nn.BatchNorm1d(3)
    twin = shell(model, torch.clone)
    twin.running_mean = torch.ones(3)
    assert torch.equal(model.running_mean, torch.zeros(3))


def test_what_cannot_be_copied_is_named_with_its_place() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))
    model[1].stream = (number for number in range(3))
    with pytest.raises(ShellError, match=r"cannot copy 1\.stream \(generator\): TypeError"):
        shell(model)


def test_a_failing_replace_is_reported() -> None:
    def refuse(tensor: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shell(nn.Linear(3, 3), refuse)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_script_module_is_refused_by_its_place() -> None:
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(3, 3)))
    with pytest.raises(ShellError, match=r"cannot copy 1: it is a TorchScript module"):
        shell(model)
