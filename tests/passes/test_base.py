import dataclasses
import re

import pytest
from torch import fx

from passes import (
    InvalidGraphError,
    Pass,
    Pipeline,
    PostconditionError,
    PreconditionError,
    copy_graph,
)
from tests.passes.marked import captured


@dataclasses.dataclass(frozen=True)
class Nothing(Pass):
    name = "nothing"

    def apply(self, gm):
        return False


@dataclasses.dataclass(frozen=True)
class UsesBeforeDefinition(Pass):
    name = "uses-before-definition"

    def apply(self, gm):
        first, last = list(gm.graph.nodes)[1], list(gm.graph.nodes)[-2]
        first.args = (last,)
        return True


@dataclasses.dataclass(frozen=True)
class PromisesTheMoon(Pass):
    name = "promises-the-moon"

    how_many: int = 1

    def apply(self, gm):
        return False

    def ensures(self, gm):
        yield "there is no moon"
        yield "nor a second one"


@dataclasses.dataclass(frozen=True)
class Picky(Nothing):
    name = "picky"

    def requires(self, gm):
        yield "not this one"


@dataclasses.dataclass(frozen=True)
class Renames(Pass):
    name = "renames"

    def apply(self, gm):
        next(iter(gm.graph.nodes)).name = "renamed"
        return True


def test_a_pass_that_breaks_the_graph_is_named():
    with pytest.raises(
        InvalidGraphError, match=r"^uses-before-definition left an invalid graph:\n  \* .*before it"
    ):
        Pipeline((UsesBeforeDefinition(),)).run(captured("chain"))


def test_a_broken_promise_lists_all_of_it_and_says_which_pass_of_which_pipeline():
    says = "promises-the-moon:how_many=2 broke its promise:\n  * there is no moon\n  * nor a second one"
    with pytest.raises(PostconditionError, match=f"^{re.escape(says)}") as caught:
        Pipeline((Nothing(), PromisesTheMoon(how_many=2))).run(captured("chain"))
    assert str(caught.value) == says
    assert caught.value.__notes__ == ["in pass 2 of 2: nothing then promises-the-moon:how_many=2"]


def test_a_pass_that_refuses_does_not_run():
    with pytest.raises(
        PreconditionError, match=r"^cannot run picky:\n  \* not this one\nin pass 1 of 1: picky$"
    ):
        Pipeline((Picky(),)).run(captured("chain"))


def test_the_observer_sees_every_pass_after_it_ran_and_whether_it_changed_anything():
    seen = []
    gm = captured("chain")
    result = Pipeline((Nothing(), Renames())).run(
        gm, lambda each, gm, changed: seen.append((each, gm, changed))
    )
    assert seen == [(Nothing(), result, False), (Renames(), result, True)]
    assert next(iter(result.graph.nodes)).name == "renamed"
    assert next(iter(gm.graph.nodes)).name == "x"


def test_a_copy_has_its_own_graph_over_the_same_modules():
    gm = captured("batch-norm")
    twin = copy_graph(gm)
    assert str(twin.graph) == str(gm.graph)
    assert set(twin.graph.nodes).isdisjoint(gm.graph.nodes)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in gm.parameters()}
    assert {id(b) for b in twin.buffers()} == {id(b) for b in gm.buffers()}
    assert isinstance(twin, fx.GraphModule)
