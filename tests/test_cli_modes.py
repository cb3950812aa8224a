"""Graphs that were exported in one mode; what is printed on which stream; passes that are shown."""

import json

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import CaptureError
from dni_fx.single_mode import in_both_modes, mode_of, refuse_eval_graph
from tests.commands import MLP, both, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)]
    return nn.Sequential(*layers)


def exported(model, name):
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (torch.randn(8, 64),), dynamic_shapes=sizes), name)


CLUSTERS = "--data dni_fx.demo:clusters --batch-size 256"


@pytest.mark.parametrize(
    ("mode", "model"),
    [("train", net()), ("eval", net().eval()), ("any", nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 10)))],
)
def test_the_mode_of_a_foreign_file_is_told(mode, model):
    exported(model, "foreign.pt2")
    assert json.loads(run("inspect foreign.pt2 --json"))["mode"] == mode
    assert any(line.split() == ["mode", mode] for line in run("inspect foreign.pt2").splitlines())
    allowed = "--allow-eval-graph" if mode == "eval" else ""
    command = f"train foreign.pt2 {CLUSTERS} --plan balanced:stages=2 {allowed}"
    assert json.loads(run(f"{command} --json"))["mode"] == mode
    assert run(command).startswith("foreign.pt2 ")


@pytest.mark.parametrize("command", ["decouple foreign.pt2 -o cut.pt2", f"train foreign.pt2 {CLUSTERS}"])
def test_an_eval_graph_is_not_trained_unless_that_is_allowed(command, tmp_path):
    exported(net().eval(), "foreign.pt2")
    said = refusal(command)
    for part in ("exported in eval mode", "dropout", "batch norm", "model.train()", "--allow-eval-graph"):
        assert part in said
    assert not (tmp_path / "cut.pt2").exists()
    run(f"{command} --allow-eval-graph")


@pytest.mark.parametrize("command", ["inspect", "plan", "verify"])
def test_who_only_looks_may_look_at_an_eval_graph(command):
    exported(net().eval(), "foreign.pt2")
    assert run(f"{command} foreign.pt2 --plan balanced:stages=2")


def test_an_eval_graph_that_is_trained_keeps_its_statistics_and_draws_no_masks():
    exported(net().eval(), "foreign.pt2")
    run(f"train foreign.pt2 {CLUSTERS} --allow-eval-graph -o cut.pt2")
    before, after = net().state_dict(), dni_fx.load("cut.pt2").state_dict()
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(before["0.weight"], after["0.weight"])
    cut = dni_fx.load("cut.pt2")
    x = torch.randn(4, 64)
    assert torch.equal(cut.train()(x), cut(x))
    assert torch.equal(cut(x), cut.eval()(x))
    assert any(
        "stands in for this one" in line for line in json.loads(run("inspect cut.pt2 --json"))["history"]
    )


def test_modes_of_programs():
    program = dni_fx.capture(net(), torch.randn(8, 64))
    assert mode_of(program) == ""
    assert in_both_modes(program) is program
    exported(net().eval(), "foreign.pt2")
    found = dni_fx.load_program("foreign.pt2")
    assert mode_of(found) == "eval"
    assert mode_of(in_both_modes(found)) == "any"
    with pytest.raises(CaptureError, match="do this"):
        refuse_eval_graph(found, "do this")


def chatty(tmp_path, name):
    module(
        tmp_path,
        name,
        "from dni_fx import demo\n"
        "def make():\n    print('making a model')\n    return demo.mlp()\n"
        "def data():\n    print('reading data')\n    return demo.clusters()\n",
    )
    return f"{name}:make", f"{name}:data"


@pytest.mark.parametrize(
    "command", ["inspect {0}", "verify {0}", "plan {0}", "train {0} --data {1}", "decouple {0} -o c.pt2"]
)
def test_json_is_all_there_is_on_stdout_whatever_a_model_prints(command, tmp_path):
    model, data = chatty(tmp_path, f"chatty_{command.split()[0]}")
    out, err = both(f"{command.format(model, data)} --json")
    assert isinstance(json.loads(out), dict)
    assert "making a model" in err


def test_a_plan_is_all_there_is_on_stdout_whatever_a_model_prints(tmp_path):
    model, _ = chatty(tmp_path, "chatty_writer")
    out, err = both(f"plan {model} -o -")
    assert json.loads(out)["stage_of"]
    assert "making a model" in err


def test_a_plan_comes_in_on_stdin():
    plan = run(f"plan {MLP} --plan at:after=3 -o -")
    assert run(f"plan {MLP} --plan - -o -", stdin=plan) == plan
    facts = json.loads(run(f"inspect {MLP} --plan - --json", stdin=plan))
    assert [each["boundary"] for each in facts["boundaries"]] == ["3"]


def test_no_plan_on_stdin_is_refused():
    assert "plan" in refusal(f"plan {MLP} --plan -")


@pytest.mark.parametrize("command", ["inspect", "plan", "decouple"])
def test_the_graph_is_printed_on_stderr_after_every_pass(command):
    write = "-o cut.pt2" if command == "decouple" else ""
    out, err = both(f"{command} {MLP} --plan at:after=3 {write} --print-after-all --json")
    assert json.loads(out)
    titles = [line for line in err.splitlines() if line.startswith("# ")]
    assert titles[0].startswith("# captured: ")
    assert titles[1].startswith("# after pass 1, mark-boundaries: ")
    before, after = err.split(titles[1])
    assert "dni_3" not in before
    assert "dni_3" in after or "dni.3" in after


def test_layers_that_are_cut_in_time_have_a_pass_of_their_own(tmp_path):
    module(
        tmp_path,
        "timed_net",
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.core, self.out = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)\n"
        "    def forward(self, x):\n        return self.out(self.core(x)[0])\n"
        "def make():\n    return Net(), torch.randn(2, 8, 3)\n",
    )
    _, err = both("plan timed_net:make --plan time:every=4 --print-after-all")
    assert [
        line.split(",")[1].split(":")[0].strip() for line in err.splitlines() if line.startswith("# after")
    ] == [
        "chunk-time",
        "mark-boundaries",
    ]


def test_the_graphs_of_a_cut_file_are_printed():
    run(f"decouple {MLP} -o cut.pt2")
    _, err = both("inspect cut.pt2 --print-after-all")
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("# ")] == [
        "# captured",
        "# after all passes",
    ]


@pytest.mark.parametrize(("mode", "lacking"), [("eval", "train"), ("train", "eval")])
def test_what_is_said_of_the_mode_that_a_file_lacks_is_told_to_be_of_the_other_one(mode, lacking):
    exported(net().train(mode == "train"), "foreign.pt2")
    run("decouple foreign.pt2 --allow-eval-graph -o cut.pt2")
    for file in ("foreign.pt2", "cut.pt2"):
        assert f"there is no graph of {lacking} mode to check" in run(f"verify {file}")
        assert json.loads(run(f"verify {file} --json"))["mode_without_graph"] == lacking
    assert json.loads(run(f"verify {MLP} --json"))["mode_without_graph"] == ""


@pytest.mark.parametrize(("mode", "lacking"), [("eval", "train"), ("train", "eval")])
def test_a_plain_file_says_so_where_it_gets_the_graph_of_the_mode_that_was_not_asked_for(mode, lacking):
    exported(net().train(mode == "train"), "foreign.pt2")
    run("decouple foreign.pt2 --allow-eval-graph -o cut.pt2")
    out, err = both(f"recouple cut.pt2 -o plain.pt2 --mode {lacking} --json")
    assert f"no graph of {lacking} mode" in err
    assert json.loads(out)["mode"] == mode == json.loads(run("inspect plain.pt2 --json"))["mode"]
    assert json.loads(run(f"recouple cut.pt2 -o plain.pt2 --mode {mode} --json"))["mode"] == mode
