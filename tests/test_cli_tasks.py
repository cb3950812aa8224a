"""Ten tasks of an engineer, each done by commands that `dni-fx --help` tells of, and its result looked at."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dni_fx
from dni_fx import demo
from tests.commands import MLP, failing, in_an_empty_folder, run

__all__ = ["in_an_empty_folder"]

DATA = "--data dni_fx.demo:clusters --batch-size 256"


def shown(command, **options):
    return json.loads(run(f"{command} --json", **options))


def exported():
    """A file as torch writes it, and the model that is in it."""
    model, x = demo.mlp()
    torch.export.save(torch.export.export(model, (x,)), "model.pt2")
    return model


def cut_in_four():
    model = exported()
    run("decouple model.pt2 --plan balanced:stages=4 -o cut.pt2")
    return model


def test_every_command_that_a_task_uses_is_in_the_help_text():
    commands = set(re.findall(r"^  (\w+) ", run("--help").partition("Commands:")[2], re.MULTILINE))
    assert commands >= {
        "inspect",
        "plan",
        "decouple",
        "verify",
        "train",
        "export",
        "recouple",
        "diff",
        "list",
    }


def test_task_1_see_what_is_in_a_file():
    model = exported()
    facts = shown("inspect model.pt2")
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["mode"] == "any"
    assert facts["nodes"] > 4


def test_task_2_cut_a_file_in_four():
    cut_in_four()
    facts = shown("inspect cut.pt2")
    assert [stage["stage"] for stage in facts["sheet"]["stages"]] == [0, 1, 2, 3]
    assert len(facts["boundaries"]) == 3


def test_task_3_move_a_value_to_another_stage_with_a_text_editor(tmp_path):
    exported()
    run("plan model.pt2 --plan at:after=1+3 -o plan.json")
    text = (tmp_path / "plan.json").read_text("utf-8")
    assert '"2:linear": 1' in text
    (tmp_path / "plan.json").write_text(text.replace('"2:linear": 1', '"2:linear": 0'), "utf-8")
    run("decouple model.pt2 --plan plan.json -o cut.pt2")
    anchors = [each["anchor"] for each in shown("inspect cut.pt2")["boundaries"]]
    assert anchors == ["2:linear", "3:relu"]
    assert json.loads(run("plan cut.pt2 -o -"))["stage_of"]["2:linear"] == 0


def test_task_4_prove_that_the_cut_model_computes_what_the_original_does():
    cut_in_four()
    report = shown("verify cut.pt2")
    assert report["ok"]
    assert {check["name"] for check in report["checks"]} >= {
        "forward in train mode is bit-identical",
        "gradients under oracle equal backprop's",
    }


def test_task_5_train_it_on_numbers_of_ones_own(tmp_path):
    cut_in_four()
    arrays = {name: each.numpy() for name, each in demo.clusters().items()}
    np.savez(tmp_path / "data.npz", **arrays)
    report = shown("train cut.pt2 --data data.npz --labels --epochs 3 --batch-size 64 -o trained.pt2")
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]
    assert report["test"]["accuracy"] > 0.9
    assert shown("inspect trained.pt2")["kind"] == "cut model"


def test_task_6_go_on_with_a_run_that_was_stopped():
    cut_in_four()
    run(f"train cut.pt2 {DATA} --epochs 2 --checkpoint whole.ckpt -o whole.pt2")
    run(f"train cut.pt2 {DATA} --epochs 1 --checkpoint part.ckpt")
    resumed = shown(f"train cut.pt2 {DATA} --epochs 2 --checkpoint part.ckpt --resume -o part.pt2")
    assert len(resumed["epochs"]) == 2
    assert shown("diff whole.pt2 part.pt2")["equal"]


def test_task_7_hand_it_to_another_runtime(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = cut_in_four()
    written = shown("export cut.pt2 -o model.onnx")
    assert len(written["interfaces"]) == 3
    x = torch.randn(5, demo.FEATURES)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(y - model(x).detach().numpy()).max() < 1e-5


def test_task_8_find_out_what_training_has_changed():
    cut_in_four()
    run(f"train cut.pt2 {DATA} -o trained.pt2")
    found = shown("diff cut.pt2 trained.pt2", exit_code=1)
    assert set(found["weights"]["numbers"]) == set(demo.mlp()[0].state_dict())
    assert found["plan"]["values"] == {"only_one": [], "only_other": [], "changed": {}}
    assert shown("diff cut.pt2 cut.pt2")["equal"]


def test_task_9_get_the_plain_model_back_with_what_it_has_learned():
    cut_in_four()
    run(f"train cut.pt2 {DATA} -o trained.pt2")
    run("recouple trained.pt2 -o plain.pt2")
    run("recouple trained.pt2 -o plain.safetensors")
    trained = dni_fx.recouple(dni_fx.load("trained.pt2")).eval()
    plain, _ = demo.mlp()
    plain.load_state_dict(load_file("plain.safetensors"))
    x = torch.randn(3, demo.FEATURES)
    assert torch.equal(plain(x), trained(x))
    assert torch.equal(torch.export.load("plain.pt2").module()(x), trained(x))


def test_task_10_choose_a_synthesizer_from_the_list():
    names = [entry["name"] for entry in shown("list synthesizers")["synthesizers"]]
    assert {"linear", "mlp", "critic", "zero"} <= set(names)
    exported()
    for name in ("linear", "critic"):
        run(f"decouple model.pt2 --plan at:after=3 --synthesizer {name} -o {name}.pt2")
        (boundary,) = shown(f"inspect {name}.pt2")["boundaries"]
        assert boundary["synthesizer"] == name


def test_and_a_report_of_a_bug_says_what_it_happened_on():
    assert shown("env")["packages"]["torch"] == torch.__version__
    assert "versions" in run("env --help").lower()
    assert MLP in run("--help")


@pytest.mark.filterwarnings("ignore::UserWarning")  # the run warns of what this is about
def test_a_run_whose_loss_is_not_finite_writes_what_was_asked_for_and_fails(tmp_path):
    command = "train dni_fx.demo:mlp --data dni_fx.demo:clusters --optimizer sgd --lr 1e30 --epochs 2"
    epochs = json.loads(run(f"{command} -o trained.pt2 --json", exit_code=1))["epochs"]
    assert epochs[-1]["loss"] is None
    assert (tmp_path / "trained.pt2").is_file()
    _, said = failing(f"{command} -o trained.pt2 --checkpoint run.ckpt")
    assert "trained.pt2 and run.ckpt hold such a run" in said
    _, said = failing(command)
    assert "such a run" not in said
