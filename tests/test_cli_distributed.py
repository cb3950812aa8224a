"""`dni-fx train` in several processes is one command: one says what there is to say, and one writes."""

import re
import subprocess
import sys

import pytest
import torch

import dni_fx
from dni_fx.cli.resumed import Watch
from dni_fx.errors import DniError
from tests.commands import in_an_empty_folder, refusal, run

__all__ = ["in_an_empty_folder"]

TASK = (
    "train dni_fx.demo:mlp --data dni_fx.demo:clusters --batch-size 250 --plan balanced:stages=2 --epochs 2"
)


def launched(arguments, ranks=2):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    line = [sys.executable, "-m", *launcher, "-m", "dni_fx", *arguments.split()]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_print_and_write_what_one_would():
    alone = run(f"{TASK} --runtime local:streams=true -o alone.pt2")
    done = launched(f"{TASK} --runtime distributed:lag=0 -o together.pt2")
    assert done.returncode == 0, done.stderr
    timeless = [
        re.sub(r"in [\d.]+ s", "", text.replace("together", "alone")) for text in (alone, done.stdout)
    ]
    assert timeless[0] == timeless[1]
    ours, theirs = (dni_fx.load(f"{name}.pt2").state_dict() for name in ("alone", "together"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("runtime", ["local", "backprop"])
def test_a_runtime_for_one_process_is_refused_where_there_are_two(runtime, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refusal(f"{TASK} --runtime {runtime}", 2).replace("│ ", "")
    assert f"{runtime} trains in one process, and 2 have been started" in said


def test_a_process_that_keeps_no_file_has_words_for_what_it_cannot_go_on_with():
    """It said that None was of another run."""
    watch = Watch(print, None, {"--batch-size": "100"})
    with pytest.raises(DniError, match="the checkpoint is of another run: --batch-size was 250, and is 100"):
        watch.load_state_dict({"facts": {"--batch-size": "250"}})
