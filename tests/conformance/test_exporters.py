"""What every registered exporter keeps, whatever it writes."""

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


def test_it_is_named_as_it_is_registered(name: str) -> None:
    assert EXPORTERS.get(name).name == name


def test_its_text_form_and_parse_are_inverse(name: str) -> None:
    exporter = EXPORTERS.get(name)()
    assert parse(str(exporter), EXPORTERS) == exporter


def test_it_reports_the_files_that_are_there_and_leaves_no_others(name: str, tmp_path: Path) -> None:
    written = EXPORTERS.get(name)().write(program(), tmp_path / "model.out")
    assert written.files[0] == written.path == tmp_path / "model.out"
    assert sorted(tmp_path.iterdir()) == sorted(written.files)
    assert str(written.path) in str(written)


def test_it_shows_every_boundary_by_name(name: str, tmp_path: Path) -> None:
    written = EXPORTERS.get(name)().write(program(Marker("end")), tmp_path / "model.out")
    assert written.interfaces == ("middle", "end")


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
    EXPORTERS.get(name)().write(program(), path)
    first = path.read_bytes()
    EXPORTERS.get(name)().write(program(nn.Linear(3, 2)), path)
    assert path.read_bytes() != first
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_an_existing_file_untouched(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.out"
    path.write_bytes(b"before")
    with pytest.raises(DniError):
        EXPORTERS.get(name)().write(program(nn.Dropout(0.5), training=True), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no folder .*nowhere"):
        EXPORTERS.get(name)().write(program(), tmp_path / "nowhere" / "model.out")


def test_a_folder_is_no_place_for_a_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="it is a folder"):
        EXPORTERS.get(name)().write(program(), tmp_path)
    assert not list(tmp_path.iterdir())
