"""What every registered exporter keeps, whatever it writes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from dni_fx.errors import DniError, FileError
from dni_fx.exporters import EXPORTERS
from dni_fx.marker import Marker
from passes import parse

pytestmark = pytest.mark.parametrize("name", sorted(EXPORTERS))


def program(*layers: nn.Module, training: bool = False) -> torch.export.ExportedProgram:
    model = nn.Sequential(nn.Linear(4, 8), Marker("middle"), nn.ReLU(), nn.Linear(8, 3), *layers)
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(model.train(training), (torch.randn(2, 4),), dynamic_shapes=shapes)


def contents(folder: Path) -> Mapping[Path, bytes]:
    """All files below a folder, and what they hold."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_named_as_it_is_registered(name: str) -> None:
    assert EXPORTERS.get(name).name == name


def test_its_text_form_and_parse_are_inverse(name: str) -> None:
    exporter = EXPORTERS.get(name)()
    assert parse(str(exporter), EXPORTERS) == exporter


def test_it_reports_the_files_that_are_there_and_leaves_no_others(name: str, tmp_path: Path) -> None:
    written = EXPORTERS.get(name)().write(program(), tmp_path / "model.out")
    assert written.path == tmp_path / "model.out"
    assert list(tmp_path.iterdir()) == [written.path]
    assert written.files[0] == written.path or written.files[0].parent == written.path
    assert sorted(contents(tmp_path)) == sorted(written.files)
    assert str(written.path) in str(written)


def test_it_shows_every_boundary_by_name(name: str, tmp_path: Path) -> None:
    written = EXPORTERS.get(name)().write(program(Marker("end")), tmp_path / "model.out")
    assert written.interfaces == ("middle", "end")


def test_no_file_tells_of_the_machine_that_wrote_it(name: str, tmp_path: Path) -> None:
    EXPORTERS.get(name)().write(program(), tmp_path / "model.out")
    places = {str(Path(__file__).parents[2]), str(Path(torch.__file__).parents[1]), str(tmp_path)}
    for content in contents(tmp_path).values():
        assert not [place for place in places if place.encode() in content]


def test_writing_changes_nothing_of_the_program_and_draws_no_random_numbers(
    name: str, tmp_path: Path
) -> None:
    given = program()
    graph, state = str(given.graph), {key: value.clone() for key, value in given.state_dict.items()}
    random = torch.get_rng_state()
    EXPORTERS.get(name)().write(given, tmp_path / "model.out")
    assert str(given.graph) == graph
    assert all(torch.equal(given.state_dict[key], value) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_second_export_replaces_the_first(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.out"
    EXPORTERS.get(name)().write(program(Marker("end"), nn.Linear(3, 3)), path)
    first = contents(tmp_path)
    written = EXPORTERS.get(name)().write(program(), path)
    assert contents(tmp_path) != first
    assert sorted(contents(tmp_path)) == sorted(written.files)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_written_before_untouched(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.out"
    EXPORTERS.get(name)().write(program(), path)
    before = contents(tmp_path)
    with pytest.raises(DniError):
        EXPORTERS.get(name)().write(program(nn.Dropout(0.5), training=True), path)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named_before_any_work(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "model.out"
    for use in (EXPORTERS.get(name)().check_place, lambda path: EXPORTERS.get(name)().write(program(), path)):
        with pytest.raises(FileError, match=r"no folder .*nowhere"):
            use(path)


def test_a_folder_with_files_of_others_is_never_replaced(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.out"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    for use in (EXPORTERS.get(name)().check_place, lambda path: EXPORTERS.get(name)().write(program(), path)):
        with pytest.raises(FileError, match=r"model\.out.* folder"):
            use(path)
    assert contents(tmp_path) == {path / "notes.txt": b"mine"}
