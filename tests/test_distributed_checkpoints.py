"""A run of several processes is kept, and goes on, on any number of them."""

import copy
import shutil
from pathlib import Path

import pytest
import torch

import dni_fx
from dni_fx.errors import FileError
from dni_fx.training import checkpoint
from dni_fx.training.parts import read_parts
from tests.processes import run_ranks
from tests.shared_runs import assert_equal_trees, fitted, loader, on_rank, same, trainer_of


def test_a_run_goes_on_on_another_number_of_processes(tmp_path):
    path = str(tmp_path / "run.ckpt")
    whole = fitted("local:streams=true", 3)
    run_ranks(on_rank, 3, "distributed:lag=0", 1, {"checkpoint": path})
    parts = list(read_parts(Path(path)))
    names = [{*part["model"], *part["optimizers"]} for part in parts]
    assert [f"stage {at}" in each for at, each in enumerate(names)] == [True] * 3
    assert sum(map(len, names)) == len(set.union(*names))
    assert {path.suffix for path in Path(path).iterdir()} == {".json", ".safetensors"}
    run_ranks(on_rank, 2, "distributed:lag=0", 2, {"checkpoint": path, "resume": True})
    assert len(list(Path(path).iterdir())) == 3
    same(whole, fitted("local:streams=true", 3, checkpoint=path, resume=True))
    assert len(list(Path(path).iterdir())) == 2


def test_a_run_goes_on_in_the_file_of_a_single_process(tmp_path):
    path = str(tmp_path / "run.ckpt")
    whole = fitted("local:streams=true", 2)
    fitted("local:streams=true", 1, checkpoint=path)
    for each in run_ranks(on_rank, 2, "distributed:lag=0", 2, {"checkpoint": path, "resume": True}):
        same(whole, each)
    same(whole, fitted("local:streams=true", 2, checkpoint=path, resume=True))
    assert Path(path).is_file()


@pytest.mark.parametrize(
    "there", ["something.txt", "dni_fx-0123456789abcdef.safetensors", ".dni_fx.ab.1.part"]
)
def test_a_folder_of_something_else_is_refused(there, tmp_path):
    (tmp_path / there).touch()
    if there == "something.txt":
        with pytest.raises(FileError, match="it is a folder"):
            checkpoint.check_checkpoint(tmp_path, several=True)
    else:
        checkpoint.check_checkpoint(tmp_path, several=True)  # what a process that was killed has begun
    with pytest.raises(FileError, match="it is a folder"):
        checkpoint.check_checkpoint(tmp_path, several=False)


def full(rank, path):
    def refuse(folder, parts):
        for _ in parts:
            raise FileError("the disk is full")

    checkpoint.write_parts = refuse
    fitted("distributed", 2, checkpoint=path)


def test_a_part_that_cannot_be_written_ends_all_processes(tmp_path):
    first, *others = run_ranks(full, 3, str(tmp_path / "run.ckpt"))
    assert first == "FileError: the disk is full"
    assert all("rank 0 has ended the run: the disk is full" in each for each in others), others


def returned(rank):
    """The state of a run after some steps, after more, and when it has gone back to the first one."""
    trainer = trainer_of("distributed:lag=2")
    batches = list(loader())
    found = []
    for part in (batches[:3], batches[3:]):
        for batch in part:
            trainer.step(batch)
        found.append(copy.deepcopy(trainer.state_dict()))
    trainer.load_state_dict(copy.deepcopy(found[0]))
    found.append(copy.deepcopy(trainer.state_dict()))
    trainer.step(batches[0])
    return [{"model": each["model"], "updates": each["updates"]} for each in found]


def test_a_run_can_go_back_to_a_state_of_its_own():
    (first, more, again), other = run_ranks(returned, 2)
    assert not torch.equal(first["model"]["0.weight"], more["model"]["0.weight"])
    for each in (again, other[0], other[2]):
        assert_equal_trees(each, first)


def resumed(rank, path):
    """What a process is told of weights and optimizers where a run goes on."""
    trainer, seen = trainer_of("distributed:lag=0"), []
    once = trainer.worker.world.take

    def take(of, topic):
        tree = once(of, topic)
        if topic.startswith("start"):
            kept, _, optimizers = tree
            seen.append([key for key in kept if not key.startswith("dni.")])
            seen.append([name for name, state in optimizers.items() if "optimizer" in state])
        elif topic == "orders" and tree[0] == "state":
            seen.append([key for key in tree[1] if key in {"model", "updates"}])
        return tree

    trainer.worker.world.take = take
    trainer.fit(loader(), 2, checkpoint=path, resume=True, progress=False)
    return seen


def test_a_run_goes_on_with_what_each_process_needs(tmp_path):
    path = str(tmp_path / "run.ckpt")
    fitted("local:streams=true", 1, checkpoint=path)
    own = [list(stage.state_dict()) for stage in dni_fx.stages(trainer_of("local").cut)]
    first, *others = run_ranks(resumed, 3, path)
    assert first == []
    for rank, (whole, weights, optimizers) in enumerate(others, 1):
        assert whole == []
        assert optimizers == [f"stage {rank}"]
        assert weights == own[rank]


def gone_on(rank, path, runtime):
    """A run whose epochs are all over already, what is kept of it then, and one epoch more."""
    trainer = trainer_of(runtime)
    trainer.fit(loader(), 1, checkpoint=path, resume=True, progress=False)
    over = copy.deepcopy(trainer.state_dict())
    trainer.save(path)
    trainer.fit(loader(), 2, checkpoint=path, resume=True, progress=False)
    whole = trainer.state_dict()
    return [{"model": each["model"], "updates": each["updates"]} for each in (over, whole)]


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_that_is_over_is_whole_everywhere_and_goes_on(replicas, tmp_path):
    path = str(tmp_path / "run.ckpt")
    fitted("local:streams=true", 1, checkpoint=path)
    kept = checkpoint.read_checkpoint(Path(path))
    shutil.copy(path, alone := str(tmp_path / "alone.ckpt"))
    states = run_ranks(gone_on, 2 * replicas, path, f"distributed:lag=0,replicas={replicas}")
    for over, whole in states:
        assert_equal_trees(over["model"], kept["model"])
        assert_equal_trees(over["updates"]["optimizers"], kept["updates"]["optimizers"])
        assert_equal_trees(whole, states[0][1])
    if replicas == 1:
        assert_equal_trees(states[0][1], gone_on(0, alone, "local:streams=true")[1])
