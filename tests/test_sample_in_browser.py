"""The sample of a page that learns: short, served whole, and it learns what is drawn."""

import ast
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browsers import needs_node, node, packages
from tests.turns import shared_folder

FOLDER = Path(__file__).parents[1] / "samples" / "digits_in_browser"
SERVE = FOLDER / "serve.py"
MAY_IMPORT = {"dni_fx", "torch", "argparse", "functools", "http", "pathlib", "shutil"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return shared_folder(tmp_path_factory)


@contextmanager
def python(folder, *arguments):
    """A running sample."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[1])}
    command = [sys.executable, str(SERVE), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(shared, tmp_path_factory):
    """Where the page is served."""
    runtime = packages(shared) / "node_modules" / "onnxruntime-web"
    folder = tmp_path_factory.mktemp("served")
    with python(folder, "--runtime", runtime, "--port", "0") as process:
        said = [process.stdout.readline() for _ in range(2)]
        found = re.fullmatch(r"draw at (http://127.0.0.1:\d+)\n", said[1])
        assert found, process.stderr.read()
        yield found[1]


def test_the_script_is_under_60_lines_and_imports_only_the_library_torch_and_what_serves():
    text = SERVE.read_text("utf-8")
    assert len(text.splitlines()) < 60
    nodes = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Import | ast.ImportFrom)]
    names = {each.module if isinstance(each, ast.ImportFrom) else each.names[0].name for each in nodes}
    assert {name.partition(".")[0] for name in names} <= MAY_IMPORT
    assert {name for name in names if name.startswith("dni_fx.")} == {"dni_fx.device"}  # verbs are enough


def test_the_page_asks_for_nothing_that_lies_elsewhere():
    assert "//" not in re.sub(
        r"^\s*//.*$", "", (FOLDER / "index.html").read_text("utf-8"), flags=re.MULTILINE
    )


def test_without_the_runtime_it_says_how_to_get_it(tmp_path):
    with python(tmp_path) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "npm install onnxruntime-web, or say --runtime FOLDER" in said
    assert not list(tmp_path.iterdir())


@needs_node
def test_every_file_that_the_page_names_is_served(address):
    page = urllib.request.urlopen(address).read().decode()
    named = re.findall(r'from "\./([^"]+)"', page)
    assert len(named) == 3
    for name in [*named, "ort-wasm-simd-threaded.wasm", "model/training.json"]:
        with urllib.request.urlopen(f"{address}/{name}") as answer:
            assert answer.read()


@needs_node
def test_the_net_learns_what_is_drawn(address, shared, tmp_path):
    assert node("drawings.mjs", packages(shared), address, temporary=tmp_path) == "0\n1\n"


@needs_node
def test_in_a_browser_the_page_learns_and_guesses_what_is_drawn(address, shared, tmp_path):
    fetched = packages(shared, "@sparticuz/chromium", "puppeteer-core")
    said, *guesses = node("page.mjs", fetched, address, temporary=tmp_path).splitlines()
    assert re.fullmatch(r"6 drawings learned, 240 steps, loss 0\.\d+", said)
    assert guesses == ["I guess 0", "I guess 1"]
