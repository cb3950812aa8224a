"""Files that were damaged or made to do harm are refused in one sentence, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import dni_fx
from dni_fx.cli import app
from tests.hostile import contents, graphs, zips
from tests.hostile.cases import all_cases, plant_module
from tests.hostile.contents import Bomb
from tests.hostile.good import Cases, edited, good_file, members, put, with_member
from tests.hostile.headers import HEADERS
from tests.hostile.watch import watched

REFUSAL = (dni_fx.DniError, dni_fx.GraphError)
FAMILIES: dict[str, Callable[[Path], Cases]] = {
    "archives": lambda _: _chained(
        *(zips.cut_short, zips.flipped, zips.shuffled, zips.misplaced, zips.lying, zips.other_kinds)
    ),
    "operators and sizes": lambda _: _chained(graphs.targets, graphs.expressions, graphs.arguments),
    "names and trees": lambda _: _chained(graphs.names, graphs.trees),
    "graphs": lambda _: _chained(graphs.shapes),
    "tables": lambda _: _chained(contents.tables),
    "descriptions": lambda _: _chained(contents.descriptions),
    "example inputs": contents.example_inputs,
}


def _chained(*families: Callable[[], Cases]) -> Cases:
    for family in families:
        yield from family()


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What would be there if anything in a file were run."""
    path = tmp_path / "canary"
    monkeypatch.syspath_prepend(plant_module(path))
    return path


def _wrong(path: Path, canary: Path, name: str, content: bytes) -> list[str]:
    """What reading a hostile file did, but for refusing it in a few lines that name it."""
    path.write_bytes(content)
    before = {each.name for each in path.parent.iterdir()}
    found: list[str] = []
    with watched() as seen:
        try:
            dni_fx.load(path)
            found.append(f"{name}: it was loaded")
        except REFUSAL as error:
            said = str(error)
            if path.name not in said or len(said) > 8_000 or "Traceback" in said:
                found.append(f"{name}: {said[:300]}")
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
    found += [f"{name}: {each}" for each in seen]
    if path.read_bytes() != content or {each.name for each in path.parent.iterdir()} != before:
        found.append(f"{name}: it left something behind")
    return found + ([f"{name}: the canary is there"] if canary.exists() else [])


@pytest.mark.parametrize("family", FAMILIES)
def test_hostile_files_are_refused_and_nothing_is_run(tmp_path: Path, canary: Path, family: str) -> None:
    cases = list(FAMILIES[family](canary))
    wrong = [each for name, content in cases for each in _wrong(tmp_path / "file.pt2", canary, name, content)]
    assert not wrong, "\n".join(wrong)


def test_there_are_hundreds_of_them_and_the_good_one_is_read(tmp_path: Path, canary: Path) -> None:
    assert sum(1 for _ in all_cases(canary)) > 400
    (tmp_path / "good.pt2").write_bytes(good_file())
    with watched() as seen:
        assert dni_fx.boundaries(dni_fx.load(tmp_path / "good.pt2"))
    assert not seen


def test_traps_are_real(tmp_path: Path, canary: Path) -> None:
    """Plain torch falls into one of each kind, so that being watched and refused means something."""
    bomb = tmp_path / "bomb.pt"
    bomb.write_bytes(pickle.dumps(Bomb(canary)))
    for content in [
        edited(graphs.GRAPH, lambda g: graphs._first_size(g).update(expr_str=f"{graphs._IMPORT}.Kind")),
        next(content for name, content in graphs.trees() if name.startswith("a hidden enumeration in graph")),
        bomb.read_bytes(),
    ]:
        path = tmp_path / "trap"
        path.write_bytes(content)
        sys.modules.pop(graphs.CANARY, None)
        with watched() as seen, pytest.MonkeyPatch.context():
            try:
                torch.export.load(path)
            except Exception:
                with path.open("rb") as file:
                    if content[:2] != b"PK":
                        pickle.load(file)
        assert canary.exists()
        assert seen
        canary.rmdir()


def test_guards_are_dropped_and_never_compiled(tmp_path: Path, canary: Path) -> None:
    guards = [f"__import__('{graphs.CANARY}')"]
    (tmp_path / "file.pt2").write_bytes(edited(graphs.GRAPH, lambda g: put(g, "guards_code", guards)))
    with watched() as seen:
        cut = dni_fx.load(tmp_path / "file.pt2")
        cut(torch.randn(3, 4)).sum().backward()
    assert not canary.exists()
    assert not seen


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt2")
    for path in (tmp_path / "pipe.pt2", Path("/dev/zero"), tmp_path, tmp_path / "nothing.pt2"):
        with pytest.raises(dni_fx.DniError, match="cannot read"):
            dni_fx.load(path)


def _refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 1, (arguments, result.output)
    assert not result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_command_line_says_one_message_and_ends_with_1(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = dict(all_cases(canary))
    for name in list(cases)[::20]:
        (tmp_path / "file.pt2").write_bytes(cases[name])
        assert "file.pt2" in _refused("verify", "file.pt2").replace("\n", ""), name
    assert not canary.exists()


def test_hostile_weights_are_refused_by_the_command_line(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    files = {f"{at}.safetensors": content for at, content in enumerate(HEADERS.values())}
    files["plain.pt"] = pickle.dumps(Bomb(canary))
    torch.save({"0.weight": Bomb(canary)}, tmp_path / "inner.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    files["cut.pt"] = (tmp_path / "inner.pt").read_bytes()[:300]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "inner.pt", "list.pt"]:
        with watched() as seen:
            said = _refused("inspect", "dni_fx.demo:mlp", "--weights", name)
        assert name in said.replace("\n", ""), name
        assert not [each for each in seen if "canary" in each]
    assert not canary.exists()


def test_a_pickled_module_is_unpickled_only_when_asked_to(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Bomb(canary)))
    assert "refused to unpickle" in " ".join(_refused("inspect", "model.pt").split())
    assert not canary.exists()


def test_nothing_is_left_of_a_member_that_is_not_read(tmp_path: Path) -> None:
    """Extra files of others stay allowed, and say nothing."""
    contents = members()
    (tmp_path / "file.pt2").write_bytes(with_member("extra/notes.txt", b"hello"))
    assert "extra/notes.txt" not in contents
    assert dni_fx.boundaries(dni_fx.load(tmp_path / "file.pt2"))
