"""A plan means the same values whenever, and by whatever process, its model is captured again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dni_fx
from passes import Plan
from tests.zoo.checks import Subject

SUBJECTS = [
    *(Subject(name, "architectures", torch.float32) for name in ("gpt2", "t5")),
    *(Subject(name, "hand", torch.float64) for name in ("u-net", "two-cells", "mixture-of-experts")),
]
PLAN = "balanced:stages=3"


def program_of(subject, batch):
    args, kwargs = subject.call(batch)
    return dni_fx.capture(subject.model(), kwargs or args)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_model_that_is_captured_again_gets_the_same_plan(subject):
    one, other = (dni_fx.plan(program_of(subject, subject.batches[0]), PLAN) for _ in range(2))
    assert one.to_json() == other.to_json()
    assert str(one) == str(other)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_plan_from_json_fits_a_capture_at_another_batch_size(subject):
    plan = Plan.from_json(dni_fx.plan(program_of(subject, subject.batches[0]), PLAN).to_json())
    cut = dni_fx.decouple(program_of(subject, subject.batches[1]), plan=plan, synthesizer="zero")
    assert len(dni_fx.stages(cut)) == 3


def test_a_plan_does_not_depend_on_how_strings_are_hashed():
    code = (
        "from tests.test_plan_stability import *\n"
        "for subject in SUBJECTS[-3:]:\n"
        "    for policy in (PLAN, 'min-cut:stages=3', PLAN + ',width=3', 'balanced:stages=3,tied=true'):\n"
        "        print(dni_fx.plan(program_of(subject, 3), policy).to_json())\n"
    )
    root = Path(__file__).parents[1]
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        ).stdout
        for seed in ("0", "1")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count("stage_of") == 12
