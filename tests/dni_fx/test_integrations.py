"""Without the package that a callback is for, its import says what to install."""

import importlib.util
import sys
from pathlib import Path

import pytest

import dni_fx

FOLDER = Path(dni_fx.__file__).parent / "integrations"
OURS = {"__init__", "parcels", "pipelining", "stage_end", "watched"}
"""Files that need no package but torch."""
MISSING = {
    "lightning": ("lightning", "lightning.pytorch", "pytorch_lightning"),
    "transformers": ("transformers",),
}


def imported_anew(name):
    spec = importlib.util.spec_from_file_location(f"anew_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


@pytest.mark.parametrize("name", sorted(MISSING))
def test_what_is_missing_is_named_by_its_extra(name, monkeypatch):
    for package in MISSING[name]:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'dni-fx\[{name}\]'"):
        imported_anew(name)


def test_there_is_a_case_for_each_package():
    files = {path.stem for path in FOLDER.glob("*.py")} - OURS
    assert files == MISSING.keys()
    extras = (FOLDER.parents[1] / "pyproject.toml").read_text("utf-8")
    assert all(f"\n{name} = [" in extras for name in files)
