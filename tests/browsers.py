"""What runs JavaScript in tests, and the packages of npm for it, fetched once for all tests of a session."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dni_fx.device import WEB
from tests.turns import turn

SCRIPTS = Path(__file__).parent / "web"
LIBRARY = WEB / "dni_fx.js"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="there is no node to run JavaScript with")


NO_BROWSER = 77


def node(script, *arguments, temporary=None):
    """What a script prints; it warns of nothing. What it unpacks lies in `temporary`, if it is told one."""
    command = list(map(str, [NODE, SCRIPTS / script, *arguments]))
    environment = os.environ | ({} if temporary is None else {"TMPDIR": str(temporary)})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode == NO_BROWSER:
        pytest.skip(f"the browser of npm does not start here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def packages(shared, *names):
    """A folder with packages of npm, below one that test processes share; skips where they cannot be had."""
    names = names or ("onnxruntime-web",)
    folder = shared / "-".join(name.rpartition("/")[2] for name in names)
    with turn(shared / f"{folder.name}.lock"):
        if not (folder / "problem").exists():
            folder.mkdir(exist_ok=True)
            (folder / "problem").write_text(fetch(folder, names), "utf-8")
    if problem := (folder / "problem").read_text("utf-8"):
        pytest.skip(problem)
    return folder


def fetch(folder, names):
    """Fetch packages into a folder; says why they are not there, or nothing if they are."""
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm to fetch packages with"
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, *names]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    except subprocess.TimeoutExpired:
        return f"npm did not fetch {', '.join(names)} in time"
    is_there = all((folder / "node_modules" / name).is_dir() for name in names)
    return (
        ""
        if is_there and not done.returncode
        else f"npm cannot fetch {', '.join(names)}: {done.stderr[-200:]}"
    )
