"""A graph as a Python function of a module tree."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from typing import Any

from torch import fx

_numbers = itertools.count()


def compile_graph(graph: fx.Graph) -> Callable[..., Any]:
    """The function `f(tree, *placeholders)` that runs the graph on the modules of `tree`.

    It looks every module, parameter and buffer up by its path when it runs, so it sees what `.to()`,
    `load_state_dict(assign=True)` and the replacement of a submodule have done to the tree. It lets go
    of every value after its last reader.
    """
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    file = f"<dni_fx graph {next(_numbers)}>"
    linecache.cache[file] = (len(code.src), None, code.src.splitlines(keepends=True), file)
    exec(compile(code.src, file, "exec"), names)
    return names["forward"]
