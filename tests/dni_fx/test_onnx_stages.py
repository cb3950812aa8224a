import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni_fx
from dni_fx.errors import ExportError, FileError
from dni_fx.exporters import onnx as one_file
from dni_fx.exporters import onnx_stages
from dni_fx.exporters.base import Written
from dni_fx.exporters.chain import Chain
from dni_fx.exporters.onnx_stages import OnnxStages

TOLERANCE = 1e-5  # two libraries sum in different orders


class Reader(nn.Module):
    """Two inputs of integers, a mask that crosses, a size, a tied weight, and outputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2000, 6)  # the optimizer folds small weights into what it makes of them
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Any]:
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        x = self.first(self.embed(tokens)).tanh() * mask[..., None]
        start = self.bias.expand(x.shape[0], 6)
        y = self.second(x).tanh() * mask[..., None]
        logits = F.linear(y + start[:, None], self.embed.weight)
        return {"logits": logits, "hidden": (x, y), "mask": mask, "cache": None, "tokens": tokens, "kind": 3}


def tokens(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 11, (batch, 5)), torch.arange(batch) % 5 + 1


def cut_reader() -> dni_fx.Decoupled:
    torch.manual_seed(0)
    plan = "at:after=first+second"
    return dni_fx.decouple(Reader(), tokens(3), plan=plan, synthesizer="zero")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dni_fx.Decoupled, Written]:
    cut = cut_reader()
    return cut, dni_fx.export(cut, tmp_path_factory.mktemp("stages") / "reader", exporter="onnx-stages")


@pytest.fixture
def manifest(exported: tuple[dni_fx.Decoupled, Written]) -> dict[str, Any]:
    return json.loads(exported[1].files[0].read_text())


def arrays(*inputs: Tensor) -> dict[str, Any]:
    return dict(zip(("tokens", "lengths"), (each.numpy() for each in inputs), strict=False))


def cut_mlp() -> dni_fx.Decoupled:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return dni_fx.decouple(model, (torch.randn(2, 4),), plan="at:after=1", synthesizer="zero")


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_chain_computes_what_the_model_does_at_any_batch_size(
    batch: int, exported: tuple[dni_fx.Decoupled, Written]
) -> None:
    cut, written = exported
    inputs = tokens(batch)
    with torch.no_grad():
        expected = dni_fx.recouple(cut).eval()(*inputs)
    found = Chain(written.path).run(arrays(*inputs))
    assert list(found) == ["logits", "hidden_0", "hidden_1", "mask", "tokens_out"]
    wanted = [expected["logits"], *expected["hidden"], expected["mask"], expected["tokens"]]
    for got, want in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(torch.as_tensor(got), want, rtol=TOLERANCE, atol=TOLERANCE)


def test_each_stage_reads_inputs_and_what_stages_before_it_write(manifest: dict[str, Any]) -> None:
    known = {("input", value["name"]) for value in manifest["inputs"]}
    for stage in manifest["stages"]:
        assert {(value["from"], value["name"]) for value in stage["inputs"]} <= known
        known |= {(stage["stage"], value["name"]) for value in stage["outputs"]}
    assert {(value["from"], value["name"]) for value in manifest["outputs"]} <= known
    assert manifest["constants"] == {"kind": 3}


def test_what_crosses_with_a_gradient_is_named_as_its_boundary_and_the_rest_crosses_plainly(
    exported: tuple[dni_fx.Decoupled, Written], manifest: dict[str, Any]
) -> None:
    cut, written = exported
    sent = [value for stage in manifest["stages"] for value in stage["outputs"] if value["to"]]
    crossing = {value["name"]: value["boundary"] for value in sent if value["boundary"]}
    assert crossing.keys() == set(crossing.values()) == dni_fx.boundaries(cut).keys() == {*written.interfaces}
    # The mask is all that crosses plainly, as numbers to multiply by.
    plain = [value for value in sent if not value["boundary"]]
    assert [(value["shape"], value["to"]) for value in plain] == [(["batch", 5, 1], [2])]


def test_a_tied_weight_is_in_the_file_of_each_stage_that_reads_it_and_the_manifest_says_so(
    exported: tuple[dni_fx.Decoupled, Written], manifest: dict[str, Any]
) -> None:
    holders = [
        stage["stage"]
        for stage in manifest["stages"]
        if "embed.weight" in {w.name for w in onnx.load(exported[1].path / stage["file"]).graph.initializer}
    ]
    assert manifest["shared"] == {"embed.weight": holders}
    assert len(holders) == 2


def test_each_file_is_valid_and_its_nodes_tell_its_stage_and_their_modules(
    exported: tuple[dni_fx.Decoupled, Written], manifest: dict[str, Any]
) -> None:
    for stage in manifest["stages"]:
        path = exported[1].path / stage["file"]
        onnx.checker.check_model(str(path), full_check=True)
        graph = onnx.load(path).graph
        assert [value.name for value in graph.input] == [value["name"] for value in stage["inputs"]]
        assert [value.name for value in graph.output] == [value["name"] for value in stage["outputs"]]
        names = [node.name for node in graph.node]
        assert len(set(names)) == len(names)
        props = [{each.key: each.value for each in node.metadata_props} for node in graph.node]
        assert {each["dni_fx.stage"] for each in props if "dni_fx.stage" in each} == {str(stage["stage"])}
        modules = {each["dni_fx.module"] for each in props if "dni_fx.module" in each}
        assert modules <= {"embed", "first", "second"}
        assert all(
            node.name.startswith((f"{each.get('dni_fx.module', node.op_type)}", "dni."))
            for node, each in zip(graph.node, props, strict=True)
        )


def test_without_interfaces_all_nodes_are_plain(tmp_path: Path) -> None:
    written = dni_fx.export(cut_mlp(), tmp_path / "m", exporter="onnx-stages:keep_interfaces=false")
    assert written.interfaces == ()
    for path in written.files[1:]:
        assert {node.domain for node in onnx.load(path).graph.node} == {""}
        assert not onnx.load(path).functions


def test_weights_over_the_limit_lie_beside_their_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_file, "_WEIGHTS_INSIDE", 0)
    written = dni_fx.export(cut_mlp(), tmp_path / "m", exporter="onnx-stages")
    names = [path.name for path in written.files]
    stages = [f"stage_{at}.onnx{end}" for at in (0, 1) for end in ("", ".data")]
    assert names == ["manifest.json", *stages]
    assert Chain(written.path).run({"input_1": np.ones((5, 4), np.float32)})["output"].shape == (5, 3)


def test_a_stage_that_computes_something_else_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnx_stages.split

    def altered(translation: Any) -> Any:
        pieces = whole(translation)
        weights = pieces[1].model.graph.initializers
        name = next(iter(weights))
        weights[name].const_value = _more(weights[name].const_value)
        return pieces

    monkeypatch.setattr(onnx_stages, "split", altered)
    with pytest.raises(ExportError, match=r"stage 1: output 'output' in the file is off by"):
        dni_fx.export(cut_mlp(), tmp_path / "m", exporter="onnx-stages")
    assert not list(tmp_path.iterdir())


def _more(tensor: Any) -> Any:
    import onnx_ir

    return onnx_ir.tensor(tensor.numpy() + 1, name=tensor.name)


def test_carried_state_is_an_input_and_an_output(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            state = torch.tanh(self.inner(x) + state)
            return self.out(state), state

    example = torch.randn(3, 4), torch.zeros(3, 4)
    plan = "at:after=inner"
    cut = dni_fx.decouple(Counter(), example, plan=plan, synthesizer="zero", carry={"state": 1})
    written = dni_fx.export(cut, tmp_path / "m", exporter="onnx-stages")
    found = Chain(written.path).run({"x": example[0].numpy(), "state": example[1].numpy()})
    want = dni_fx.recouple(cut).eval()(*example)
    for got, each in zip(found.values(), want, strict=True):
        torch.testing.assert_close(torch.as_tensor(got), each.detach(), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_layer_that_is_cut_in_time_is_whole_in_its_file(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.core(x)[0])

    x = torch.randn(2, 6, 3)
    cut = dni_fx.decouple(Net(), (x,), plan="time:every=3", synthesizer="zero")
    written = dni_fx.export(cut, tmp_path / "m", exporter="onnx-stages")
    (found,) = Chain(written.path).run({"x": x.numpy()}).values()
    want = dni_fx.recouple(cut).eval()(x).detach()
    torch.testing.assert_close(torch.as_tensor(found), want, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_move_that_fails_puts_back_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    dni_fx.export(cut_mlp(), path, exporter="onnx-stages")
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(FileError, match=r"cannot write .*m: .*Permission denied"):
        dni_fx.export(cut_mlp(), path, exporter="onnx-stages")
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_places_that_are_no_folder_of_stages_are_refused(tmp_path: Path) -> None:
    exporter = OnnxStages()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="it is a file, and stages are written to a folder"):
        exporter.check_place(tmp_path / "file")
    ours = dni_fx.export(cut_mlp(), tmp_path / "ours", exporter="onnx-stages").path
    exporter.check_place(ours)
    (tmp_path / "empty").mkdir()
    exporter.check_place(tmp_path / "empty")
    (ours / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match=r"it holds notes\.txt, which no export wrote"):
        exporter.check_place(ours)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    dni_fx.export(cut_mlp(), tmp_path / "link", exporter="onnx-stages")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "manifest.json").is_file()


def test_functional_layers_are_named_by_the_module_around_them(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.gelu(self.a(x)))

    cut = dni_fx.decouple(Net(), (torch.randn(2, 4),), plan="at:after=a", synthesizer="zero")
    written = dni_fx.export(cut, tmp_path / "m", exporter="onnx-stages")
    names = [[node.name for node in onnx.load(path).graph.node] for path in written.files[1:]]
    assert names[0] == ["a/Gemm", "dni.a"]
    assert names[1][-1] == "b/Gemm"
