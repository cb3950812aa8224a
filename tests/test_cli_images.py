"""Training on folders of images, and on torch data sets."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch

from dni_fx.cli.images import read_folder, size_of
from dni_fx.errors import FileError
from tests.commands import both, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

image = pytest.importorskip("PIL.Image")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path)


def pictures(root, parts=("",), classes=("ape", "bee"), count=4, size=(10, 12)):
    draw = np.random.default_rng(0)
    for part in parts:
        for at, name in enumerate(classes):
            for number in range(count):
                low = 128 * (at % 2)
                pixels = draw.integers(low, low + 128, (*size, 3), dtype=np.uint8)
                write(root / part / name / f"{number}.png", pixels)


def net(tmp_path, name, channels=3, example=True):
    given = f", torch.zeros(2, {channels}, 8, 8)" if example else ""
    module(
        tmp_path,
        name,
        f"def make():\n"
        f"    layers = [nn.Conv2d({channels}, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]\n"
        f"    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]\n"
        f"    return nn.Sequential(*layers, *head){given}\n",
    )
    return f"{name}:make"


def trained(model, text, options=""):
    return json.loads(run(f"train {model} --data {text} --batch-size 4 --json {options}"))


def test_a_folder_for_each_class_is_learned_from_and_classes_are_named(tmp_path):
    pictures(tmp_path / "pics")
    report = trained(net(tmp_path, "image_net"), "pics", "--epochs 20 --lr 0.01 --synthesizer oracle")
    assert report["classes"] == ["ape", "bee"]
    assert report["epochs"][0]["steps"] == 2
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]
    assert report["test"] == {}
    assert "classes: 0 ape, 1 bee" in run("train image_net:make --data pics")


def test_parts_of_the_data_are_folders(tmp_path):
    pictures(tmp_path / "pics", ("train", "val", "test"))
    report = trained(net(tmp_path, "parts_net"), "pics")
    assert report["epochs"][0]["steps"] == 2
    assert report["test"].keys() == {"loss", "accuracy"}
    assert report["epochs"][0]["validation"].keys() == {"loss", "accuracy"}


def test_a_gray_model_gets_gray_images_and_a_size_can_be_asked_for(tmp_path):
    pictures(tmp_path / "pics")
    assert trained(net(tmp_path, "gray_net", channels=1), "pics")["epochs"]
    assert trained(net(tmp_path, "sizeless_net", channels=1, example=False), "pics", "--image-size 9x7")
    assert "--image-size" in refusal("train sizeless_net:make --data pics")


def test_pixels_are_scaled_cropped_in_the_middle_and_between_0_and_1(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = (255, 51, 0)
    write(tmp_path / "pics" / "one" / "a.png", pixels)
    folders, classes = read_folder(tmp_path / "pics", (3, 4, 4), torch.float64)
    batch = folders["train"].images[:1]
    assert classes == ("one",)
    assert batch.shape == (1, 3, 4, 4)
    assert torch.equal(
        batch[0], torch.tensor([1.0, 0.2, 0.0], dtype=torch.float64).view(3, 1, 1).expand(3, 4, 4)
    )
    larger, _ = read_folder(tmp_path / "pics", (3, 8, 8), torch.float64)
    assert larger["train"].images[:1].amax((0, 2, 3)).tolist() == [1.0, 0.2, 0.0]


def test_sixteen_bits_are_not_cut_off_at_eight(tmp_path):
    write(tmp_path / "pics" / "one" / "a.png", np.full((4, 4), 32768, np.uint16))
    for channels in (1, 3):
        wanted = torch.full((1, channels, 4, 4), 32768 / 65535, dtype=torch.float64)
        folders, _ = read_folder(tmp_path / "pics", (channels, 4, 4), torch.float64)
        assert torch.equal(folders["train"].images[:1], wanted)


def test_broken_image_files_are_all_named_before_any_training(tmp_path):
    pictures(tmp_path / "pics")
    for name in ("x.png", "y.jpg"):
        (tmp_path / "pics" / "bee" / name).write_bytes(b"no image")
    (tmp_path / "pics" / "bee" / "notes.txt").write_text("no image is meant to be here", "utf-8")
    said = refusal(f"train {net(tmp_path, 'broken_net')} --data pics")
    assert "2 of 10 image files cannot be read" in said
    assert "pics/bee/x.png" in said
    assert "pics/bee/y.jpg" in said


def test_an_image_that_ends_too_soon_is_named_when_it_is_read(tmp_path):
    pictures(tmp_path / "pics", count=1, size=(64, 64))
    path = tmp_path / "pics" / "bee" / "0.png"
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot read the image pics/bee/0.png" in refusal(
        f"train {net(tmp_path, 'short_net')} --data pics"
    )


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"train/ape": 1, "test/cow": 1}, "pics/test/cow is no class to train on; there are ape"),
        ({"train/ape": 1, "test/ape": 0}, "there are no images in pics/test"),
        ({"ape": 0}, "there are no images in pics"),
    ],
)
def test_folders_that_cannot_be_learned_from_are_refused(parts, says, tmp_path):
    for place, count in parts.items():
        (tmp_path / "pics" / place).mkdir(parents=True)
        for number in range(count):
            write(tmp_path / "pics" / place / f"{number}.png", np.zeros((4, 4, 3), np.uint8))
    name = f"refused_net_{len(says)}"
    assert says in refusal(f"train {net(tmp_path, name)} --data pics")


def test_a_model_of_no_images_is_refused_and_so_is_more_classes_than_outputs(tmp_path):
    pictures(tmp_path / "pics", classes=("a", "b", "c"))
    assert "images are (batch, channels, height, width)" in refusal("train dni_fx.demo:mlp --data pics")
    assert "has the label 2, and the model has 2 outputs" in refusal(
        f"train {net(tmp_path, 'few_net')} --data pics"
    )


def test_pillow_is_asked_for_if_it_is_not_there(tmp_path, monkeypatch):
    pictures(tmp_path / "pics")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert 'pip install "dni-fx[images]"' in refusal(f"train {net(tmp_path, 'bare_net')} --data pics")


@pytest.mark.parametrize("text", ["", "0", "8x", "axb", "8x8x8"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(FileError, match="is no size"):
        size_of(text)


SETS = (
    "from torch.utils.data import Dataset, IterableDataset, TensorDataset\n"
    "def whole():\n    return TensorDataset(torch.rand(10, 64), torch.arange(10) % 3)\n"
    "def pair():\n    return whole(), whole()\n"
    "class Own(Dataset):\n"
    "    def __len__(self):\n        return 6\n"
    "    def __getitem__(self, at):\n        return torch.full((64,), 0.5, dtype=torch.float64), at % 2\n"
    "class Endless(IterableDataset):\n"
    "    def __iter__(self):\n        return iter([(torch.rand(64), 1)] * 7)\n"
)


@pytest.mark.parametrize(
    ("name", "steps", "is_tested"),
    [("whole", 3, False), ("pair", 3, True), ("Own", 2, False), ("Endless", 2, False)],
)
def test_a_function_may_return_a_torch_data_set_or_two(name, steps, is_tested, tmp_path):
    module(tmp_path, f"sets_{name}", SETS)
    report = json.loads(run(f"train dni_fx.demo:mlp --data sets_{name}:{name} --batch-size 4 --json"))
    assert report["epochs"][0]["steps"] == steps
    assert bool(report["test"]) == is_tested


def test_the_order_of_a_data_set_hangs_on_the_seed(tmp_path):
    module(tmp_path, "sets_seeded", SETS)
    command = "train dni_fx.demo:mlp --data sets_seeded:Own --batch-size 2 --json --seed"
    one, same, other = (json.loads(run(f"{command} {seed}"))["epochs"][0]["loss"] for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize(("classes", "is_told"), [(("ape", "bee"), False), (("ape",), True)])
def test_fewer_classes_than_the_model_tells_apart_are_told(classes, is_told, tmp_path):
    pictures(tmp_path / "pics", classes=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        _, err = both(f"train {net(tmp_path, f'few_{len(classes)}')} --data pics")
    assert ("the model tells 2 classes apart, and pics has 1 (ape)" in err) == is_told
