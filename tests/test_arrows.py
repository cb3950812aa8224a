"""What importing costs, what it drags in, and what is there to import."""

import subprocess
import sys

import pytest

import dni_fx

SCRIPT = """
import sys
import {package}
print(*sorted(name for name in {heavy!r} if name in sys.modules))
"""
HEAVY = (
    "onnx",
    "onnxscript",
    "onnx_ir",
    "onnxruntime",
    "transformers",
    "typer",
    "sklearn",
    "rich",
    "matplotlib",
    "tensorboard",
)


@pytest.mark.parametrize(
    ("package", "may_not_load"),
    [
        ("passes", ("dni_fx", *HEAVY)),
        ("dni_fx", HEAVY),
        ("dni_fx.integrations", (*HEAVY, "torch.distributed.pipelining")),
        ("dni_fx.integrations.pipelining", HEAVY),
        ("dni_fx.verbs", tuple({*HEAVY} - {"rich"})),
        ("dni_fx.device", HEAVY),
        ("dni_fx.exporters.onnx, dni_fx.exporters.onnx_stages", tuple(n for n in HEAVY if "onnx" in n)),
    ],
)
def test_imports_stay_light(package, may_not_load):
    script = SCRIPT.format(package=package, heavy=may_not_load)
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


DOCUMENTED = [
    "Callback",
    "Decoupled",
    "DniError",
    "GraphError",
    "Interface",
    "Link",
    "Plan",
    "Program",
    "Trainer",
    "accuracy",
    "boundaries",
    "capture",
    "decouple",
    "decouple_",
    "diagnose",
    "evaluate",
    "export",
    "export_training",
    "from_pretrained",
    "load",
    "load_program",
    "parameter_groups",
    "plan",
    "recouple",
    "save",
    "save_interfaces",
    "stages",
    "train",
    "verify",
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_name_is_there(name):
    assert getattr(dni_fx, name).__name__ == name
    assert name in dir(dni_fx)


def test_no_other_name_is_offered():
    assert sorted(dni_fx.__all__) == DOCUMENTED


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'dni_fx' has no attribute 'decuple'$"):
        dni_fx.decuple  # noqa: B018


def test_a_package_of_the_same_name_that_comes_first_is_named(tmp_path):
    (tmp_path / "passes.py").write_text("")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dni_fx"
    failed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert failed.stderr.splitlines()[-1] == (
        "ImportError: dni_fx needs its own package `passes`, and another one comes first on the path: "
        f"{tmp_path / 'passes.py'}. Rename that one, or run from another folder."
    )
