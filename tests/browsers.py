"""What runs JavaScript in tests, and the packages of npm for it, fetched once for all tests of a session."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from dni_fx.device import WEB
from tests.trained_folders import turn

SCRIPTS = Path(__file__).parent / "web"
LIBRARY = WEB / "dni_fx.js"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="there is no node to run JavaScript with")


def node(script, *arguments):
    """What a script prints; it warns of nothing."""
    command = [NODE, SCRIPTS / script, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def packages(shared):
    """A folder with onnxruntime-web, below one that test processes share; skips where it cannot be had."""
    folder = shared / "packages"
    with turn(shared / "packages.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            (folder / "done").write_text(_fetched(folder), "utf-8")
    if problem := (folder / "done").read_text("utf-8"):
        pytest.skip(problem)
    return folder


def _fetched(folder):
    """Why there is no onnxruntime-web in a folder, or nothing if there is."""
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm to fetch onnxruntime-web with"
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                [*command, "onnxruntime-web"], cwd=home, capture_output=True, text=True, timeout=200
            )
        except subprocess.TimeoutExpired:
            return "npm did not fetch onnxruntime-web in time"
    if done.returncode or not (folder / "node_modules" / "onnxruntime-web").is_dir():
        return f"npm cannot fetch onnxruntime-web: {done.stderr[-200:]}"
    return ""


def shared_folder(factory):
    """A folder that all test processes of a session share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
