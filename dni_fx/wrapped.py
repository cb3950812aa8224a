"""Regions of an exported program, each of which torch.export puts into a graph of its own.

What runs without gradients, or under autocast, is called there by an operator of higher order. torch.export
gives that call none of the marks of what it holds, and a call that returns nothing it writes to files that it
cannot read.
"""

from __future__ import annotations

from operator import attrgetter

from torch import Tensor, fx

_WRAPPERS = {"wrap_with_set_grad_enabled", "wrap_with_autocast"}


def mend_regions(module: fx.GraphModule) -> None:
    """Let each region bear the marks of what is in it, and return something; one without effect is taken out.

    A region that writes to a buffer, or draws random numbers, and returns nothing returns what it computed
    last. Changes the graphs of the module and of all its regions.
    """
    for node in list(module.graph.nodes):
        if getattr(node.target, "__name__", "") in _WRAPPERS:
            _mend(module, node)
    module.recompile()


def _mend(module: fx.GraphModule, call: fx.Node) -> None:
    (held,) = (each for each in call.args if isinstance(each, fx.Node) and each.op == "get_attr")
    region: fx.GraphModule = attrgetter(str(held.target))(module)
    mend_regions(region)
    computed = [node for node in region.graph.nodes if node.op == "call_function"]
    if marks := [node.meta["custom"] for node in computed if node.meta.get("custom")]:
        call.meta["custom"] = dict(marks[-1])
    if call.meta.get("val"):
        return
    if any(node.is_impure() for node in computed):
        _return_last(region, call, [node for node in computed if isinstance(node.meta.get("val"), Tensor)])
    else:
        module.graph.erase_node(call)
        if not held.users:
            module.graph.erase_node(held)


def _return_last(region: fx.GraphModule, call: fx.Node, tensors: list[fx.Node]) -> None:
    (output,) = region.graph.find_nodes(op="output")
    output.args = ((tensors[-1],),)
    call.meta["val"] = (tensors[-1].meta["val"],)
    region.recompile()
