"""What the command line answers before torch is there, and what it runs on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dni_fx
from dni_fx import describe
from dni_fx.cli.completion import TABLES, completing, names_of
from passes.mark_boundaries import MarkBoundaries
from tests.commands import in_an_empty_folder, run

__all__ = ["in_an_empty_folder"]

ROOT = str(Path(dni_fx.__file__).parents[1])


def completed(line):
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    asked = {"_DNI_FX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-X", "importtime", "-m", "dni_fx"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ROOT, **asked}
    )
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dni-fx de", ["decouple"]),
        ("dni-fx decouple model.pt2 --synthesizer l", ["linear", "local-head"]),
        ("dni-fx plan model.pt2 --plan b", ["balanced", "bottleneck"]),
        ("dni-fx train model.pt2 --runtime l", ["local"]),
        ("dni-fx export model.pt2 --exporter o", ["onnx", "onnx-stages", "onnx-training"]),
        ("dni-fx train model.pt2 --optimizer ad", ["adam", "adamw"]),
        ("dni-fx list syn", ["synthesizers"]),
    ],
)
def test_a_shell_is_offered_names_without_waiting_for_torch(line, offered):
    words, imports = completed(line)
    assert words == offered
    assert "torch" not in {entry.split("|")[-1].strip() for entry in imports.splitlines()}


def test_help_does_not_wait_for_torch():
    for words in (["--help"], ["--version"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "dni_fx", *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        assert "torch" not in {entry.split("|")[-1].strip() for entry in done.stderr.splitlines()}


def test_the_names_that_are_offered_are_those_there_are():
    assert tuple(TABLES) == describe.FAMILIES
    for family in TABLES:
        listed = [entry.name for entry in describe.catalog(family)]
        assert names_of(family) == [name for name in listed if name != MarkBoundaries.name]  # takes a plan


def test_a_name_is_completed_behind_a_pattern():
    assert completing("synthesizers")("blocks*=li") == ["blocks*=linear"]


def test_completion_is_installed_as_typer_does():
    text = run("--help")
    assert "--install-completion" in text
    assert "--show-completion" in text


def test_the_environment_names_versions_devices_and_threads():
    facts = json.loads(run("env --json"))
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["threads"]["torch"] == str(torch.get_num_threads())
    assert "cpu" in facts["devices"]
    assert set(facts["optional"]) >= {"onnx", "onnxruntime", "pillow", "safetensors", "transformers"}
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_environment_is_shown_to_people_line_by_line():
    lines = run("env").splitlines()
    assert any(line.split()[:3] == ["packages", "torch", torch.__version__] for line in lines)


def test_what_is_not_installed_is_null(monkeypatch):
    from dni_fx.cli import env

    monkeypatch.setattr(env, "_OPTIONAL", ("no-such-package-at-all",))
    assert json.loads(run("env --json"))["optional"] == {"no-such-package-at-all": None}
    assert "not there" in run("env")


def interrupted_while_importing(name):
    """How the command line ends if Ctrl-C comes while a module is looked for, and is lost there."""
    lines = (
        "import os, signal, sys",
        "class Finder:",
        "    def find_spec(self, name, path=None, target=None):",
        f"        if name == {name!r}:",
        "            try:",
        "                os.kill(os.getpid(), signal.SIGINT)",
        "            except KeyboardInterrupt:",
        "                pass",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "sys.meta_path.insert(0, Finder())",
        "sys.argv = ['dni-fx', 'inspect', 'dni_fx.demo:mlp']",
        "from dni_fx.__main__ import main",
        "main()",
    )
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )


@pytest.mark.parametrize("name", ["typer", "torch", "dni_fx.cli.inspect"])
def test_ctrl_c_in_the_middle_of_an_import_ends_it_in_one_line(name):
    """It was lost where Python calls back, or came out as a traceback."""
    done = interrupted_while_importing(name)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "dni-fx: interrupted; no file is half written\n"
