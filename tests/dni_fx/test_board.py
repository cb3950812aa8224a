"""What TensorBoard is to show is what was measured."""

import sys

import pytest
import torch.nn.functional as F

import dni_fx
from tests.zoo import made

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def trained(folder, count=5):
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=3")
    training = dni_fx.train(
        cut, [(x, x)] * count, loss=F.mse_loss, metrics={"mae": F.l1_loss}, log_dir=folder, progress=False
    )
    return cut, training


def scalars(folder):
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_the_file_holds_every_figure_of_every_step(tmp_path):
    cut, training = trained(tmp_path / "runs")
    found = scalars(tmp_path / "runs")
    figures = ("cosine", "sign", "error", "scale", "mix")
    names = list(dni_fx.boundaries(cut))
    assert set(found) == {"loss", "mae", *(f"{figure}/{name}" for figure in figures for name in names)}
    for tag, values in found.items():
        figure, _, name = tag.partition("/")
        for (step, value), record in zip(values, training.history, strict=True):
            wanted = (
                getattr(record.boundaries[name], figure)
                if name
                else {"loss": record.loss, **record.metrics}[tag]
            )
            assert step == record.step
            assert value == pytest.approx(wanted, rel=1e-6)  # the file holds single precision


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(None)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_is_refused_before_the_training(tmp_path):
    (tmp_path / "runs").write_text("precious")
    with pytest.raises(dni_fx.DniError, match=r"it is a file\. Name a folder"):
        trained(tmp_path / "runs")
    with pytest.raises(dni_fx.DniError, match=r"cannot write to .*: Not a directory"):
        trained(tmp_path / "runs" / "below")
    assert (tmp_path / "runs").read_text() == "precious"


def test_a_missing_package_is_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(dni_fx.DniError, match=r"not installed: pip install 'dni-fx\[tensorboard\]'\."):
        trained(tmp_path / "runs")
    assert not list(tmp_path.iterdir())
