"""What users get wrong on the command line: one message, an exit code, and nothing half done."""

import numpy as np
import pytest
import torch
from torch import nn

from dni_fx import demo
from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("inspect nothing", "factory"),
        ("inspect missing.pt2", "missing.pt2: No such file"),
        ("inspect missing.pt --allow-pickle", "no such file"),
        ("inspect no_such_module:make", "no module 'no_such_module'"),
        ("inspect dni_fx.demo:mpl", "Did you mean 'mlp'"),
        ("inspect dni_fx.demo:clusters", "returned a dict"),
        ("inspect dni_fx.demo:CLASSES", "is a int"),
        ("inspect dni_fx.cli.examples:read_example", "without arguments"),
        (f"inspect {MLP} --weights missing.pt", "No such file"),
        (f"plan {MLP} --example 32xx64", "^"),
        (f"plan {MLP} --example 32x64:flota32", "Known: bfloat16"),
        (f"plan {MLP} --example 32x64<5", "^"),
        (f"plan {MLP} --example 32x64:float32<5", "bounds integers"),
        (f"plan {MLP} --example 2x3:int64<0", "there are none"),
        (f"plan {MLP} --example 0x64", "an example without samples proves nothing"),
        (f"plan {MLP} --example 99999999999x64", "99999999999x64, which cannot be made"),
        (f"plan {MLP} --example 99999999999999999999x64:int64<5", "which cannot be made"),
        ("inspect :make", "'' is no name of a module"),
        ("inspect .demo:make", "'.demo' is no name of a module"),
        (f"plan {MLP} -o a.json --overlay ./a.json", "--output and --overlay are both a.json: name two"),
        (f"plan {MLP} --example 32x7", "fails on the example"),
        (f"plan {MLP} --plan balanecd", "Did you mean 'balanced'"),
        (f"plan {MLP} --plan balanced:stages=x", "cannot be read"),
        (f"plan {MLP} --plan missing.json", "cannot read the plan missing.json: No such file"),
        (f"plan {MLP} -o nowhere/plan.json", "cannot write nowhere/plan.json"),
        (f"plan {MLP} -o .", "it is a folder"),
        (f"plan {MLP} --picture plan.bmp", "cannot draw plan.bmp"),
        (f"plan {MLP} --overlay plan.json", "is something else"),
        (f"plan {MLP} --plan model.pt2", "model.pt2 is no plan, which is a .json file"),
        (f"plan {MLP} --plan stages=3", "write balanced:stages=3 or"),
        (f"verify {MLP} --interface warmup=3", "write dni:warmup=3."),
        (f"verify {MLP} --interface dni:warmup", "cannot read an interface here"),
        (f"plan {MLP} --memory lots", "is no size of memory"),
        (f"plan {MLP} --memory 8GiB --synthesizer mpl", "Did you mean 'mlp'"),
        (f"verify {MLP} --synthesizer mpl", "Did you mean 'mlp'"),
        (f"verify {MLP} --interface dmi", "Did you mean 'dni'"),
        (f"verify {MLP} --frontend exprot", "Did you mean 'export'"),
        (f"export {MLP} --exporter onxn -o m.onnx", "Did you mean 'onnx'"),
        (f"train {MLP} --data nothing --plot plot.gif", "a plot is a .png or .svg file"),
        (f"train {MLP} --data missing.npz", "missing.npz: No such file"),
        (f"train {MLP} --data nothing", "x_train"),
        (f"train {MLP} --data dni_fx.demo:FEATURES", "is a int"),
        (f"train {MLP} --data dni_fx.demo:clusters --runtime locla", "Did you mean 'local'"),
        (
            f"train {MLP} --data dni_fx.demo:clusters --runtime local:devices=cpu+meta",
            "stages on meta: there is",
        ),
        (f"train {MLP} --data dni_fx.demo:clusters --loss mse", "targets of the output's shape"),
        (
            f"train {MLP} --data dni_fx.demo:clusters --synthesizer local-head",
            "none. Pass --labels, or choose",
        ),
    ],
)
def test_a_wrong_request_ends_in_one_message_that_says_what_to_do(command, says):
    said = refusal(command)
    assert says in said
    assert said.startswith("dni-fx: ")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("decouple", "MODEL"),
        (f"decouple {MLP}", "--output"),
        (f"inspect {MLP} --no-such-option", "--no-such-option"),
        ("inspect cut.pt2 --weights weights.pt", "--weights"),
        (f"verify {MLP} --synthesizer linear --synthesizer zero", "two synthesizers"),
        (f"verify {MLP} --interface 1=dni --interface 1=dni:mix=1", "two interfaces"),
        (f"train {MLP} --data dni_fx.demo:clusters --epochs 0", "--epochs"),
        ("list synthesisers", "Did you mean 'synthesizers'"),
        ("unknown", "unknown"),
        (f"plan {MLP} --memory 8GiB --optimizer adagrad", "sgd, momentum, adam"),
        (f"plan {MLP} -o - --json", "--output"),
    ],
)
def test_wrong_usage_exits_2(command, says):
    assert says in refusal(command, exit_code=2)


def test_a_place_that_cannot_be_written_is_found_before_any_work(monkeypatch):
    def work():
        raise AssertionError("the model was made")

    monkeypatch.setattr(demo, "mlp", work)
    commands = {f"decouple {MLP}": "pt2", f"export {MLP}": "onnx", f"train {MLP} --data {MLP}": "pt2"}
    for command, suffix in (commands | {f"plan {MLP}": "json"}).items():
        assert f"cannot write nowhere/file.{suffix}" in refusal(f"{command} -o nowhere/file.{suffix}")
    assert "cannot write nowhere/file.png" in refusal(f"train {MLP} --data {MLP} --plot nowhere/file.png")
    for option in ("--picture", "--overlay"):
        assert "cannot write nowhere/file" in refusal(f"plan {MLP} {option} nowhere/file")


def test_a_name_that_does_not_say_what_the_file_holds_is_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "mlp", None)  # calling it would fail in another way
    train = f"train {MLP} --data nothing"
    wanted = {f"decouple {MLP}": ".pt2", train: ".pt2", f"export {MLP}": ".onnx", f"recouple {MLP}": ".pth"}
    for command, suffix in wanted.items():
        assert "cannot write a binary file to stdout" in refusal(f"{command} -o -", 2)
        assert f"{suffix} file" in refusal(f"{command} -o x.txt", 2)
    assert "cannot write a binary file to stdout" in refusal(f"export {MLP} --exporter onnx-stages -o -", 2)
    assert not list(tmp_path.iterdir())


def test_a_cut_model_is_not_cut_again(tmp_path):
    run(f"decouple {MLP} -o cut.pt2")
    assert "cut already" in refusal("decouple cut.pt2 -o again.pt2")
    assert "--plan and --synthesizer would do nothing" in refusal(
        "verify cut.pt2 --plan at:after=3 --synthesizer zero", 2
    )
    assert "--plan would do nothing" in refusal("plan cut.pt2 --plan at:after=3", 2)
    assert not (tmp_path / "again.pt2").exists()


def test_a_plan_for_another_graph_is_refused(tmp_path):
    run(f"plan {MLP} -o plan.json")
    module(
        tmp_path,
        "other_net",
        "def make():\n    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.ones(8, 4)\n",
    )
    for command in ("verify", "plan", "inspect"):
        assert "belongs to another graph" in refusal(f"{command} other_net:make --plan plan.json")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"version": 99}', b"PK\x03\x04 a zip file"])
def test_a_file_that_is_no_plan_is_refused_with_what_writes_one(content, tmp_path):
    (tmp_path / "plan.json").write_bytes(content)
    said = refusal(f"plan {MLP} --plan plan.json")
    assert said.startswith("dni-fx: cannot read the plan plan.json: ")
    assert "`dni-fx plan MODEL -o plan.json` writes" in said


def test_what_an_incomplete_plan_lacks_is_named(tmp_path):
    (tmp_path / "plan.json").write_text('{"version": 1}', "utf-8")
    assert "it has no stage_of" in refusal(f"plan {MLP} --plan plan.json")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"text"])
@pytest.mark.parametrize(
    "command", [f"train {MLP} --data", f"inspect {MLP} --weights", "inspect --allow-pickle"]
)
def test_a_damaged_file_is_refused_by_name(content, command, tmp_path):
    name = "damaged.npz" if "--data" in command else "damaged.pt"
    (tmp_path / name).write_bytes(content)
    assert f"cannot read {name}" in refusal(f"{command} {name}").replace("refused to load", "cannot read")


def test_weights_that_would_run_code_are_refused_unread(tmp_path):
    torch.save({"0.weight": nn.Linear(2, 2)}, tmp_path / "weights.pt")
    assert "refused to load weights.pt" in refusal(f"inspect {MLP} --weights weights.pt")


def test_weights_of_another_model_are_refused_with_the_names_that_differ(tmp_path):
    torch.save({"0.weight": torch.zeros(2, 2)}, tmp_path / "weights.pt")
    said = refusal(f"inspect {MLP} --weights weights.pt")
    assert "do not fit" in said
    assert "0.bias" in said


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": np.zeros(3)}, "it has a"),
        ({"x": np.zeros((4, 64))}, "it has x"),
        ({"x": np.zeros((4, 64)), "y": np.zeros(3, int)}, "has 4 samples and y has 3"),
        ({"x": np.zeros((0, 64)), "y": np.zeros(0, int)}, "at least one"),
        ({"x": np.zeros(()), "y": np.zeros(())}, "a single number"),
        ({"x": np.zeros((4, 64)), "y": np.array(list("abcd"))}, "y is no array of numbers"),
        ({"x": np.zeros((4, 64)), "y": np.zeros((4, 1), int)}, "one class number for each row"),
        ({"x": np.zeros((4, 64)), "y": np.zeros(4)}, "of float32"),
        ({"x": np.array([object()] * 4), "y": np.zeros(4)}, "plain arrays"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(arrays, says, tmp_path):
    np.savez(tmp_path / "data.npz", **arrays)
    assert says in refusal(f"train {MLP} --data data.npz")


def test_batches_that_are_no_pairs_are_refused(tmp_path):
    module(
        tmp_path,
        "no_pairs",
        "def make():\n    return [torch.zeros(3, 64)]\ndef net():\n    return nn.Linear(64, 2)\n",
    )
    assert "pair of inputs and targets" in refusal("train no_pairs:net --data no_pairs:make")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(demo, "torch", None)
    with pytest.raises(AttributeError, match="NoneType"):
        run(f"inspect {MLP}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_train": 19}, "the training data of bad.npz has the label 19, and the model has 10 outputs"),
        ({"y_test": 12}, "the test data of bad.npz has the label 12, and the model has 10 outputs"),
    ],
)
def test_a_label_that_is_no_class_is_found_before_training(change, says):
    arrays = {"x_train": (64, 64), "x_test": (8, 64)}
    data = {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}
    data |= {"y_train": np.zeros(64, np.int64), "y_test": np.zeros(8, np.int64)}
    for name, label in change.items():
        data[name][-1] = label
    np.savez("bad.npz", **data)
    assert says in refusal(f"train {MLP} --data bad.npz -o cut.pt2")


def test_test_data_that_the_model_cannot_take_is_found_before_training(tmp_path):
    x, y = np.zeros((64, 64), np.float32), np.zeros(64, np.int64)
    np.savez("bad.npz", x_train=x, y_train=y, x_test=x[:, :5], y_test=y)
    assert "the model cannot take the test data of bad.npz" in refusal(
        f"train {MLP} --data bad.npz -o cut.pt2"
    )
    assert not (tmp_path / "cut.pt2").exists()


@pytest.mark.parametrize("choice", ["--synthesizer nosuch*=mlp", "--interface nosuch*=dni:mix=1"])
def test_a_choice_for_no_boundary_is_refused(choice):
    assert "no boundary matches nosuch*" in refusal(f"verify {MLP} {choice}")


def test_a_folder_for_tensorboard_that_is_a_file_is_found_before_any_work(tmp_path):
    (tmp_path / "runs").write_text("precious", "utf-8")
    assert "runs: it is a file" in refusal(f"train {MLP} --data nothing --tensorboard runs")
