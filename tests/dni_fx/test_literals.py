"""Values beside tensors that a model returns, out of a graph and into it again."""

import json

import pytest
import torch
from torch import fx

from dni_fx.errors import ExportError
from dni_fx.literals import leave_out_literals, literals_of, put_literals

VALUES = ["text", 1, torch.bfloat16, 2.5, torch.device("meta"), None]


def graph_returning(values):
    graph = fx.Graph()
    graph.output([graph.placeholder("x"), *values])
    return graph


def returned(graph):
    return next(iter(reversed(graph.nodes))).args[0][1:]


def test_a_graph_without_its_literals_gets_them_back_from_json():
    graph = graph_returning(VALUES)
    literals = json.loads(json.dumps(literals_of(graph)))
    leave_out_literals(graph)
    assert returned(graph) == [None, 1, None, 2.5, None, None]
    put_literals(graph, literals)
    assert returned(graph) == VALUES


def test_a_value_that_json_cannot_hold_is_refused():
    with pytest.raises(ExportError) as caught:
        literals_of(graph_returning(["text", 1j]))
    assert str(caught.value) == (
        "cannot write the graph to a file: it returns a complex (output 2), which a file cannot hold. Return "
        "tensors, numbers, text, a dtype or a device."
    )


@pytest.mark.parametrize(
    "damaged",
    [
        [1, "code", "x"],
        [1, "dtype", "torch.load"],
        [1, "device", "nowhere"],
        ["a", "text", "x"],
        [1, "text"],
        1,
    ],
)
def test_what_describes_no_value_is_a_type_or_key_error(damaged):
    with pytest.raises((TypeError, KeyError)):
        put_literals(graph_returning([None]), [damaged])
