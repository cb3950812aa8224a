from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_fx.archive import read, write
from dni_fx.errors import FileError
from dni_fx.members import read_members
from dni_fx.operators import _missing
from dni_fx.vetting import vet_program

_WHERE = "m.pt2"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), x]).relu()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of a good file that torch.export.save wrote."""
    path = tmp_path_factory.mktemp("saved") / "m.pt2"
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(Net(), (torch.randn(2, 4),), dynamic_shapes=dynamic), path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def graph(saved: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(saved["models/model.json"])


def put(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def changed(members: dict[str, bytes], name: str, change: Callable[[Any], object]) -> dict[str, bytes]:
    content = json.loads(members[name])
    change(content)
    return members | {name: json.dumps(content).encode()}


def sizes(program: Any) -> Iterator[dict[str, Any]]:
    for meta in program["graph_module"]["graph"]["tensor_values"].values():
        yield from (size["as_expr"] for size in meta["sizes"] if "as_expr" in size)


def refusal(program: dict[str, Any], **options: Any) -> str:
    with pytest.raises(FileError, match=_WHERE) as caught:
        vet_program(json.dumps(program).encode(), _WHERE, **options)
    return str(caught.value)


def test_a_good_program_passes_without_guards_or_paths_and_else_unchanged(graph: dict[str, Any]) -> None:
    graph["guards_code"] = ["__import__('os').abort()"]
    vetted = json.loads(vet_program(json.dumps(graph).encode(), _WHERE))
    assert vetted["guards_code"] == []
    assert "stack_trace" not in json.dumps(vetted)
    for program in (vetted, graph):
        program["guards_code"] = []
        for node in program["graph_module"]["graph"]["nodes"]:
            assert node.pop("metadata")
    assert vetted == graph


def test_an_expression_that_would_write_to_disk_is_refused_and_writes_nothing(
    tmp_path: Path, saved: dict[str, bytes]
) -> None:
    trap = tmp_path / "trap"

    def edit(program: Any) -> None:
        next(sizes(program))["expr_str"] = f"__import__('os').mkdir({os.fspath(trap)!r}) or Symbol('s0')"

    path = put(tmp_path / "m.pt2", changed(saved, "models/model.json", edit))
    # The trap is a real one: plain torch falls into it.
    with suppress(Exception):
        torch.export.load(path)
    trap.rmdir()
    with pytest.raises(FileError, match="refused to load"):
        read(path)
    assert not trap.exists()


def test_all_problems_of_a_program_are_listed_at_once(graph: dict[str, Any]) -> None:
    nodes = graph["graph_module"]["graph"]["nodes"]
    nodes[0]["target"] = "torch.os.system"
    nodes[1]["name"] = "x = __import__('os')"
    next(sizes(graph))["expr_str"] = "exit()"
    graph["range_constraints"]["u99999999999"] = {"min_val": 0, "max_val": 1}
    text = refusal(graph)
    assert text.count("\n  * ") == 4
    for part in (
        "torch.os.system",
        "cannot be the name of a value",
        "exit is not arithmetic",
        "u99999999999",
    ):
        assert part in text


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.mro",
        "torch.ops.prim.Print.default",
        "torch.ops.debugprims.load_tensor.default",
        "torch.ops.higher_order.call_torchbind",
        "_operator.methodcaller",
        "math.factorial",
        "#registry.op",
        "builtins.eval",
    ],
)
def test_a_target_that_is_not_a_harmless_operator_is_refused(graph: dict[str, Any], target: str) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = target
    assert f"target '{target}'" in refusal(graph)


def test_an_operator_of_another_library_needs_trust(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mylib.scan.default"
    assert "'mylib'" in refusal(graph)
    assert "'mylib'" in refusal(graph, trusted=("otherlib",))
    assert "no such operator" in refusal(graph, trusted=("mylib",))
    with torch.library._scoped_library("mylib", "DEF") as library:
        library.define("scan(Tensor x) -> Tensor")
        _missing.cache_clear()
        assert vet_program(json.dumps(graph).encode(), _WHERE, trusted=("mylib",))
    _missing.cache_clear()


@pytest.mark.parametrize("name", ["a b", "a\nimport os", "class", "a.b", "ä", "f()", 'x"'])
def test_names_that_cannot_stand_in_source_are_refused(graph: dict[str, Any], name: str) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = [name]
    assert "forward_arg_names" in refusal(graph)
    signature["forward_arg_names"] = ["x"]
    graph["graph_module"]["graph"]["tensor_values"][name] = {}
    assert "tensor_values" in refusal(graph)


def test_a_parameter_name_that_would_end_a_string_is_refused(graph: dict[str, Any]) -> None:
    spec = graph["graph_module"]["signature"]["input_specs"][0]["parameter"]
    spec["parameter_name"] = 'a"); import os; ("'
    assert "parameter_name" in refusal(graph)
    spec["parameter_name"] = "layers.0.conv-1 weight"  # odd, but a module may be called so
    assert vet_program(json.dumps(graph).encode(), _WHERE)


def test_trees_that_import_are_refused(graph: dict[str, Any]) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    factory = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
    signature["out_spec"] = json.dumps(
        [1, {"type": "collections.defaultdict", "context": factory, "children_spec": []}]
    )
    assert "names Python objects to import" in refusal(graph)


def test_keywords_of_the_call_that_are_not_names_are_refused(graph: dict[str, Any]) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    version, tree = json.loads(signature["in_spec"])
    leaf = {"type": None, "context": None, "children_spec": []}
    tree["children_spec"][1] |= {"context": json.dumps(["x=exit()"]), "children_spec": [leaf]}
    signature["in_spec"] = json.dumps([version, tree])
    assert "in_spec" in refusal(graph)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"a": 1}', b"[" * 100_000, b"\xff\xfe"])
def test_json_of_something_else_is_reported(text: bytes) -> None:
    with pytest.raises(FileError, match="not the JSON of a program"):
        vet_program(text, _WHERE)


def test_a_pickled_weight_is_refused_and_not_unpickled(tmp_path: Path, saved: dict[str, bytes]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (os.fspath(tmp_path / "bomb"),)

    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)

    def edit(table: Any) -> None:
        table["config"]["body.bias"] |= {"use_pickle": True}
        table["config"]["body.bias"]["path_name"] = "weight_9"

    table = "data/weights/model_weights_config.json"
    members = changed(saved, table, edit) | {"data/weights/weight_9": buffer.getvalue()}
    with pytest.raises(FileError, match=r"weight_9 is pickled"):
        read(put(tmp_path / "m.pt2", members))
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    "name", ["data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/weights/model.pt"]
)
def test_pickled_members_are_refused_by_name(tmp_path: Path, saved: dict[str, bytes], name: str) -> None:
    path = put(tmp_path / "m.pt2", saved | {name: pickle.dumps(1)})
    with pytest.raises(FileError, match=f"{name} is a pickled object"):
        read_members(path)


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/a.so", "data/weights/../../x", "code.py", "/etc/passwd"]
)
def test_members_that_have_no_place_are_refused(tmp_path: Path, saved: dict[str, bytes], name: str) -> None:
    path = put(tmp_path / "m.pt2", saved | {name: b""})
    with pytest.raises(FileError, match=f"{name} has no place"):
        read_members(path)


def test_compressed_and_repeated_members_are_refused(tmp_path: Path, saved: dict[str, bytes]) -> None:
    with pytest.raises(FileError, match="compressed"):
        read_members(put(tmp_path / "m.pt2", saved, compression=zipfile.ZIP_DEFLATED))
    path = put(tmp_path / "m.pt2", saved)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", b"big")
    with pytest.raises(FileError, match="a member is there twice"):
        read_members(path)


def test_an_archive_of_another_version_or_byte_order_is_refused(
    tmp_path: Path, saved: dict[str, bytes]
) -> None:
    with pytest.raises(FileError, match="archive version 5"):
        read(put(tmp_path / "m.pt2", saved | {"archive_version": b"5"}))
    with pytest.raises(FileError, match="little-endian"):
        read(put(tmp_path / "m.pt2", saved | {"byteorder": b"big"}))


def test_a_program_of_a_newer_schema_is_refused_with_the_reason(
    tmp_path: Path, saved: dict[str, bytes]
) -> None:
    def edit(program: Any) -> None:
        program["schema_version"]["major"] = 99

    with pytest.raises(FileError, match=r"cannot rebuild program 'model'.*99"):
        read(put(tmp_path / "m.pt2", changed(saved, "models/model.json", edit)))


def test_a_file_with_several_programs_of_others_is_refused(tmp_path: Path, saved: dict[str, bytes]) -> None:
    second = {name.replace("model", "other"): saved[name] for name in saved if "model" in name}
    second = {name.replace("others/", "models/"): content for name, content in second.items()}
    with pytest.raises(FileError, match="holds 2 programs"):
        read(put(tmp_path / "m.pt2", saved | second))


def test_members_are_what_was_written(tmp_path: Path, saved: dict[str, bytes]) -> None:
    assert read_members(put(tmp_path / "m.pt2", saved)) == saved


def test_what_is_written_is_vetted_like_any_file(tmp_path: Path) -> None:
    program = torch.export.export(Net(), (torch.randn(2, 4),))
    write(tmp_path / "m.pt2", {"eval": program}, {}, {})
    (text,) = (
        content for name, content in read_members(tmp_path / "m.pt2").items() if name == "models/model.json"
    )
    assert vet_program(text, _WHERE) == bytes(text)


def test_values_may_have_the_names_of_what_is_looked_for(tmp_path: Path) -> None:
    class Named(nn.Module):
        def forward(self, target: Tensor, metadata: Tensor, expr_str: Tensor, custom_obj: Tensor) -> Tensor:
            return target + metadata * expr_str - custom_obj

    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Named(), (torch.ones(2),) * 4), path)
    vetted = json.loads(vet_program(read_members(path)["models/model.json"], _WHERE))
    assert vetted["graph_module"]["graph"]["tensor_values"].keys() >= {"target", "metadata", "expr_str"}
