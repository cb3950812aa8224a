from __future__ import annotations

import copy
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

import dni_fx
from dni_fx.archive import Archive, exported_in_training, read, state_of, write
from dni_fx.errors import ExportError, FileError
from dni_fx.exported import STAGE, export_graph
from passes.anchors import ANCHOR, set_anchors


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.mix.bias.requires_grad_(False)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.mix(self.embed(tokens))) * mask[:, :, None]
        return self.head(hidden), hidden


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.flatten(1, 2))[0]


class Cut(nn.Module):
    """Two layers with a hole between them, a buffer that is not saved and one that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.dni = nn.Module()
        self.dni.add_module("a", nn.Identity())
        self.b = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.dni.get_submodule("a")(self.a(x)) + self.table)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def _images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 6, 6, dtype=torch.float64),)


def _rows() -> tuple[Tensor, ...]:
    return (torch.randn(2, 4, dtype=torch.float64),)


def _tokens() -> tuple[Tensor, ...]:
    return torch.randint(7, (2, 5)), torch.rand(2, 5, dtype=torch.float64)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "mlp": (_mlp, _rows),
    "conv-norm-dropout": (Block, _images),
    "tied": (Tied, _tokens),
    "cut": (Cut, _rows),
    "lstm": (Recurrent, _images),
}


def captured(model: nn.Module) -> fx.Graph:
    graph = fx.Tracer().trace(model)
    for node in graph.nodes:
        if node.op == "output":
            flat = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
            node.args = (tuple(flat),)
    set_anchors(graph)
    return graph


def shell(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def program(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    graph = captured(model)
    stages = {node.name: 0 for node in graph.nodes}
    return export_graph(shell(model), graph, inputs, stage_of=stages).program


def both(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, ExportedProgram]:
    return {"eval": program(model.eval(), inputs), "train": program(model.train(), inputs)}


def flat(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def run(runnable: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return flat(runnable(*inputs))


def same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def saved(path: Path, name: str = "mlp") -> Path:
    make, inputs = MODELS[name]
    write(path, both(make().double(), inputs()), {"dni.a.weight": torch.randn(3)}, {"plan": "balanced"})
    return path


def rewrite(path: Path, changes: dict[str, Callable[[bytes], bytes | None]], **added: bytes) -> Path:
    """The archive with some members changed, so that all CRCs are right."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            change = changes.get(name.partition("/")[2])
            if (new := change(content) if change else content) is not None:
                archive.writestr(name, new)
        for name, content in added.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_what_is_read_computes_what_was_written_at_any_batch_size(tmp_path: Path, name: str, mode: str) -> None:
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
    write(tmp_path / "m.pt2", {"eval": program(model.eval(), leaves), "train": program(model.train(), leaves)}, {}, {})
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
    write(tmp_path / "m.pt2", both(model, _tokens()), {}, {})
    programs = read(tmp_path / "m.pt2").programs
    evaluated, trained = state_of(programs["eval"]), state_of(programs["train"])
    assert evaluated.keys() == trained.keys() == dict(model.named_parameters(remove_duplicate=False)).keys()
    assert all(evaluated[name] is trained[name] for name in evaluated)
    assert evaluated["head.weight"] is evaluated["embed.weight"]
    module = programs["train"].module()
    assert module.get_parameter("head.weight") is module.get_parameter("embed.weight")


@pytest.mark.parametrize("name", MODELS)
def test_parameters_come_back_in_order_with_their_names_values_and_requires_grad(tmp_path: Path, name: str) -> None:
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
    model, inputs = _mlp().double(), _rows()
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
    write(tmp_path / "m.pt2", {"eval": program(_mlp().double().eval(), _rows())}, state, meta)
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
    write(tmp_path / "m.pt2", {"eval": program(_mlp().double().eval(), _rows())}, state, {})
    assert (tmp_path / "m.pt2").stat().st_size < 100_000
    assert torch.equal(read(tmp_path / "m.pt2").state["part"], state["part"])


def test_plain_torch_opens_the_file_as_the_inference_program_with_markers(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt2", "cut")
    code = (
        "import sys, torch, dni_fx\n"
        "loaded = torch.export.load(sys.argv[1])\n"
        "print([n.args[1] for n in loaded.graph.nodes if n.target is torch.ops.dni_fx.interface.default])\n"
        "print(loaded.module()(torch.ones(3, 4, dtype=torch.float64)).sum().item())\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    home = Path(dni_fx.__file__).parents[1]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    ours = read(path).programs["eval"].module()(torch.ones(3, 4, dtype=torch.float64)).sum().item()
    assert lines == ["['a']", str(ours)]


def test_anchors_and_stages_survive_the_file(tmp_path: Path) -> None:
    model = Cut().double()
    graph = captured(model)
    stages = {node.name: i for i, node in enumerate(graph.nodes)}
    exported = export_graph(shell(model), graph, _rows(), stage_of=stages).program
    write(tmp_path / "m.pt2", {"eval": exported}, {}, {})
    loaded = read(tmp_path / "m.pt2").programs["eval"]
    found = {node.meta["custom"][ANCHOR]: node.meta["custom"][STAGE] for node in loaded.graph.nodes if _is_op(node)}
    assert found == {node.meta["anchor"]: stages[node.name] for node in graph.nodes if "anchor" in node.meta}
    assert {"a", "dni.a", ":add", "b"} == set(found)


def _is_op(node: fx.Node) -> bool:
    return node.op == "call_function"


@pytest.mark.parametrize("training", [True, False])
def test_a_file_of_torch_says_in_which_mode_it_was_exported(tmp_path: Path, training: bool) -> None:
    model = Block().double().train(training)
    torch.export.save(torch.export.export(model, _images()), tmp_path / "m.pt2")
    archive = read(tmp_path / "m.pt2")
    assert (archive.state, archive.meta, archive.training) == ({}, {}, training)
    assert list(archive.programs) == ["train" if training else "eval"]
    (loaded,) = archive.programs.values()
    leaves = _images()
    assert same(run(loaded.module(), leaves), run(model, leaves))


def test_a_file_of_torch_without_modes_counts_as_inference(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(_mlp(), (torch.randn(2, 4),)), tmp_path / "m.pt2")
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


def _digest(archive: Archive) -> list[bytes]:
    tensors = {**state_of(archive.programs["eval"]), **state_of(archive.programs["train"]), **archive.state}
    graphs = [str(archive.programs[mode].graph) for mode in ("eval", "train")]
    return [t.detach().numpy().tobytes() for t in tensors.values()] + [json.dumps([graphs, archive.meta]).encode()]


def test_a_flipped_bit_is_reported_or_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt2")
    good, expected = path.read_bytes(), _digest(read(path))
    chance = random.Random(0)
    reported = 0
    for _ in range(60):
        position = chance.randrange(len(good))
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << chance.randrange(8)]) + good[position + 1 :])
        try:
            assert _digest(read(path)) == expected
        except FileError as error:
            assert str(path) in str(error)
            reported += 1
    assert reported > 30  # the others hit dates and padding between members


def test_a_damaged_weight_is_reported_by_its_member(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt2")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/weights/weight_1")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename)] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"CRC.*data/weights/weight_1"):
        read(path)


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_file_that_was_cut_short_is_reported(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "m.pt2")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match="cut short" if kept not in (0, 3) else "not a .pt2 file"):
        read(path)


def test_files_of_other_kinds_are_reported(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("not an archive")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt2")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(FileError, match="not a zip file"):
        read(tmp_path / "text.pt2")
    with pytest.raises(FileError, match="not of the .pt2 format"):
        read(tmp_path / "state.pt2")
    with pytest.raises(FileError, match="Is a directory"):
        read(tmp_path / "folder.pt2")
    with pytest.raises(FileError, match="No such file"):
        read(tmp_path / "missing.pt2")


def test_a_newer_version_is_refused_by_its_number(tmp_path: Path) -> None:
    def newer(content: bytes) -> bytes:
        return json.dumps(json.loads(content) | {"version": 7}).encode()

    path = rewrite(saved(tmp_path / "m.pt2"), {"extra/dni_fx.json": newer})
    with pytest.raises(FileError, match="version 7, newer than 1"):
        read(path)


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    path = rewrite(saved(tmp_path / "m.pt2"), {"data/weights/train_weights_config.json": lambda _: None})
    with pytest.raises(FileError, match="no data/weights/train_weights_config.json"):
        read(path)


@pytest.mark.parametrize(
    ("field", "value"), [("sizes", [{"as_int": 99}]), ("storage_offset", {"as_int": 10**9}), ("dtype", 77)]
)
def test_a_tensor_that_reaches_out_of_its_memory_is_reported(tmp_path: Path, field: str, value: Any) -> None:
    def reach(content: bytes) -> bytes:
        table = json.loads(content)
        table["config"]["0.bias"]["tensor_meta"][field] = value
        return json.dumps(table).encode()

    path = rewrite(saved(tmp_path / "m.pt2"), {"data/weights/model_weights_config.json": reach})
    with pytest.raises(FileError, match="model_weights_config.json does not fit the file"):
        read(path)


def _failing(path: Path) -> None:
    sparse = {"table": torch.eye(3).to_sparse()}
    write(path, {"eval": program(_mlp().double().eval(), _rows())}, sparse, {})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(b"precious")
    with pytest.raises(FileError, match="cannot write the tensor table"):
        _failing(path)
    with pytest.raises(FileError, match="not JSON serializable"):
        write(path, {"eval": program(_mlp().double().eval(), _rows())}, {}, {"plan": object()})
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["m.pt2"]


def test_a_path_that_cannot_be_written_is_reported_with_the_reason(tmp_path: Path) -> None:
    programs = {"eval": program(_mlp().double().eval(), _rows())}
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*missing/m.pt2: No such file"):
        write(tmp_path / "missing" / "m.pt2", programs, {}, {})
    with pytest.raises(FileError, match=r"cannot write .*file/m.pt2: Not a directory"):
        write(tmp_path / "file" / "m.pt2", programs, {}, {})
    with pytest.raises(FileError, match=r"cannot write .*folder.pt2: Is a directory"):
        write(tmp_path / "folder.pt2", programs, {}, {})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.pt2"]


def test_a_file_that_is_replaced_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "m.pt2", tmp_path / "latest.pt2"
    path.write_bytes(b"")
    path.chmod(0o640)
    link.symlink_to(path)
    write(link, {"eval": program(_mlp().double().eval(), _rows())}, {}, {"n": 2})
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert read(path).meta == {"n": 2}


def test_the_file_tells_nothing_of_the_disk_it_was_written_on(tmp_path: Path) -> None:
    content = saved(tmp_path / "m.pt2").read_bytes()
    assert b"site-packages" not in content
    assert os.fspath(Path(__file__).parent).encode() not in content


def test_plain_torch_loads_weights_that_are_not_contiguous(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).double().to(memory_format=torch.channels_last).eval()
    write(tmp_path / "m.pt2", {"eval": program(model, _images())}, {}, {})
    for loaded in (torch.export.load(tmp_path / "m.pt2"), read(tmp_path / "m.pt2").programs["eval"]):
        assert torch.equal(loaded.state_dict["weight"], model.weight)
        assert loaded.state_dict["weight"].stride() == model.weight.stride()


def test_export_that_cannot_be_says_why(tmp_path: Path) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    item = graph.call_function(bool, (x,))
    graph.output((graph.call_function(torch.mul, (x, item)),))
    set_anchors(graph)
    with pytest.raises(ExportError, match="cannot export the graph"):
        export_graph(nn.Module(), graph, (torch.ones(2),), stage_of={node.name: 0 for node in graph.nodes})


def test_inputs_that_do_not_unpickle_safely_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (os.fspath(tmp_path / "bomb"),)

    buffer = io.BytesIO()
    torch.save(((torch.ones(2), Bomb()), {}), buffer)
    path = rewrite(saved(tmp_path / "m.pt2"), {"data/sample_inputs/model.pt": lambda _: buffer.getvalue()})
    with pytest.raises(FileError, match="can run code"):
        read(path)
    assert not (tmp_path / "bomb").exists()
