"""A dry run meets what a real run would meet, says what would be written, and leaves every file as it is."""

import json

import numpy as np
import pytest

from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

CLUSTERS = "--data dni_fx.demo:clusters --batch-size 256"
WRITING = {
    "decouple": f"decouple {MLP} -o file.pt2",
    "train": f"train {MLP} {CLUSTERS} -o file.pt2 --checkpoint run.ckpt",
    "export": f"export {MLP} -o file.onnx",
    "recouple": "recouple cut.pt2 -o file.pt2",
    "recouple state": "recouple cut.pt2 -o file.safetensors",
    "plan": f"plan {MLP} -o file.json",
    "plan picture": f"plan {MLP} --picture file.svg",
}


def prepared(tmp_path, command):
    if command.startswith("recouple"):
        run(f"decouple {MLP} -o cut.pt2")
    if command.startswith("export"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", WRITING)
def test_nothing_is_written_and_what_would_be_is_named(command, tmp_path):
    before = prepared(tmp_path, command)
    name = next(word for word in WRITING[command].split() if word.startswith("file"))
    assert f"would write {name}" in run(f"{WRITING[command]} --dry-run")
    assert json.loads(run(f"{WRITING[command]} --dry-run --json"))["dry_run"] is True
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", WRITING)
def test_a_file_that_is_there_stays_and_a_place_that_cannot_be_written_is_refused(command, tmp_path):
    prepared(tmp_path, command)
    name = next(word for word in WRITING[command].split() if word.startswith("file"))
    (tmp_path / name).write_text("precious", "utf-8")
    run(f"{WRITING[command]} --dry-run")
    assert (tmp_path / name).read_text("utf-8") == "precious"
    moved = WRITING[command].replace(name, f"nowhere/{name}")
    assert refusal(f"{moved} --dry-run") == refusal(moved)


@pytest.mark.parametrize("command", ["decouple", "recouple", "recouple state"])
def test_the_size_that_is_told_is_about_the_size_that_is_written(command, tmp_path):
    prepared(tmp_path, command)
    told, written = (json.loads(run(f"{WRITING[command]}{dry} --json")) for dry in (" --dry-run", ""))
    assert written["bytes"] == (tmp_path / written["file"]).stat().st_size
    assert 0.5 * written["bytes"] < told["bytes"] <= written["bytes"]


@pytest.mark.parametrize(
    "command",
    [
        f"decouple {MLP} --plan balanced:stages=300 -o file.pt2",
        f"decouple {MLP} --synthesizer lineer -o file.pt2",
        f"plan {MLP} --plan missing.json -o file.json",
        f"plan {MLP} --picture file.bmp",
        f"export {MLP} --exporter onxn -o file.onnx",
        f"train {MLP} --data missing.npz -o file.pt2",
        f"train {MLP} {CLUSTERS} --runtime locla -o file.pt2",
        f"train {MLP} {CLUSTERS} --synthesizer local-head -o file.pt2",
        f"recouple {MLP} -o file.pt2",
    ],
)
def test_what_stops_a_real_run_stops_a_dry_one_with_the_same_words(command):
    assert refusal(f"{command} --dry-run") == refusal(command)


def test_a_dry_run_goes_on_from_a_checkpoint_and_leaves_it_as_it_is(tmp_path):
    command = f"train {MLP} {CLUSTERS} --checkpoint run.ckpt --epochs"
    run(f"{command} 1")
    kept = (tmp_path / "run.ckpt").read_bytes()
    assert "one step was tried" in run(f"{command} 2 --resume --dry-run")
    assert (tmp_path / "run.ckpt").read_bytes() == kept
    other = command.replace("train", "train --synthesizer linear")
    assert "differs in" in refusal(f"{other} 2 --resume --dry-run")


def test_a_run_that_printed_json_goes_on_as_one_that_does_not(tmp_path):
    """It was refused: the checkpoint had counted who listens to epochs."""
    command = f"train {MLP} {CLUSTERS} --checkpoint run.ckpt --epochs"
    run(f"{command} 1 --json")
    assert "epoch 2" in run(f"{command} 2 --resume")


def test_a_batch_that_cannot_be_trained_on_is_met_in_the_one_step(tmp_path):
    module(
        tmp_path,
        "bad_batches",
        "def make():\n    return [(torch.zeros(4, 64), torch.full((4,), 99))]\n",
    )
    with pytest.raises(IndexError):
        run(f"train {MLP} --data bad_batches:make --dry-run")
    np.savez("data.npz", x=np.zeros((4, 64), np.float32), y=np.array([0, 0, 0, 99]))
    assert "has the label 99" in refusal(f"train {MLP} --data data.npz --dry-run")
