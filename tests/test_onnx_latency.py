"""In onnxruntime a cut model is the uncut one."""

import pytest

from tests.benchmarks import onnx_latency
from tests.benchmarks.learning.nets import GPT
from tests.benchmarks.onnx_latency import NETS, measure, table_of


@pytest.fixture(autouse=True)
def small(monkeypatch):
    def gpt():
        _, ids = NETS["gpt"]()
        return GPT(64, 64, 3, 32), ids

    monkeypatch.setattr(onnx_latency, "NETS", {**NETS, "gpt": gpt})


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_leaves_no_node_of_the_boundaries(name):
    found = measure(name, stages=3, rounds=2)
    uncut, cut = found.in_file
    assert found.interfaces == cut - uncut == 2
    assert found.optimized[0] == found.optimized[1]


def test_the_table_has_a_line_for_each_net():
    found = measure("mlp", stages=3, rounds=3)
    assert table_of([found]).columns[0].header == "net"
    assert table_of([found, found]).row_count == 2
