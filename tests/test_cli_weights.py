"""`--weights`: what else than a state dict of the model is given there."""

import pytest
import torch
from torch import nn

from dni_fx import demo
from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]


def test_a_whole_model_is_told_from_weights_and_its_weights_can_be_taken_out():
    pytest.importorskip("safetensors")
    run(f"decouple {MLP} -o cut.pt2")
    told = refusal(f"inspect {MLP} --weights cut.pt2")
    assert "cut.pt2 is a whole model, and not a state dict: name it as the model." in told
    assert "`dni-fx recouple cut.pt2 -o weights.safetensors`" in told
    run("recouple cut.pt2 -o weights.safetensors")
    assert run(f"inspect {MLP} --weights weights.safetensors")


def test_a_training_checkpoint_is_told_from_weights_and_the_run_can_go_on(tmp_path):
    train = f"train {MLP} --data dni_fx.demo:clusters --batch-size 512 --checkpoint run.ckpt"
    run(train)
    told = refusal(f"inspect {MLP} --weights run.ckpt")
    assert "run.ckpt is a training checkpoint, and not a state dict." in told
    assert "--checkpoint run.ckpt --resume -o trained.pt2" in told
    run(f"{train} --resume -o trained.pt2")
    assert (tmp_path / "trained.pt2").is_file()


def test_weights_of_another_model_are_refused_with_some_names_of_each_kind():
    model, _ = demo.mlp()
    state = model.state_dict()
    names = list(state)
    wide, bias = names[0], names[-1]
    state |= {wide: torch.zeros(2, 2)} | {f"extra{at}": torch.zeros(1) for at in range(5)}
    del state[bias]
    torch.save(state, "other.pt")
    told = refusal(f"inspect {MLP} --weights other.pt")
    needed = tuple(model.state_dict()[wide].shape)
    assert told == (
        f"dni-fx: the weights in other.pt do not fit {type(model).__name__}: 1 missing ({bias}); "
        f"5 not in the model (extra0, extra1, extra2, ...); 1 of other shapes ({wide} (2, 2) there, {needed} "
        "needed). Are they of another model?"
    )


def test_what_a_model_refuses_by_itself_is_told_in_its_own_words(tmp_path):
    source = """
class Picky(nn.Linear):
    def load_state_dict(self, *args, **kwargs):
        raise RuntimeError("only weights of spring")

def make():
    return Picky(2, 2)
"""
    module(tmp_path, "weights_picky", source)
    torch.save(nn.Linear(2, 2).state_dict(), "fits.pt")
    told = refusal("inspect weights_picky:make --weights fits.pt")
    assert "do not fit Picky: only weights of spring" in told
