"""What the commands print and write, and every example that a help text shows."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dni_fx
from dni_fx import demo, describe, verbs
from dni_fx.checks import Check, Report
from dni_fx.cli import commands
from passes import Plan
from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]

COMMANDS = tuple(request.name for request in commands.COMMANDS)


def examples(help_text):
    return re.findall(r"^ *dni-fx (.+)$", help_text.partition("Example:")[2], re.MULTILINE)


def test_the_module_runs_as_a_program_and_prints_its_help(tmp_path):
    root = str(Path(dni_fx.__file__).parents[1])
    command = [sys.executable, "-m", "dni_fx", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert all(re.search(rf"^  {command} ", done.stdout, re.MULTILINE) for command in COMMANDS)
    assert not done.stderr


def test_without_arguments_the_help_is_printed():
    assert run("") == run("--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_both_help_options_print_the_same_text_with_an_example_of_the_command(command):
    (example,) = examples(run(f"{command} --help"))
    assert run(f"{command} -h") == run(f"{command} --help")
    assert example.startswith(command)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_example_in_the_help_text_runs_as_printed(command, tmp_path):
    (example,) = examples(run(f"{command} --help"))
    if command == "recouple":
        run(f"decouple {MLP} -o cut.pt2")
    if command == "export":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    run(example)
    if "-o" in shlex.split(example):
        assert (tmp_path / shlex.split(example)[-1]).stat().st_size > 0


def test_the_version_of_torch_is_printed():
    assert torch.__version__ in run("--version")


def test_the_help_text_tells_what_the_exit_codes_mean():
    text = run("--help")
    for code, meaning in (
        (0, "all went well"),
        (1, "a check failed"),
        (2, "wrong usage"),
        (130, "interrupted"),
    ):
        assert re.search(rf"^ *{code} +.*{meaning}", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_json_if_asked_and_those_that_write_can_be_tried(command):
    text = run(f"{command} --help")
    assert "--json" in text
    assert ("--dry-run" in text) == ("-o, --output" in text)


def test_inspect_counts_the_parameters_of_a_model():
    model, _ = demo.mlp()
    facts = json.loads(run(f"inspect {MLP} --json"))
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["kind"] == "model"


def test_inspect_shows_the_stages_and_boundaries_of_a_saved_cut(tmp_path):
    run(f"decouple {MLP} --plan balanced:stages=3 --synthesizer mlp:hidden=8 -o cut.pt2")
    facts = json.loads(run("inspect cut.pt2 --json"))
    assert facts["kind"] == "cut model"
    assert facts["plan"] == "balanced:stages=3"
    assert [stage["stage"] for stage in facts["sheet"]["stages"]] == [0, 1, 2]
    assert {boundary["synthesizer"] for boundary in facts["boundaries"]} == {"mlp:hidden=8"}
    assert all(boundary["shape"] == ["b", 128] for boundary in facts["boundaries"])


def test_inspect_prints_every_boundary_for_people_too():
    facts = json.loads(run(f"inspect {MLP} --plan balanced:stages=3 --json"))
    shown = run(f"inspect {MLP} --plan balanced:stages=3")
    assert all(f"{b['boundary']} " in shown for b in facts["boundaries"])
    assert len(facts["boundaries"]) == 2


def test_inspect_needs_no_example_to_count_parameters(tmp_path):
    module(tmp_path, "plain_linear", "def make():\n    return nn.Linear(3, 2)\n")
    facts = json.loads(run("inspect plain_linear:make --json"))
    assert facts == {"kind": "model", "class": "Linear", "parameters": 8, "trainable": 8}


def test_the_stages_of_a_plan_hold_every_parameter_and_every_value_once():
    model, example = demo.mlp()
    shown = json.loads(run(f"plan {MLP} --plan balanced:stages=3 --json"))
    stages = shown["sheet"]["stages"]
    assert sum(stage["parameters"] for stage in stages) == sum(p.numel() for p in model.parameters())
    assert sum(stage["nodes"] for stage in stages) == len(shown["plan"]["stage_of"]) == len(shown["nodes"])
    weights = [p.numel() for p in model.parameters() if p.dim() == 2]
    # forward, and backward for the weights; the example needs no gradient
    assert sum(stage["flops"] for stage in stages) == 2 * len(example) * (3 * sum(weights) - weights[0])


def test_what_crosses_in_the_plan_are_the_boundaries_of_the_cut():
    model, example = demo.mlp()
    shown = json.loads(run(f"plan {MLP} --plan balanced:stages=3 --json"))
    crossing = [each["boundary"] for stage in shown["sheet"]["stages"] for each in stage["crossings"]]
    assert crossing == list(dni_fx.boundaries(dni_fx.decouple(model, (example,), plan="balanced:stages=3")))


def test_a_plan_that_was_written_is_the_plan_that_is_carried_out(tmp_path):
    run(f"plan {MLP} --plan at:after=3 -o plan.json")
    written = Plan.from_json((tmp_path / "plan.json").read_text("utf-8"))
    run(f"decouple {MLP} --plan plan.json -o cut.pt2")
    assert describe.plan_of(dni_fx.load("cut.pt2")) == written
    assert len(written) == 2


def test_a_failed_command_leaves_the_plan_file_as_it_was(tmp_path):
    (tmp_path / "plan.json").write_text("precious", "utf-8")
    refusal(f"plan {MLP} --plan balanced:stages=300 -o plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert (tmp_path / "plan.json").read_text("utf-8") == "precious"


def test_synthesizers_are_chosen_by_pattern_and_the_rest_get_the_plain_one():
    command = f"inspect {MLP} --plan at:after=1+3+5 --synthesizer 3=mlp:hidden=8 --synthesizer linear --json"
    found = {b["boundary"]: b["synthesizer"] for b in json.loads(run(command))["boundaries"]}
    assert found == {"1": "linear", "3": "mlp:hidden=8", "5": "linear"}


def test_the_interface_reaches_every_boundary():
    facts = json.loads(run(f"inspect {MLP} --interface dni:warmup=7 --json"))
    assert all("warmup=7" in boundary["interface"] for boundary in facts["boundaries"])
    assert facts["boundaries"]


def test_interfaces_are_chosen_by_pattern_though_they_hold_an_equals_sign(tmp_path):
    command = f"{MLP} --plan at:after=1+3+5 --interface 3=dni:mix=0.5 --interface dni:warmup=7,fade=2"
    run(f"decouple {command} -o cut.pt2")
    for asked in (f"inspect {command} --json", "inspect cut.pt2 --json"):
        found = {b["boundary"]: b["interface"] for b in json.loads(run(asked))["boundaries"]}
        assert found == {"1": "dni:warmup=7,fade=2", "3": "dni:mix=0.5", "5": "dni:warmup=7,fade=2"}


def test_verify_exits_1_when_a_check_fails(monkeypatch):
    failed = Report((Check("forward", True, "fine"), Check("gradients", False, "apart")))
    monkeypatch.setattr(verbs, "verify", lambda cut, inputs: failed)
    assert "FAIL  gradients" in run(f"verify {MLP}", exit_code=1)
    assert json.loads(run(f"verify {MLP} --json", exit_code=1))["ok"] is False


def test_verify_reads_a_saved_cut(tmp_path):
    run(f"decouple {MLP} -o cut.pt2")
    report = json.loads(run("verify cut.pt2 --json"))
    assert report["ok"]
    assert all(check["ok"] for check in report["checks"])


def test_list_has_every_family_and_the_defaults_of_every_option():
    shown = json.loads(run("list --json"))
    assert tuple(shown) == describe.FAMILIES
    mlp = next(entry for entry in shown["synthesizers"] if entry["name"] == "mlp")
    assert mlp["options"]["depth"] == 1
    assert all(entry["about"].endswith(".") for entries in shown.values() for entry in entries)


def test_list_has_the_pass_that_takes_a_plan_and_export_names_the_file_that_it_writes():
    assert "  mark-boundaries\n" in run("list passes")
    assert ".onnx file" in run("export --help")


def test_list_prints_text_forms_that_parse(monkeypatch):
    shown = run("list synthesizers")
    assert "mlp:hidden=0,depth=1,activation=relu" in shown


def test_list_prints_every_option_of_an_interface():
    shown = run("list interfaces")
    for field in dataclasses.fields(dni_fx.Interface):
        assert f"{field.name}={field.default}" in shown


def test_stages_are_exported_to_a_folder_which_a_dry_run_only_tells(tmp_path):
    pytest.importorskip("onnxruntime")
    command = "export dni_fx.demo:mlp --plan balanced:stages=2 --exporter onnx-stages -o stages"
    assert "would write stages: " in run(f"{command} --dry-run")
    assert not (tmp_path / "stages").exists()
    assert "wrote stages: " in run(command)
    names = [path.name for path in sorted((tmp_path / "stages").iterdir())]
    assert names == ["manifest.json", "stage_0.onnx", "stage_1.onnx"]
    assert "wrote stages: " in run(command)
