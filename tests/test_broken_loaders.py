"""A loader that fails in the middle of an epoch: the steps before it are kept, and the error is its own."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import dni_fx
from tests.equality import assert_same
from tests.streams import SGD, chunks, loss_of, made, parts


class Samples(Dataset):
    """Draws noise for each sample, and cannot read one of them while it is `broken`."""

    def __init__(self, broken):
        self.broken = broken
        draw = torch.Generator().manual_seed(1)
        self.x, self.y = torch.randn(12, 6, generator=draw), torch.randint(3, (12,), generator=draw)

    def __len__(self):
        return 12

    def __getitem__(self, at):
        x = self.x[at] + 0.1 * torch.randn(6)
        if at == self.broken:
            raise OSError("the disk is gone")
        return x, self.y[at]


def trainer_for(accumulate=1):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3))
    cut = dni_fx.decouple(net, (torch.randn(2, 6),), plan="at:after=0", synthesizer="linear")
    loss = torch.nn.functional.cross_entropy
    return dni_fx.Trainer(cut, loss=loss, optimizer=SGD, runtime="local", accumulate=accumulate)


def fit(trainer, broken, epochs=2, **options):
    torch.manual_seed(5)
    loader = DataLoader(Samples(broken), batch_size=2)
    trainer.fit(loader, epochs, progress=False, **options)
    return dict(trainer.cut.state_dict())


def test_the_steps_before_it_are_kept_and_the_run_ends_as_if_nothing_had_been(tmp_path):
    path = tmp_path / "run.ckpt"
    broken = trainer_for()
    with pytest.raises(OSError, match="the disk is gone") as failure:
        fit(broken, broken=7, checkpoint=path)
    assert failure.value.__notes__ == [
        f"dni_fx: the run is kept in {path} as it was after step 3; resume it to go on there."
    ]
    again = trainer_for()
    found = fit(again, broken=-1, checkpoint=path, resume=True)
    assert again.steps == 12
    assert_same(found, fit(trainer_for(), broken=-1))


def test_carried_state_is_kept_as_well(tmp_path):
    class Chunks(list):
        fails = True

        def __iter__(self):
            yield from self[:3]
            if self.fails:
                raise OSError("the disk is gone")
            yield from self[3:]

    def run(batches, **options):
        _, cut, _ = made("lstm")
        loss = lambda returned, y: loss_of(parts(returned)[0], y)  # noqa: E731
        dni_fx.Trainer(cut, loss=loss, optimizer=SGD).fit(batches, 2, progress=False, **options)
        return dict(cut.state_dict())

    batches, kept = Chunks(chunks(5)), {"checkpoint": tmp_path / "run.ckpt", "resume": True}
    with pytest.raises(OSError, match="the disk is gone"):
        run(batches, **kept)
    batches.fails = False
    assert_same(run(batches, **kept), run(batches))


def test_what_cannot_be_kept_is_told_with_the_error(tmp_path):
    path = tmp_path / "run.ckpt"
    with pytest.raises(OSError, match="the disk is gone") as failure:
        fit(trainer_for(accumulate=2), broken=7, checkpoint=path)
    assert "could not be kept" in failure.value.__notes__[0]
    assert "after step 3: gradients of 1 batch wait for more" in failure.value.__notes__[0]
    assert not path.exists()

    def stream():
        yield torch.randn(2, 6), torch.zeros(2, dtype=torch.long)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as failure:
        trainer_for().fit(stream(), checkpoint=path, progress=False)
    assert "a generator cannot go on in the middle of a pass" in failure.value.__notes__[0]


def test_a_first_batch_that_fails_leaves_no_file(tmp_path):
    path = tmp_path / "run.ckpt"
    with pytest.raises(OSError, match="the disk is gone"):
        fit(trainer_for(), broken=0, checkpoint=path)
    assert not path.exists()
    with pytest.raises(OSError, match="the disk is gone") as failure:
        fit(trainer_for(), broken=7)
    assert not hasattr(failure.value, "__notes__")
