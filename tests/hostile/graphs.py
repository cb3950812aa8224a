"""Graphs that would run code, or fill the memory, if a reader believed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.hostile.good import GRAPH, META, Cases, edited, members, put, with_member

CANARY = "hostile_canary"
"""A module that leaves a mark when it is imported."""

_IMPORT = f"__import__('{CANARY}')"
_FIRST = "graph_module.graph.nodes.0"
_CALL = "graph_module.module_call_graph.0.signature"
_LEAF = {"type": None, "context": None, "children_spec": []}
_ENUM = {"__enum__": True, "fqn": f"{CANARY}:Kind", "name": "a"}


def targets() -> Cases:
    for target in [
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.warn.default",
        "torch.ops.aten.manual_seed.default",
        "torch.ops.aten._dir.append",
        "torch.ops.aten.name.format",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.add.__call__",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.image.write_file.default",
        "torch.ops.prim.Print.default",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.with_effects",
        "torch._higher_order_ops.wrap.wrap",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.factorial",
        "builtins.eval",
        "os.system",
        "eval",
        "#registry.op",
        "",
    ]:
        yield f"target {target}", edited(GRAPH, lambda g, t=target: put(g, f"{_FIRST}.target", t))
    for value in (None, 3, [], ["torch.ops.aten.add.Tensor"], {"a": 1}):
        yield f"target {value}", edited(GRAPH, lambda g, v=value: put(g, f"{_FIRST}.target", v))


def expressions() -> Cases:
    for text in [
        _IMPORT,
        f"{_IMPORT} or Symbol('s0')",
        f"(lambda: {_IMPORT})()",
        f"[{_IMPORT} for s0 in (1,)]",
        f"Symbol({_IMPORT})",
        f"Max(s0, exec('import {CANARY}'))",
        f"sympify('{_IMPORT}')",
        "Symbol('s0').__class__.__bases__[0].__subclasses__()",
        "getattr(s0, '__class__')",
        "open('canary', 'w')",
        "9**9**9**9",
        "LShift(1, 10**12)",
        "(" * 2000 + "s0" + ")" * 2000,
        "s0 + " * 2000 + "s0",
        "s0 if s0 else 1",
        "Symbol('__class__')",
        "s0\nimport os",
        "",
        "\N{MATHEMATICAL SANS-SERIF SMALL S}0",
        "f'{s0}'",
    ]:
        yield f"size {text!r:.60}", edited(GRAPH, lambda g, t=text: _first_size(g).update(expr_str=t))
    for value in (3, None, [], {"expr_str": "s0"}):
        yield f"size {value}", edited(GRAPH, lambda g, v=value: _first_size(g).update(expr_str=v))
    yield "a range of code", edited(GRAPH, lambda g: put(g, f"range_constraints.{_IMPORT}", {}))
    for value in ("1", [1], 1.5, 2**70):
        bounds = {"min_val": value, "max_val": None}
        yield f"a range from {value}", edited(GRAPH, lambda g, b=bounds: put(g, "range_constraints.*", b))
    yield "a hint of text", edited(GRAPH, lambda g: _first_size(g).update(hint={"as_int": _IMPORT}))


def names() -> Cases:
    for name in ("a b", "a\nimport os", "class", "a.b", "f()", 'x"', 3, [], None):
        for path in (f"{_CALL}.forward_arg_names.0", "graph_module.graph.inputs.0.as_tensor.name"):
            yield f"{path} {name!r}", edited(GRAPH, lambda g, p=path, n=name: put(g, p, n))
    path = "graph_module.signature.input_specs.0.parameter.parameter_name"
    for name in (f'a"); {_IMPORT}; ("', "a\\", "a'b", "", "..", "class", "no.such", 3, None):
        yield f"parameter {name!r}", edited(GRAPH, lambda g, n=name: put(g, path, n))


def trees() -> Cases:
    factory = {"default_factory_module": CANARY, "default_factory_name": "x", "dict_context": []}
    hidden = json.dumps(_ENUM).replace("__enum__", "__en\\u0075m__")
    contexts = {
        "an enumeration": ("builtins.tuple", json.dumps(_ENUM)),
        "a hidden enumeration": ("builtins.tuple", hidden),
        "an enumeration as key": ("builtins.dict", json.dumps([_ENUM])),
        "a factory": ("collections.defaultdict", factory),
        "a class of somebody": (f"{CANARY}.Kind", "null"),
        "a named tuple of somebody": ("collections.namedtuple", f"{CANARY}.Kind"),
        "a data class with code": ("dni_fx.fields.Fields", ["a:A", [f"x={_IMPORT}"], False]),
        "a data class without fields": ("dni_fx.fields.Fields", ["a:A", ["x", "y"], False]),
        "a named tuple with code": ("dni_fx.fields.Fields", [f"a:{_IMPORT}", ["x"], True]),
        "a number": (3, "null"),
    }
    for said, (kind, context) in contexts.items():
        tree = json.dumps([1, {"type": kind, "context": context, "children_spec": [_LEAF]}])
        tree = tree.replace("defaultdict", "default\\u0064ict")
        for where, path in [(GRAPH, f"{_CALL}.in_spec"), (GRAPH, f"{_CALL}.out_spec"), (META, "meta.result")]:
            yield f"{said} in {path}", edited(where, lambda g, p=path, t=tree: put(g, p, t))
        yield f"{said} in a call", edited(META, lambda g, t=tree: put(g, "meta.call.spec", t))
    yield "keywords of code", edited(GRAPH, _with_keywords)
    for tree in ("", "[]", "[1]", "[9, null]", "[1, [[[", "null", "[1, {}]", "[" * 5000):
        yield f"a tree {tree:.10}", edited(GRAPH, lambda g, t=tree: put(g, f"{_CALL}.in_spec", t))


def arguments() -> Cases:
    """Arguments of calls that are none of the types that torch declares."""
    given = f"{_FIRST}.inputs.0.arg"
    for value in [
        {"as_custom_obj": {"name": "a", "class_fqn": "b"}},
        {"as_operator": "torch.os.system"},
        {"as_graph": {"name": "a b", "graph": {}}},
        {"as_new_kind": 1},
        {"as_tensor": {"name": "nobody"}},
        {"as_tensor": "x"},
        {"as_int": "1"},
        {"as_int": 2**200},
        {"as_ints": [1, "a"]},
        {"as_device": {"type": 3}},
        {"as_device": {"type": "nowhere", "index": None}},
        {"as_int": 1, "as_bool": True},
        {},
        [],
        3,
    ]:
        yield f"argument {value!r:.50}", edited(GRAPH, lambda g, v=value: put(g, given, v))
    for target, kind, value in [
        ("_operator.mul", "as_string", "a"),
        ("_operator.mul", "as_ints", [1]),
        ("_operator.pow", "as_int", 10**9),
        ("_operator.lshift", "as_int", 10**12),
    ]:
        inputs = [{"name": "", "arg": arg, "kind": 1} for arg in ({"as_int": 2}, {kind: value})]
        edit = partial(_with_call, target=target, inputs=inputs)
        yield f"{target} of {kind} {value}", edited(GRAPH, edit)


def shapes() -> Cases:
    """JSON that is none, is too much, or is of something else."""
    for text in [b"", b"{", b"[]", b"null", b'{"a": 1}', b"[" * 100_000, b"\xff\xfe", b"1e999", b"NaN"]:
        yield f"graph {text[:8]!r}", with_member(GRAPH, text)
    good = members()[GRAPH]
    yield (
        "an infinity",
        with_member(GRAPH, good.replace(b'"schema_version"', b'"x": Infinity, "schema_version"')),
    )
    yield "a long number", with_member(GRAPH, good.replace(b'"as_int": 4', b'"as_int": ' + b"9" * 5000, 1))
    for path, value in [
        ("schema_version.major", 99),
        ("schema_version", None),
        ("verifiers.0", "NOBODY"),
        ("graph_module.graph", {}),
        ("graph_module.graph.nodes", []),
        ("graph_module.graph.inputs", []),
        ("graph_module.graph.outputs", []),
        ("graph_module.graph.tensor_values", {}),
        ("graph_module.graph.tensor_values.*.dtype", 99),
        ("graph_module.graph.tensor_values.*.sizes", [{"as_int": -5}]),
        ("graph_module.graph.tensor_values.*.sizes", [{"as_int": 2**62}] * 4),
        ("graph_module.graph.tensor_values.*.device.type", "nowhere"),
        ("graph_module.signature.input_specs", []),
        ("graph_module.module_call_graph", []),
        ("graph_module.metadata", []),
        (f"{_FIRST}.metadata", {"custom": "[" * 5000}),
        (f"{_FIRST}.metadata", {"nn_module_stack": "a"}),
        (f"{_FIRST}.outputs", []),
    ]:
        yield f"{path} {value!r:.30}", edited(GRAPH, lambda g, p=path, v=value: put(g, p, v))


def _with_call(program: Any, target: str, inputs: list[Any]) -> None:
    node = dict(program["graph_module"]["graph"]["nodes"][0])
    node |= {
        "target": target,
        "inputs": inputs,
        "name": "made",
        "outputs": [{"as_sym_int": {"as_name": "made"}}],
    }
    program["graph_module"]["graph"]["sym_int_values"] = {"made": {"as_int": 1}}
    program["graph_module"]["graph"]["nodes"].insert(0, node)


def _with_keywords(program: Any) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    version, tree = json.loads(signature["in_spec"])
    tree["children_spec"][1] |= {"context": json.dumps([f"x={_IMPORT}"]), "children_spec": [_LEAF]}
    signature["in_spec"] = json.dumps([version, tree])


def _first_size(program: Any) -> dict[str, Any]:
    return next(_sizes(program))


def _sizes(program: Any) -> Iterator[dict[str, Any]]:
    for meta in program["graph_module"]["graph"]["tensor_values"].values():
        yield from (size["as_expr"] for size in meta["sizes"] if "as_expr" in size)
