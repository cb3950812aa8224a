"""What the README says is true: its code runs, its commands run, its lines are the ones CI runs."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.commands import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


MEASURED = (ROOT / "tests" / "benchmarks" / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def lines(start):
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith(start)]


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs_as_it_stands(in_an_empty_folder):
    namespace = {"__name__": "readme"}
    for number, block in enumerate(blocks("python"), start=1):
        exec(compile(block, f"README block {number}", "exec"), namespace)
    assert namespace["report"].ok, namespace["report"]
    assert {path.name for path in in_an_empty_folder.iterdir()} >= {"model.onnx", "cut.pt2"}


def test_the_commands_of_the_readme_run_one_after_another(in_an_empty_folder):
    commands = lines("dni-fx ")
    assert len(commands) >= 4
    for command in commands:
        assert run(command.removeprefix("dni-fx ")), command
    written = {"cut.pt2", "model.onnx", "plan.json", "plan.svg"}
    assert {path.name for path in in_an_empty_folder.iterdir()} == written


def test_the_two_lines_make_their_own_environment_and_need_nothing_else():
    sample, tests = lines("python3.11 ")
    for line in (sample, tests):
        assert line.startswith("python3.11 -m venv .venv && .venv/bin/pip install ")
    assert (ROOT / sample.split()[-1]).is_file()
    assert ".venv/bin/pytest" in tests


def test_extras_that_the_readme_installs_are_declared():
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    used = {extra for line in lines("python3.11 ") for extra in re.findall(r"\[(.*?)\]", line)[0].split(",")}
    assert used <= set(declared)


def test_ci_takes_the_test_line_from_the_readme_and_finds_one():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    (pattern,) = re.findall(r"grep -E '(.*?)' README.md", script)
    assert re.findall(pattern, README, re.MULTILINE) == [lines("python3.11 ")[1]]


def test_the_readme_is_short():
    assert len(README.splitlines()) < 400


def test_the_benchmarks_that_are_named_are_there_with_their_options():
    commands = re.findall(r"`python -m (tests\.benchmarks[\w.]*)([^`]*)`", README + MEASURED)
    assert len(commands) >= 5
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "benchmarks").rglob("*.py"))
    for module, options in commands:
        assert importlib.util.find_spec(module), module
        for option in re.findall(r"--([\w-]+)", options):
            assert f'"--{option}"' in sources or f'("{option}", ' in sources, f"{module} --{option}"
