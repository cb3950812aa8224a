"""The pass that cuts time, on graphs of layers and of loops."""

import pytest
import torch
from torch import nn

from passes import PASSES, Boundary, Pipeline, PreconditionError, boundaries, parse
from passes.boundary import moments
from passes.chunk_time import ChunkTime, chunkings
from passes.mark_boundaries import MarkBoundaries
from passes.plan import Plan
from passes.split_stages import split_stages
from tests.passes.recurrent import CORE, Net, Sums, exported, traced

NETS = {
    "layer as operator": lambda: exported(Net(batch_first=True, num_layers=2)),
    "layer as module": lambda: traced(Net(batch_first=True, num_layers=2)),
    "loop": lambda: exported(Sums()),
}


def called(gm):
    """How often a run calls the boundary."""
    ((_, spec), *_) = moments(gm)
    calls = []
    gm.get_submodule(spec.path).register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_the_same_and_calls_one_boundary_between_chunks(name):
    gm = NETS[name]()
    x = torch.randn(2, 9, 3)
    chunked = Pipeline((ChunkTime(4),)).run(gm)
    calls = called(chunked)
    torch.testing.assert_close(chunked(x), gm(x), rtol=0, atol=1e-6)
    assert len(calls) == 2
    assert len({spec for _, spec in moments(chunked)}) == 1
    assert list(boundaries(chunked)) == []
    assert all(isinstance(each, Boundary) for each in chunked.dni.children())


@pytest.mark.parametrize("name", NETS)
def test_erasing_gives_the_graph_back(name):
    gm = NETS[name]()
    again = Pipeline((ChunkTime(4), parse("erase-boundaries", PASSES))).run(gm)
    assert [str(node.target) for node in again.graph.nodes] == [str(node.target) for node in gm.graph.nodes]
    assert [node.name for node in again.graph.nodes] == [node.name for node in gm.graph.nodes]
    x = torch.randn(2, 9, 3)
    torch.testing.assert_close(again(x), gm(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_stages_own_the_parameters_of_what_runs_in_chunks(name):
    gm = NETS[name]()
    plan = Plan({node.meta["anchor"]: 0 for node in gm.graph.nodes if "anchor" in node.meta})
    (part,) = split_stages(Pipeline((ChunkTime(4), MarkBoundaries(plan))).run(gm), plan).parts
    assert sorted(part.parameters) == sorted(name for name, _ in gm.named_parameters())


def test_time_that_is_cut_is_not_cut_again():
    chunked = Pipeline((ChunkTime(4),)).run(NETS["loop"]())
    with pytest.raises(PreconditionError, match="time is cut already: again_in_time"):
        Pipeline((ChunkTime(2),)).run(chunked)


def test_patterns_say_what_is_cut():
    assert not list(moments(Pipeline((ChunkTime(4, ("other",)),)).run(NETS["layer as module"]())))
    assert list(moments(Pipeline((ChunkTime(4, ("co*",)),)).run(NETS["layer as module"]())))


def test_text_names_the_pass_and_a_plan_has_one_for_each_length():
    assert parse("chunk-time:every=4,module=core", PASSES) == ChunkTime(4, ("core",))
    passes = chunkings({CORE: 4, "a": 8, "b": 4})
    assert list(map(str, passes)) == ["chunk-time:every=4,module=core+b", "chunk-time:every=8,module=a"]


def test_it_refuses_chunks_of_nothing_and_layers_that_look_ahead():
    with pytest.raises(PreconditionError, match="a chunk has 1 step or more"):
        Pipeline((ChunkTime(0),)).run(NETS["loop"]())
    with pytest.raises(PreconditionError, match="core cannot be cut in time: it is bidirectional"):
        Pipeline((ChunkTime(4),)).run(traced(Net(nn.GRU, bidirectional=True)))


def test_it_refuses_a_state_that_is_written_to_in_place():
    class Writes(Sums):
        def forward(self, x):
            h = x[:, 0, :1] + x.new_zeros(x.shape[0], 4)
            for t in range(x.shape[1]):
                h += torch.tanh(self.into(x[:, t]) + self.again(h))
            return h

    with pytest.raises(PreconditionError, match=r"writes to .* write h = h \+ x"):
        Pipeline((ChunkTime(4),)).run(exported(Writes()))
