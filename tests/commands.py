"""Runs `dni-fx` in this process, in an empty folder."""

import shlex
import sys

import pytest
from typer.testing import CliRunner

from dni_fx.cli import app

MLP = "dni_fx.demo:mlp"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def run(text, exit_code=0, stdin=None):
    """What a command prints on stdout; it prints nothing on stderr if it succeeds."""
    result = CliRunner().invoke(app, shlex.split(text), input=stdin, catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    assert exit_code or not result.stderr
    return result.stdout


def both(text):
    """What a command that succeeds prints on stdout, and on stderr."""
    result = CliRunner().invoke(app, shlex.split(text), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def failing(text):
    """What a command that fails with 1 prints on stdout, and on stderr."""
    result = CliRunner().invoke(app, shlex.split(text), catch_exceptions=False)
    assert result.exit_code == 1, result.output
    return result.stdout, result.stderr


def refusal(text, exit_code=1):
    """The message with which a command is refused; then stdout stays empty, and there is no traceback."""
    result = CliRunner().invoke(app, shlex.split(text), catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def module(tmp_path, name, text):
    """Put a module into the working directory; its name must be new, since Python remembers modules."""
    (tmp_path / f"{name}.py").write_text("import torch\nfrom torch import nn\n" + text, "utf-8")
