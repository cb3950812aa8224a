from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dni_fx
from dni_fx.archive import exported_in_training, read, write
from tests.archives import (
    MODELS,
    Block,
    Tied,
    both,
    images,
    mlp,
    program,
    rows,
    run,
    same,
    saved,
    state_of,
    tokens,
)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_what_is_read_computes_what_was_written_at_any_batch_size(
    tmp_path: Path, name: str, mode: str
) -> None:
    make, inputs = MODELS[name]
    model = make().double()
    write(tmp_path / "m.pt2", both(model, inputs()), {}, {})
    model.train(mode == "train")
    loaded = read(tmp_path / "m.pt2").programs[mode].module()
    for batch in (2, 1, 5):
        leaves = tuple(leaf[:1].repeat(batch, *[1] * (leaf.dim() - 1)) for leaf in inputs())
        assert same(run(loaded, leaves), run(model, leaves))
    # Running moved the statistics of both in the same way.
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(buffers[key], value) for key, value in model.named_buffers())


@pytest.mark.parametrize("name", MODELS)
def test_gradients_through_what_is_read_are_the_model_s(tmp_path: Path, name: str) -> None:
    make, inputs = MODELS[name]
    model, leaves = make().double(), inputs()
    write(
        tmp_path / "m.pt2",
        {"eval": program(model.eval(), leaves), "train": program(model.train(), leaves)},
        {},
        {},
    )
    archive = read(tmp_path / "m.pt2")
    run(model, leaves)[0].square().sum().backward()
    run(archive.programs["train"].module(), leaves)[0].square().sum().backward()
    loaded = archive.programs["eval"].state_dict
    for key, parameter in model.named_parameters(remove_duplicate=False):
        found = loaded[key].grad
        assert (found is None) == (parameter.grad is None), key
        assert parameter.grad is None or torch.equal(found, parameter.grad), key


def test_both_programs_and_all_names_of_a_tied_weight_share_one_parameter(tmp_path: Path) -> None:
    model = Tied().double()
    write(tmp_path / "m.pt2", both(model, tokens()), {}, {})
    programs = read(tmp_path / "m.pt2").programs
    evaluated, trained = state_of(programs["eval"]), state_of(programs["train"])
    assert evaluated.keys() == trained.keys() == dict(model.named_parameters(remove_duplicate=False)).keys()
    assert all(evaluated[name] is trained[name] for name in evaluated)
    assert evaluated["head.weight"] is evaluated["embed.weight"]
    module = programs["train"].module()
    assert module.get_parameter("head.weight") is module.get_parameter("embed.weight")


@pytest.mark.parametrize("name", MODELS)
def test_parameters_come_back_in_order_with_their_names_values_and_requires_grad(
    tmp_path: Path, name: str
) -> None:
    make, inputs = MODELS[name]
    model = make().double()
    write(tmp_path / "m.pt2", {"eval": program(model.eval(), inputs())}, {}, {})
    tensors = read(tmp_path / "m.pt2").programs["eval"].state_dict
    expected = dict(model.named_parameters(remove_duplicate=False))
    found = {key: value for key, value in tensors.items() if isinstance(value, nn.Parameter)}
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value)
        assert found[key].requires_grad == value.requires_grad
    for key, value in model.named_buffers():
        restored = state_of(read(tmp_path / "m.pt2").programs["eval"])[key]
        assert torch.equal(restored, value)


def test_weights_are_in_the_file_once(tmp_path: Path) -> None:
    model, inputs = nn.Linear(100, 100), (torch.randn(2, 100),)
    write(tmp_path / "one.pt2", {"eval": program(model.eval(), inputs)}, {}, {})
    write(tmp_path / "two.pt2", both(model, inputs), {}, {})
    with zipfile.ZipFile(tmp_path / "two.pt2") as archive:
        sizes = [info.file_size for info in archive.infolist() if "/weight_" in info.filename]
    assert sizes == [40_000, 400]
    assert (tmp_path / "two.pt2").stat().st_size - (tmp_path / "one.pt2").stat().st_size < 20_000


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model, inputs = mlp().double(), rows()
    programs = both(model, inputs)
    write(tmp_path / "a.pt2", programs, {}, {"seed": 1})
    write(tmp_path / "b.pt2", programs, {}, {"seed": 1})
    assert (tmp_path / "a.pt2").read_bytes() == (tmp_path / "b.pt2").read_bytes()


def test_synthesizer_state_and_meta_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    state = {
        "dni.a.weight": nn.Parameter(base.clone()),
        "dni.a.rows": base[1:],
        "dni.a.columns": base.t(),
        "dni.a.steps": torch.tensor(3),
        "dni.a.none": torch.empty(0, 2),
        "dni.a.half": torch.randn(2, 3).bfloat16(),
        "dni.a.flags": torch.tensor([True, False]),
        "dni.a.complex": torch.randn(2, dtype=torch.complex128),
    }
    meta = {"plan": {"stage_of": {"a:add": 0}}, "history": ["capture", "Ümlaut"], "lr": 0.1}
    write(tmp_path / "m.pt2", {"eval": program(mlp().double().eval(), rows())}, state, meta)
    archive = read(tmp_path / "m.pt2")
    assert archive.meta == meta
    assert list(archive.state) == list(state)
    for name, tensor in state.items():
        assert torch.equal(archive.state[name], tensor), name
        assert archive.state[name].dtype == tensor.dtype
        assert archive.state[name].stride() == tensor.stride()
        assert isinstance(archive.state[name], nn.Parameter) == isinstance(tensor, nn.Parameter)
    # Views of one memory are views of one memory again.
    archive.state["dni.a.rows"].zero_()
    assert archive.state["dni.a.columns"][:, 1:].count_nonzero() == 0


def test_only_the_part_of_a_memory_that_a_tensor_covers_is_written(tmp_path: Path) -> None:
    state = {"part": torch.randn(1_000_000)[10:20]}
    write(tmp_path / "m.pt2", {"eval": program(mlp().double().eval(), rows())}, state, {})
    assert (tmp_path / "m.pt2").stat().st_size < 100_000
    assert torch.equal(read(tmp_path / "m.pt2").state["part"], state["part"])


def test_plain_torch_opens_the_file_as_the_inference_program_with_markers(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt2", "cut")
    code = (
        "import sys, torch, dni_fx\n"
        "loaded = torch.export.load(sys.argv[1])\n"
        "print([n.args[1] for n in loaded.graph.nodes if n.target is torch.ops.dni_fx.interface.default])\n"
        "print(loaded.module()(torch.ones(3, 4, dtype=torch.float64))[0].sum().item())\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    home = Path(dni_fx.__file__).parents[1]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    ours = read(path).programs["eval"].module()(torch.ones(3, 4, dtype=torch.float64))[0].sum().item()
    assert lines == ["['a']", str(ours)]


@pytest.mark.parametrize("training", [True, False])
def test_a_file_of_torch_says_in_which_mode_it_was_exported(tmp_path: Path, training: bool) -> None:
    model = Block().double().train(training)
    torch.export.save(torch.export.export(model, images()), tmp_path / "m.pt2")
    archive = read(tmp_path / "m.pt2")
    assert (archive.state, archive.meta, archive.training) == ({}, {}, training)
    assert list(archive.programs) == ["train" if training else "eval"]
    (loaded,) = archive.programs.values()
    leaves = images()
    assert same(run(loaded.module(), leaves), run(model, leaves))


def test_a_file_of_torch_without_modes_counts_as_inference(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(mlp(), (torch.randn(2, 4),)), tmp_path / "m.pt2")
    archive = read(tmp_path / "m.pt2")
    assert (list(archive.programs), archive.training) == (["eval"], None)
    assert exported_in_training(archive.programs["eval"]) is None


def test_sizes_that_depend_on_the_batch_are_read_back(tmp_path: Path) -> None:
    class Sizes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            many = torch.zeros(max(x.shape[0] // 2 + 3, 4), x.shape[0] * 2, dtype=x.dtype)
            return torch.cat([x, x, many.t()[:, :4]]), x.repeat(x.shape[0] % 3 + 1, 1)

    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(Sizes(), (torch.randn(7, 4),), dynamic_shapes=dynamic)
    torch.export.save(exported, tmp_path / "m.pt2")
    loaded = read(tmp_path / "m.pt2").programs["eval"].module()
    for batch in (7, 10):
        x = torch.randn(batch, 4)
        assert same(loaded(x), Sizes()(x))


def test_regions_and_conditions_are_read_back(tmp_path: Path) -> None:
    class Regions(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                frozen = x * 2
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), frozen + x

    torch.export.save(torch.export.export(Regions(), (torch.randn(3, 4),)), tmp_path / "m.pt2")
    loaded = read(tmp_path / "m.pt2").programs["eval"].module()
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        assert same(loaded(x), Regions()(x))


def test_the_file_tells_nothing_of_the_disk_it_was_written_on(tmp_path: Path) -> None:
    content = saved(tmp_path / "m.pt2").read_bytes()
    assert b"site-packages" not in content
    assert os.fspath(Path(__file__).parent).encode() not in content


# torch's own reader says it in releases before 2.13.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_plain_torch_loads_weights_that_are_not_contiguous(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).double().to(memory_format=torch.channels_last).eval()
    write(tmp_path / "m.pt2", {"eval": program(model, images())}, {}, {})
    for loaded in (torch.export.load(tmp_path / "m.pt2"), read(tmp_path / "m.pt2").programs["eval"]):
        assert torch.equal(loaded.state_dict["weight"], model.weight)
        assert loaded.state_dict["weight"].stride() == model.weight.stride()
