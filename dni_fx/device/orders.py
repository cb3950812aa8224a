"""Follows the orders of a step: one graph after another, on tensors by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dni_fx.device.errors import DeviceError
from dni_fx.device.graphs import BUFFER, NEW, Graphs
from dni_fx.device.manifest import Order
from dni_fx.device.store import Array

_ADDED = ("g:", "gp:")


def follow(orders: Iterable[Order], graphs: Graphs, given: Mapping[str, Array]) -> dict[str, Array]:
    """What is left when all orders are done, of what was `given` and of what graphs have written.

    Buffers are kept in the store at the end, since what runs a stage again has to see them as they were.

    Raises:
        DeviceError: a graph cannot be read, or does not run, or wants what nobody gives.
    """
    values, buffers = dict(given), dict[str, Array]()
    try:
        for order in orders:
            _obey(order, graphs, values, buffers)
    except KeyError as error:
        raise DeviceError(f"the folder is damaged: its orders want {error}, which nobody gives.") from None
    for name, each in buffers.items():
        graphs.store[name] = each
    return values


def _obey(order: Order, graphs: Graphs, values: dict[str, Array], buffers: dict[str, Array]) -> None:
    """Run one graph. It is a function of its own so that nothing is held while the next one runs."""
    renamed = {name: values[other] for name, other in order.reads.items()}
    zeros = {name: np.asarray(values[other] * 0) for name, other in order.zeros.items()}
    for name, each in graphs.run(order.graph, {**values, **renamed, **zeros}).items():
        if name.startswith(BUFFER):
            buffers[name.removeprefix(NEW)] = each
            if name in order.keeps:
                values[order.keeps[name]] = each
        elif name in values and name.startswith(_ADDED):
            values[name] = np.asarray(values[name] + each)  # without dimensions a sum is no array
        else:
            values[name] = each
    for name in order.drops:
        values.pop(name, None)
