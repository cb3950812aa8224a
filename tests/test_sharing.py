"""Interfaces that were saved by themselves go on, on the same weights, as if they never had been."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni_fx
from dni_fx.decoupled import cutting_of
from tests.carrying import made as carrying
from tests.recurrent import inputs_for, net_for, timed

pytest.importorskip("safetensors")

STEPS = 10


class Net(nn.Module):
    """Layers with statistics, masks, tied weights and a value that skips a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.second, self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        early = torch.tanh(self.drop(self.norm(self.first(x))))
        return self.last(self.third(torch.relu(self.second(early))) + early)


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 4, generator=draw), torch.randint(3, (6,), generator=draw)) for _ in range(STEPS)]


def cut_net(**options: Any) -> dni_fx.Decoupled:
    torch.manual_seed(0)
    options = {"plan": "balanced:stages=3", "synthesizer": "mlp:hidden=8"} | options
    return dni_fx.decouple(Net(), (batches()[0][0],), **options)


def trained(cut: dni_fx.Decoupled, runtime: str) -> dict[str, Tensor]:
    """All there is to know of the model and its interfaces after ten steps with one seed."""
    torch.manual_seed(7)
    if runtime == "loop":
        own = [p for name, p in cut.named_parameters() if not name.startswith("dni.")]
        optimizer = torch.optim.SGD(own, 0.05)
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(cut(x, dni_context=y), y).backward()
            optimizer.step()
    else:
        trainer = dni_fx.Trainer(
            cut,
            loss=F.cross_entropy,
            runtime=runtime,
            optimizer=lambda p: torch.optim.SGD(p, 0.05),
            labels_as_context=True,
        )
        for batch in batches():
            trainer.step(batch)
    return {name: value.clone() for name, value in cut.state_dict().items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert not [name for name in wanted if not torch.equal(found[name], wanted[name])]


def plain(cut: dni_fx.Decoupled) -> nn.Module:
    """A model of the same weights, of which nobody has heard."""
    return copy.deepcopy(dni_fx.recouple(cut))


# A guard that locks in these steps is part of what has to go on.
@pytest.mark.filterwarnings("ignore:the synthetic gradients at")
@pytest.mark.parametrize("runtime", ["loop", "backprop", "local"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"synthesizer": "auto", "interface": "dni:warmup=14,fade=4"},
        {"synthesizer": {"*1": "linear", "*": "critic"}, "interface": "dni:stale=2,trust=5,every=2"},
    ],
    ids=str,
)
def test_the_next_ten_steps_are_the_same_to_the_bit(
    tmp_path: Path, runtime: str, lazy: bool, options: dict[str, Any]
) -> None:
    cut = cut_net(**({key: each for key, each in options.items() if not isinstance(each, dict)}))
    if isinstance(choice := options.get("synthesizer"), dict):
        first = next(iter(dni_fx.boundaries(cut)))
        cut = cut_net(**options | {"synthesizer": {first: choice["*1"], "*": choice["*"]}})
    trained(cut, runtime)
    dni_fx.save_interfaces(cut, tmp_path / "shared")
    base = plain(cut)
    weights = {name: value.data_ptr() for name, value in base.state_dict(keep_vars=True).items()}
    again = dni_fx.from_pretrained(base, tmp_path / "shared", None if lazy else (batches()[0][0],))
    shared = dni_fx.recouple(again).state_dict(keep_vars=True)
    assert weights == {name: value.data_ptr() for name, value in shared.items()}
    assert_same(trained(again, runtime), trained(cut, runtime))


def test_a_model_that_carries_state_goes_on(tmp_path: Path) -> None:
    cut, state = carrying()
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(STEPS)]

    def steps(model: dni_fx.Decoupled, carried: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        optimizer = torch.optim.SGD(dni_fx.recouple(model).parameters(), 0.1)
        for x in inputs:
            outputs, carried = model(x, carried)
            optimizer.zero_grad()
            outputs.square().mean().backward()
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}, carried

    _, state = steps(cut, state)
    dni_fx.save_interfaces(cut, tmp_path)
    again = dni_fx.from_pretrained(plain(cut), tmp_path, (inputs[0], torch.zeros(3, 6, dtype=torch.float64)))
    assert cutting_of(again).carry.plain() == cutting_of(cut).carry.plain()
    assert "carried_state" in dni_fx.boundaries(again)
    assert_same(steps(again, state.detach())[0], steps(cut, state.detach())[0])


def test_a_model_that_is_cut_in_time_goes_on(tmp_path: Path) -> None:
    net = net_for("lstm")
    cut, args = timed(net, synthesizer="linear"), inputs_for(net)

    def steps(model: dni_fx.Decoupled) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(dni_fx.recouple(model).parameters(), 0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            outputs = model(*args)
            (outputs[0] if isinstance(outputs, tuple) else outputs).square().mean().backward()
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}

    steps(cut)
    dni_fx.save_interfaces(cut, tmp_path)
    again = dni_fx.from_pretrained(plain(cut), tmp_path, args)
    assert dni_fx.boundaries(again).keys() == dni_fx.boundaries(cut).keys()
    assert_same(steps(again), steps(cut))


def test_a_language_model_of_hugging_face_goes_on(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=23, n_positions=16, use_cache=False
    )
    words = torch.randint(23, (3, 8))
    batch = {"input_ids": words, "labels": words, "shift_labels": words.roll(-1, 1)}
    cut = dni_fx.decouple(
        transformers.GPT2LMHeadModel(config), batch, plan="balanced:stages=2", context="shift_labels"
    )

    def steps(model: dni_fx.Decoupled) -> dict[str, Tensor]:
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(dni_fx.recouple(model).parameters(), 0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}

    steps(cut)
    dni_fx.save_interfaces(cut, tmp_path / "interfaces")
    dni_fx.recouple(cut).save_pretrained(tmp_path / "weights")
    base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "weights").train()
    again = dni_fx.from_pretrained(base, tmp_path / "interfaces", batch)
    assert isinstance(again, transformers.GPT2LMHeadModel)
    assert_same(steps(again), steps(cut))


def test_what_was_loaded_from_a_file_can_be_shared(tmp_path: Path) -> None:
    cut = cut_net()
    trained(cut, "loop")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    dni_fx.save_interfaces(dni_fx.load(tmp_path / "cut.pt2"), tmp_path / "shared")
    again = dni_fx.from_pretrained(plain(cut), tmp_path / "shared", (batches()[0][0],))
    assert_same(trained(again, "loop"), trained(cut, "loop"))


def test_the_folder_holds_no_weights_of_the_model(tmp_path: Path) -> None:
    cut = cut_net()
    dni_fx.save_interfaces(cut, tmp_path)
    described, numbers = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    assert (described.name, numbers.suffix) == ("dni_fx.json", ".safetensors")
    load_file = pytest.importorskip("safetensors.torch").load_file
    assert load_file(numbers).keys() == cutting_of(cut).interfaces.state_dict().keys()


def test_saving_again_replaces_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    cut = cut_net()
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    dni_fx.save_interfaces(cut, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    dni_fx.save_interfaces(cut, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    trained(cut, "loop")
    dni_fx.save_interfaces(cut, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert names != sorted(before)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_failed_save_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_net()
    dni_fx.save_interfaces(cut, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    trained(cut, "loop")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dni_fx.files.os.fsync", broken)
        with pytest.raises(dni_fx.DniError, match="No space left"):
            dni_fx.save_interfaces(cut, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(dni_fx.DniError, match="cannot write"):
        dni_fx.save_interfaces(cut, tmp_path / "file" / "folder")


def test_a_plan_that_does_not_fit_is_refused_with_what_differs(tmp_path: Path) -> None:
    dni_fx.save_interfaces(cut_net(), tmp_path)
    other = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    said = "the plan belongs to another graph(.|\n)*- first(.|\n)*\\+ 0"
    with (
        pytest.warns(UserWarning, match="learned on a Net of 163 parameters, and this is a Sequential of 67"),
        pytest.raises(dni_fx.DniError, match=said),
    ):
        dni_fx.from_pretrained(other, tmp_path, (batches()[0][0],))


def test_another_base_model_is_warned_of(tmp_path: Path) -> None:
    dni_fx.save_interfaces(cut_net(), tmp_path)

    class Renamed(Net):
        pass

    with pytest.warns(UserWarning, match=r"on a Net of 163 parameters, and this is a Renamed of 163\.$"):
        dni_fx.from_pretrained(Renamed(), tmp_path, (batches()[0][0],))
    with pytest.raises(dni_fx.DniError, match="decoupled already"):
        dni_fx.from_pretrained(cut_net(), tmp_path)
    with pytest.raises(dni_fx.DniError, match="not cut yet"):
        dni_fx.save_interfaces(dni_fx.decouple(Net()), tmp_path)


def _edited(folder: Path, **changes: Any) -> Path:
    path = folder / "dni_fx.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_newer_entries_are_left_out_with_a_warning_and_a_newer_version_is_refused(tmp_path: Path) -> None:
    cut = cut_net(interface="dni:warmup=3")
    dni_fx.save_interfaces(cut, tmp_path)
    described = json.loads((tmp_path / "dni_fx.json").read_text())
    interfaces = {name: f"{text},sparkle=3" for name, text in described["interfaces"].items()}
    plan = described["plan"] | {"weather": "fair"}
    _edited(tmp_path, mood="good", interfaces=interfaces, plan=plan)
    with (
        pytest.warns(UserWarning, match=r"leaves out: mood, plan\.weather"),
        pytest.warns(UserWarning, match=r"leaves out: dni\.sparkle"),
    ):
        again = dni_fx.from_pretrained(plain(cut), tmp_path, (batches()[0][0],))
    assert {str(dni.interface) for dni in dni_fx.boundaries(again).values()} == {"dni:warmup=3"}
    with pytest.raises(dni_fx.DniError, match="version 2, newer than 1"):
        dni_fx.from_pretrained(plain(cut), _edited(tmp_path, version=2))


def test_a_plain_model_is_refused_with_what_to_do_first(tmp_path: Path) -> None:
    plain: Any = Net()
    with pytest.raises(dni_fx.DniError, match=r"this Net is not cut yet: pass it to dni_fx\.decouple first"):
        dni_fx.save_interfaces(plain, tmp_path / "interfaces")
    assert not (tmp_path / "interfaces").exists()
