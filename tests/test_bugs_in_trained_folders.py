"""Bugs that were in the folders by which devices train, one test each."""

import shutil
import stat
from dataclasses import replace

import numpy as np
import onnx_ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx.device
from dni_fx.device.graphs import open_graph
from dni_fx.errors import ExportError, FileError
from dni_fx.exporters.folders import check_folder
from dni_fx.exporters.training.decompositions import randomness
from dni_fx.exporters.training.plain import plain
from dni_fx.exporters.training.tracing import Shapes, trace
from dni_fx.exporters.training.writing import onnx_model
from dni_fx.exporters.translation import quiet
from tests.device_nets import CASES, written
from tests.turns import shared_folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return shared_folder(tmp_path_factory)


def test_predictions_are_those_of_eval_mode(shared):
    """Stages run the modules of the model, and were traced when these were in train mode again."""
    case = CASES["norm_and_dropout"]
    session = dni_fx.device.open(written("norm_and_dropout", shared))
    (x, _), *_ = case.batches()
    wanted = case.cut().eval()(x).detach().numpy()
    assert np.abs(session.predict(x.numpy())[0] - wanted).max() < 1e-6


def test_what_an_optimizer_keeps_of_shared_weights_has_a_file(shared):
    """It is read by the graph of no stage, and what no stage read had no home."""
    session = dni_fx.device.open(written("tied", shared))
    assert session.store["exp_avg:twice.weight"].shape == (6, 6)


def test_the_gradient_of_a_shared_number_is_a_sum_of_arrays(shared):
    """What numpy adds up of arrays without dimensions is no array, and no graph took it."""
    case, session = CASES["tied"], dni_fx.device.open(written("tied", shared), mode="exact")
    (x, y), *_ = case.batches()
    before = session.store["p:scale"]
    session.step(x.numpy(), y.numpy())
    assert session.store["p:scale"] != before


def test_guesses_are_made_before_the_truth_of_their_step_is_learned_from(shared):
    """A stage that waits for the loss made them when it ran again, and knew too much by then."""
    manifest = dni_fx.device.open(written("two_heads", shared)).manifest
    files = [order.graph.file for order in manifest.orders["decoupled"]]
    guessing = {each.name: each for each in manifest.boundaries if each.guess is not None}
    assert guessing
    for boundary in guessing.values():
        assert files.index(boundary.guess.file) < files.index(boundary.learn.file)


def test_what_follows_a_size_and_is_no_size_fixes_the_batch():
    """Of numbers that stages hand on only whole ones were seen to follow the batch: others were constants."""
    fake = Shapes().of(torch.ones(3, 2), frozenset([0]))
    beside = {"v:x": fake}
    assert plain(1 / 3, 1 / fake.shape[0], beside).is_fixed
    assert plain((3, 2), (fake.shape[0], 2), beside).is_fixed
    assert not plain(0.5, 0.5, beside).is_fixed
    assert not plain(3, fake.shape[0], beside).is_fixed


def test_stages_draw_other_numbers():
    """Each graph began with the first draw of the step, so that layers of one shape dropped the same."""
    drawn = []
    for part in (0, 1, 1):
        with randomness.drawing(torch.tensor(3)):
            randomness.begin(part)
            drawn.append(randomness.uniform((50,), torch.float32))
    assert torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_one_sample_leaves_a_running_variance_as_it_was(tmp_path):
    """Divided by none it was infinite from then on."""
    shapes, x = Shapes(), torch.randn(4, 3)

    def norm(given):
        mean, variance = torch.zeros(3), torch.ones(3)
        F.batch_norm(given["x"], mean, variance, training=True)
        return {"variance": variance}

    with quiet():
        model = onnx_model(trace(norm, {"x": x}, {"x": shapes.of(x, frozenset([0]))}), 0, "a norm")
    onnx_ir.save(model, tmp_path / "norm.onnx")
    after, one = (open_graph(tmp_path / "norm.onnx").run(None, {"x": each.numpy()})[0] for each in (x, x[:1]))
    assert np.abs(after - (0.9 + 0.1 * x.var(0).numpy())).max() < 1e-6
    assert np.array_equal(one, np.ones(3, np.float32))


def test_what_is_saved_can_be_read_by_whom_it_could_before(shared, tmp_path):
    """A file that a session had written was its owner's alone."""
    folder = shutil.copytree(written("norm_twice", shared), tmp_path / "step")
    session = dni_fx.device.open(folder)
    (x, y), *_ = CASES["norm_twice"].batches()
    session.step(x.numpy(), y.numpy())
    file = folder / session.manifest.stages[0].state
    file.chmod(0o640)
    session.flush()
    session.save(tmp_path / "saved.safetensors")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    saved = (tmp_path / "saved.safetensors").stat().st_mode
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE(saved) == usual
    assert {stat.S_IMODE(each.stat().st_mode) for each in written("norm_twice", shared).iterdir()} == {usual}


def test_a_file_that_was_never_finished_is_no_reason_not_to_write_again(tmp_path):
    """A process that was killed left one, and the folder was somebody else's from then on."""
    (tmp_path / "ours").touch()
    (tmp_path / ".ours.0a1b.77.part").touch()
    check_folder(tmp_path, lambda _: ["ours"])
    (tmp_path / "theirs").touch()
    with pytest.raises(FileError, match="it holds theirs, which"):
        check_folder(tmp_path, lambda _: ["ours"])


class Written(nn.Module):
    """Writes to its weights when it is run."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(9, 6, max_norm=0.5), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.table(x).mean(1).tanh())


def exported(folder, net, x, **options):
    cut = dni_fx.decouple(
        net, (x,), plan="balanced:stages=2", interface=options.pop("interface", "dni:guard=0")
    )
    before = {name: each.clone() for name, each in cut.state_dict().items()}
    given = {"targets": torch.zeros(len(x), dtype=torch.int64), "loss": F.cross_entropy, "optimizer": "sgd"}
    dni_fx.export_training(cut, folder, inputs=(x,), **(given | options))
    return cut, before


def test_a_model_is_as_it_was_when_its_training_is_written(tmp_path):
    """Its first stage was run on its own weights, to which this layer writes."""
    cut, before = exported(tmp_path / "step", Written(), torch.randint(9, (4, 3)))
    assert all(torch.equal(each, before[name]) for name, each in cut.state_dict().items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": None}, "say () for a loss that looks at none"),
        ({"targets": {"a": torch.zeros(4), "b": 0.5}}, "and one is float"),
        ({"targets": (torch.zeros(4),) * 2, "labels_as_context": True}, "one tensor of targets, not 2"),
        (
            {"loss": lambda out, y: F.cross_entropy(F.dropout(out), y)},
            "the graph loss: it draws random numbers",
        ),
    ],
)
def test_what_no_graph_can_be_given_is_refused(options, said, tmp_path):
    """It was a bare error of Python, or a difference from PyTorch."""
    with pytest.raises(ExportError) as refused:
        exported(
            tmp_path / "step",
            nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)),
            torch.ones(4, 6),
            **options,
        )
    assert said in str(refused.value)
    assert not (tmp_path / "step").exists()


def test_boundaries_that_do_not_warm_up_together_are_refused(tmp_path):
    """As long as one did, true gradients went up at all."""
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 4))
    cut = dni_fx.decouple(
        net,
        (torch.ones(4, 6),),
        plan="at:after=0+2",
        interface={"0": "dni:warmup=3,guard=0", "2": "dni:guard=0"},
    )
    with pytest.raises(ExportError, match="Say one warmup for all"):
        dni_fx.export_training(
            cut, tmp_path / "step", targets=torch.zeros(4, dtype=torch.int64), loss=F.cross_entropy
        )


def test_what_is_returned_in_train_mode_alone_has_no_loss_to_evaluate(shared):
    """It was a bare error of Python."""
    session = dni_fx.device.open(written("layers", shared))
    session.manifest = replace(session.manifest, outputs=(*session.manifest.outputs, "v:more"))
    (x, y), *_ = CASES["layers"].batches()
    with pytest.raises(dni_fx.device.DeviceError, match="in eval mode it returns something else"):
        session.evaluate([(x.numpy(), y.numpy())])
